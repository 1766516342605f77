"""Torn files: what a crash, a bad disk or a full one does to what a run keeps.

    base = interrupted_run(folder)  # killed between two rounds: a resume needs all that lies there
    ends = damage_all(base, places=200)

A damaged file must be found, and then either the generation before is used or the file counts as
none; or the damage must change nothing. The rest is checked end to end: the run is resumed over the
damage and has to end with the SHA-256 of the run that nothing happened to.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Literal

from cardionets_core.checkpoint import read_info
from cardionets_core.config_tree import digest
from cardionets_core.errors import CardioNetsError, SiteError
from cardionets_core.faults import FAULTS_ENV
from cardionets_core.messages import TaskHeader
from cardionets_core.packing import fingerprint
from cardionets_core.site_config import load_site_config
from client.client_app import app as client_app
from client.memory import RunMemory
from server.server_app import app as server_app
from server.server_app import load_config, write_config
from server.state import load_state
from server.status_file import Submission, read_status, read_submission, write_submission
from server.supervisor import rounds_done
from simulations.faults.harness import own_caches
from simulations.faults.kills import STAGE, hospitals, kill_plan
from simulations.grid import run_in_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from cardionets_core.packing import Groups

Finding = Literal["the one before", "as none", "refused", "harmless", "MISSED"]
"""What became of a damage: the generation before was used; the file counted as none (and is made
anew); the run ends with a clear error; nothing changed; or it went unnoticed, or crashed."""

ROUNDS = 3
"""Of the run; it is killed before the last one."""

RUN = "kills"
SEAL_LENGTH = 64
"""Of the SHA-256 at the start of what a site keeps (client/memory.py)."""

PROGRESS = "progress.jsonl"
TORN_LINES = "all lines but the torn ones"

ALONE = """
import sys
from pathlib import Path
from simulations.faults.torn import run_to_the_end
run_to_the_end(Path(sys.argv[1]))
"""
"""A federation in a process of its own, which a fault point may kill."""


@dataclass(frozen=True)
class Damage:
    """One place of a file.

    Attributes:
        place: byte at which it is cut, or whose bit is flipped.
        bit: 0 to 7; None cuts.
    """

    place: int
    bit: int | None

    def do(self, path: Path) -> None:
        """Damage a file."""
        raw = bytearray(path.read_bytes())
        if self.bit is None:
            del raw[self.place :]
        else:
            raw[self.place] ^= 1 << self.bit
        path.write_bytes(bytes(raw))


def interrupted_run(folder: Path) -> Path:
    """Run a small federation that is killed before its last round; return its folder.

    It holds `outputs/kills` (the run) and `sites` (YAML files and what the sites keep).
    """
    base, plans = folder / "base", folder / "kill-plan"
    own_caches(hospitals(folder), base / "sites")
    write_config(base / "outputs" / RUN, kill_plan(ROUNDS))
    write_submission(base / "outputs" / RUN, Submission(flower_run=1, time=0.0))
    plans.mkdir()
    (plans / f"between_rounds@{STAGE}-{ROUNDS}.kill").touch()
    environment = {**os.environ, FAULTS_ENV: str(plans)}
    subprocess.run(
        [sys.executable, "-c", ALONE, str(base)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return base


def run_to_the_end(folder: Path) -> str:
    """Begin or resume the federation of a folder; return the SHA-256 of its weights.

    Raises:
        CardioNetsError: it cannot go on.
    """
    run = folder / "outputs" / RUN
    submitted = {"run": RUN, "config-hash": digest(kill_plan(ROUNDS))}
    sites = {path.stem: path for path in sorted((folder / "sites").glob("*.yaml"))}
    run_in_process(server_app, client_app, run_config=submitted, sites=sites, outputs=run.parent)
    return str(json.loads((run / "summary.json").read_text())["weights_sha256"])


@dataclass(frozen=True)
class Kept:
    """A file that something depends on, and how its reader sees it.

    Attributes:
        path: the file.
        read: returns what the reader makes of it.
        whole: what it makes of the undamaged file.
        instead: what it may make of a damaged one, and what that means.
    """

    path: Path
    read: Callable[[], object]
    whole: object
    instead: tuple[tuple[object, Finding], ...] = ((None, "as none"),)

    def judge(self, damage: Damage) -> Finding:
        """Do a damage, read the file, and mend it again."""
        good = self.path.read_bytes()
        damage.do(self.path)
        try:
            seen = self.read()
        except CardioNetsError:
            return "refused"
        except Exception:
            return "MISSED"  # a reader that crashes comes back and crashes again
        finally:
            self.path.write_bytes(good)
        if seen == self.whole:
            return "harmless"
        return next((finding for value, finding in self.instead if seen == value), "MISSED")


def kept_files(base: Path) -> list[Kept]:
    """Return every file that an interrupted run is resumed from, at both ends."""
    return [*_kept_by_server(base / "outputs" / RUN), *_kept_by_sites(base / "sites")]


def draw_damages(files: list[Kept], *, places: int, seed: int = 11) -> list[tuple[Kept, Damage]]:
    """Draw places evenly over the files; every second one is a cut, the others are flipped bits."""
    draw, drawn = Random(seed), []
    for number in range(places):
        kept = files[number % len(files)]
        size = kept.path.stat().st_size
        bit = draw.randrange(8) if number // len(files) % 2 else None
        drawn.append((kept, Damage(draw.randrange(size), bit)))
    return drawn


def damage_all(base: Path, *, places: int) -> dict[str, Counter[Finding]]:
    """Damage that many places, one at a time; return file name -> how the damages ended."""
    ends: dict[str, Counter[Finding]] = {}
    for kept, damage in draw_damages(kept_files(base), places=places):
        name = kept.path.name.split("-")[0]
        ends.setdefault(name, Counter())[kept.judge(damage)] += 1
    return ends


def resumed_over(base: Path, damaged: Path, bit: int | None) -> str:
    """Resume a copy of an interrupted run over a damage in the middle of one file.

    Args:
        base: folder of the interrupted run.
        damaged: the file, below `base`.
        bit: see Damage.

    Returns:
        SHA-256 of the final weights.

    Raises:
        CardioNetsError: it cannot go on.
    """
    # The whole way: each site has a folder of the same name for the same run.
    place = "-".join(damaged.relative_to(base).parts)
    again = base.with_name(f"{base.name}-over-{place}-{bit}")
    shutil.copytree(base, again)
    own_caches(hospitals(base.parent), again / "sites")
    path = again / damaged.relative_to(base)
    Damage(path.stat().st_size // 2, bit).do(path)
    return run_to_the_end(again)


def _kept_by_server(run: Path) -> list[Kept]:
    config, checkpoint = kill_plan(ROUNDS), run / "checkpoint"
    info = read_info(checkpoint)
    newest, before = resume_point(checkpoint), resume_point(checkpoint, without="checkpoint.json")

    def resumed() -> object:
        return resume_point(checkpoint)

    def planned() -> object:
        return load_config(run, digest(config))

    found = [
        Kept(checkpoint / name, resumed, newest, ((before, "the one before"),))
        for name in (info.weights, "checkpoint.json", "previous.json")
    ]
    found += [
        Kept(run / "config.json", planned, config),
        # Its rounds are counted: a run that is started again and again without one more of them is
        # given up (`crash_loop`). What each round came to, the checkpoint knows.
        Kept(run / PROGRESS, counted(run), rounds_done(run), ((TORN_LINES, "as none"),)),
        Kept(run / "status.json", lambda: read_status(run), read_status(run)),
        Kept(run / "submission.json", lambda: read_submission(run), read_submission(run)),
    ]
    return found


def counted(run: Path) -> Callable[[], object]:
    """Return a reader of the rounds that a run has told of: a torn line may cost itself only.

    The reader returns their number, or TORN_LINES where no more are missing than were torn.
    """
    path, whole = run / PROGRESS, rounds_done(run)
    lines = set(_lines(path))

    def read() -> object:
        number = rounds_done(run)
        entries = [json.loads(line) for line in _lines(path) if line in lines]
        left = {
            (entry["stage"], entry["round"])
            for entry in entries
            if entry["event"] == "round" and entry["stage"] != "handshake"
        }
        return TORN_LINES if len(left) <= number < whole else number

    return read


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1]


def _kept_by_sites(sites: Path) -> list[Kept]:
    found = []
    for site in sorted(sites.glob("*.yaml")):
        runs = Path(load_site_config(site).data.cache) / "runs"
        memory, answer = max(runs.glob("*/memory-*")), next(runs.glob("*/answer*"))
        for path, read in ((memory, remembered(runs)), (answer, answered(runs, answer))):
            found.append(Kept(path, read, read()))
    return found


def remembered(runs: Path) -> Callable[[], object]:
    """Return a reader of what a site remembers of the last round; None where that is torn."""

    def read() -> object:
        try:
            memory = RunMemory(runs, task_header()).read(f"{STAGE}/{ROUNDS - 1}")
        except SiteError:
            return None  # told to the server, which asks again from nothing, and says so
        return {kind: _marks(groups) for kind, groups in memory.groups.items()}

    return read


def answered(runs: Path, path: Path) -> Callable[[], object]:
    """Return a reader of a site's newest answer; None where that is torn."""
    mark = answered_mark(path)

    def read() -> object:
        update = RunMemory(runs, task_header()).answer(mark)
        return None if update is None else _marks(update.delta)

    return read


def answered_mark(path: Path) -> str:
    """Return which task a stored answer belongs to."""
    return str(json.loads(path.read_bytes()[SEAL_LENGTH:].partition(b"\n")[0])["mark"])


def task_header() -> TaskHeader:
    """Return a task of the run: its memory is found by the run's name and plan."""
    config = kill_plan(ROUNDS)
    return TaskHeader(
        run=config.name,
        config_hash=digest(config),
        stage=STAGE,
        action="train",
        round=ROUNDS,
        seed=0,
        threads=1,
        model=config.sized_model(),
        phenotypes=config.phenotypes,
        diseases=config.diseases,
    )


def resume_point(checkpoint: Path, *, without: str = "") -> tuple[int, dict[str, str], int]:
    """Return round, weights and saves of what a resume would begin from; the folder stays."""
    spare = checkpoint.with_name("checkpoint-spare")
    shutil.rmtree(spare, ignore_errors=True)
    shutil.copytree(checkpoint, spare, symlinks=True)
    if without:
        (spare / without).unlink()
    try:
        state = load_state(kill_plan(ROUNDS), spare)
    finally:
        shutil.rmtree(spare)
    return state.round, _marks(state.weights), state.saves


def _marks(groups: Groups) -> dict[str, str]:
    return {part: fingerprint(arrays) for part, arrays in groups.items()}
