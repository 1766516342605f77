"""Figures 1, 2, 3, 5 and 11: kill -9 at both ends, true states, torn files."""

from __future__ import annotations

import math
import shutil
import statistics
from collections import Counter
from typing import TYPE_CHECKING

from cardionets_core.errors import CardioNetsError
from simulations.faults.client_kills import VICTIMS, site_killed
from simulations.faults.client_kills import points as site_points
from simulations.faults.early import WORDS, early_killed
from simulations.faults.flower_side import flower_1, flower_2, flower_3, flower_5, flower_11
from simulations.faults.full_disk import full_disk
from simulations.faults.harness import own_caches
from simulations.faults.kills import hospitals, points, server_killed
from simulations.faults.row import Row, is_quick
from simulations.faults.torn import (
    damage_all,
    interrupted_run,
    kept_files,
    resumed_over,
    run_to_the_end,
)
from simulations.faults.truth import displayed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from simulations.faults.plan import Victim

SERVERS: tuple[Victim, ...] = ("ServerApp", "SuperLink")
RECOVERY_S = 15.0
STATE_S = 15.0
PLACES = 200


def figure_1(work: Path) -> Row:
    """Kill the coordinator's processes at each of eleven phases, and its ServerApp early."""
    early = early_killed(_shared(work))
    verdicts = {victim: server_killed(_shared(work), victim) for victim in SERVERS}
    asked = len(points())
    counts = ", ".join(f"{v} {verdicts[v].count(v)}/{asked}" for v in SERVERS)
    counts += f"; {WORDS}: {early.count('ServerApp')}"
    lost = sum(verdict.lost for verdict in (*verdicts.values(), early.verdict))
    whole = all(verdict.whole for verdict in (*verdicts.values(), early.verdict))
    wrong = [word for verdict in verdicts.values() for word in verdict.failed] + early.wrong
    return Row(
        figure=1,
        what=f"kill -9 of ServerApp and SuperLink at {asked} phases",
        target=f"{asked}/{asked} each, 0 rounds lost, the uninterrupted run's SHA-256",
        ours=_with(f"{counts}; {lost} rounds lost, {_same(whole)}", wrong),
        flower=flower_1(_flower(work)),
        met=whole and lost == 0 and not wrong,
    )


def figure_2(work: Path) -> Row:
    """Time from the kill of a coordinator's process until the sites are served again.

    A killed ServerApp takes the round in hand with it: it has recovered with the next training
    task. A round goes on under a killed SuperLink, whose recovery is its first answer to a site
    that has asked in vain; the next task comes only after the rest of that round. A kill after
    which nothing of the sort came counts as infinitely long.
    """
    app, link = (server_killed(_shared(work), victim) for victim in SERVERS)
    tasks = [seconds for seconds in app.recovered_s if seconds is not None]
    later = [seconds for seconds in link.recovered_s if seconds is not None]
    longest = max(_longest(tasks), _longest(link.answered_s))
    return Row(
        figure=2,
        what="seconds from kill -9 of the coordinator until its sites are served again",
        target=f"<= {RECOVERY_S:.0f} s, without a human step",
        ours=(
            f"ServerApp {_times(tasks)}, to the next training task at a site; "
            f"SuperLink {_times(link.answered_s)}, to its first answer to a site "
            f"(to the next training task, the rest of the round in hand included: {_times(later)})"
        ),
        flower=flower_2(_flower(work)),
        met=longest <= RECOVERY_S,
    )


def figure_3(work: Path) -> Row:
    """Kill a site's processes at each of eight phases, and a SuperNode in the handshake."""
    early = early_killed(_shared(work))
    verdict, asked = site_killed(_shared(work)), len(site_points())
    counts = ", ".join(f"{v} {verdict.count(v)}/{asked}" for v in VICTIMS)
    counts += f"; {WORDS}: {early.count('SuperNode')}"
    memory = "bit-identical" if verdict.memory and early.verdict.memory else "DIFFERENT"
    whole, wrong = verdict.whole and early.verdict.whole, [*verdict.failed, *early.wrong]
    return Row(
        figure=3,
        what=f"kill -9 of a site's client process and SuperNode at {asked} phases",
        target=f"{asked}/{asked} each: same site, its memory bit-identical",
        ours=_with(f"{counts}; memory {memory}, {_same(whole)}", wrong),
        flower=flower_3(_flower(work)),
        met=whole and verdict.memory and early.verdict.memory and not wrong,
    )


def figure_5(work: Path) -> Row:
    """Kill a server, then take a site's data away: what is displayed, and what is true."""
    truth = displayed(work)
    expected = f"INCOMPLETE({truth.site})"
    return Row(
        figure=5,
        what="ServerApp killed, then a site lost for good: the displayed state",
        target=f"INCOMPLETE naming the site; true within {STATE_S:.0f} s",
        ours=(
            f"{' > '.join((*truth.states, truth.last))}; summary.json {truth.summary}; "
            f"apart from the process table for {truth.longest_s:.1f} s at most"
        ),
        flower=flower_5(_flower(work)),
        met=truth.last == expected and truth.summary == "INCOMPLETE" and truth.longest_s <= STATE_S,
    )


def figure_11(work: Path) -> Row:
    """Cut and flip what a run keeps at 200 places, resume over damages, fill the disk."""
    places = 40 if is_quick() else PLACES
    base = interrupted_run(work)
    ends: Counter[str] = Counter()
    for counted in damage_all(base, places=places).values():
        ends.update(counted)
    resumed, ended = _resumed(work, base)
    disk = full_disk(base)
    found = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
    return Row(
        figure=11,
        what=f"bytes cut or flipped at {places} places of what a run and its sites keep; full disk",
        target=f"{places}/{places} found or harmless, generation before used, 0 crash loops",
        ours=_with(
            f"{found}; {resumed} of {ended} resumed over a damage end with the same SHA-256; "
            f"full disk: {'told, old generation whole' if not disk else 'NOT'}",
            disk,
        ),
        flower=flower_11(work),
        met=ends["MISSED"] == 0 and resumed == ended and not disk,
    )


def _resumed(work: Path, base: Path) -> tuple[int, int]:
    """Resume over a cut and a flipped bit of each of the coordinator's files but the plan.

    A site whose memory is torn goes on from none, and the record of the round says so: there the
    weights differ, as they must.
    """
    calm = work / "calm"
    shutil.copytree(base, calm)
    own_caches(hospitals(work), calm / "sites")
    expected, same, ended = run_to_the_end(calm), 0, 0
    for kept in kept_files(base):
        if kept.path.name == "config.json" or kept.path.name.startswith("memory-"):
            continue
        for bit in (None, 3):
            ended += 1
            try:
                same += resumed_over(base, kept.path, bit) == expected
            except CardioNetsError:
                continue
    return same, ended


def _longest(seconds: Sequence[float]) -> float:
    return max(seconds, default=math.inf)


def _times(seconds: Sequence[float]) -> str:
    median = statistics.median(seconds) if seconds else math.inf
    return f"median {median:.1f} s, longest {_longest(seconds):.1f} s"


def _shared(work: Path) -> Path:
    """Return the folder of the runs that several figures look at."""
    return work.parent / "kills"


def _flower(work: Path) -> Path:
    return work.parent / "kills-flower"


def _same(whole: bool) -> str:
    return "same final SHA-256" if whole else "OTHER final weights"


def _with(words: str, wrong: list[str]) -> str:
    return f"{words}; failed: {'; '.join(wrong)}" if wrong else words
