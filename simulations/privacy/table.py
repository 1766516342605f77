"""The privacy table: its sections, how each is run within its time, and what stands above them."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from cardionets_core.errors import ConfigError, nearest
from cardionets_core.flower_command import Command
from simulations.measured import Conditions, conditions
from simulations.privacy.pictures import Drawn, kept
from simulations.privacy.row import Row
from simulations.privacy.section import END, ROWS
from simulations.process_group import ProcessGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


@dataclass(frozen=True)
class Section:
    """A part of the table.

    Attributes:
        title: what stands above its rows.
        address: module and function that measure it.
        limit_s: seconds after which it is ended; its rows so far stand.
    """

    title: str
    address: str
    limit_s: float


SECTIONS: dict[str, Section] = {
    "accounting": Section(
        "Accounting: epsilon against other accountants",
        "simulations.privacy.figures_accounting:accounting",
        90,
    ),
    "sensitivity": Section(
        "Sensitivity: what one patient moves, stage by stage",
        "simulations.privacy.figures_sensitivity:sensitivity",
        120,
    ),
    "noise": Section(
        "Noise and sampling",
        "simulations.privacy.figures_noise:noise",
        30,
    ),
    "audit": Section(
        "Audit in one run, through the engine",
        "simulations.privacy.figures_audit:one_run",
        90,
    ),
    "attacks": Section(
        "Attacks on a released model, and copies by a generator",
        "simulations.privacy.figures_attacks:attacks",
        360,
    ),
    "ledger": Section(
        "Ledger: crashes of it and of a site in a private round",
        "simulations.privacy.figures_parts:ledger",
        90,
    ),
    "engines": Section(
        "Engines: agreement, time and memory",
        "simulations.privacy.figures_parts:engines",
        270,
    ),
    "secure_aggregation": Section(
        "Secure aggregation",
        "simulations.privacy.figures_parts:secure_aggregation",
        30,
    ),
    "utility": Section(
        "Utility: what noise costs in accuracy",
        "simulations.privacy.figures_parts:utility",
        420,
    ),
}
"""Name -> section; all limits together are the most that the table takes: 25 minutes."""

HERE = Path(__file__).resolve().parents[2]
"""The folder that holds the packages: benchmarks/ are found from there."""

WORK = "work"
"""Below the table's folder: a folder for each section, with its rows, pictures and data."""

WATCH_S = 0.2
ENDING_S = 5.0

State = Literal["met", "not met", "told", "not measured", "failed"]


@dataclass(frozen=True)
class Entry:
    """A row in its section, and how it ended.

    Attributes:
        section: name of it.
        state: `told` has no target; `failed`: the measurement broke or ran out of its time.
        row: what was measured; of `not measured` and `failed` `measured` says why not.
    """

    section: str
    state: State
    row: Row


@dataclass(frozen=True)
class Outcome:
    """What a section came to, with the seconds that it took and the pictures that it drew."""

    section: str
    entries: tuple[Entry, ...]
    seconds: float
    pictures: tuple[Drawn, ...] = ()


@dataclass(frozen=True)
class Facts(Conditions):
    """What stands above the table."""

    planned: tuple[str, ...]


def facts(planned: Sequence[str]) -> Facts:
    """Return the command, the machine and the versions of this process."""
    return Facts(**vars(conditions("simulations.privacy")), planned=tuple(planned))


def chosen(only: str) -> list[str]:
    """Return the sections that `--only noise,audit` names, in the table's order; all for ``.

    Raises:
        ConfigError: a name that is no section.
    """
    names = only.replace(",", " ").split() or list(SECTIONS)
    for name in names:
        if name not in SECTIONS:
            known = ", ".join(SECTIONS)
            raise ConfigError(
                f"--only: {name!r} is no section{nearest(name, SECTIONS)}. Known: {known}."
            )
    return [name for name in SECTIONS if name in names]


def measure(
    names: Iterable[str],
    output: Path,
    *,
    begun: Callable[[str], None] = lambda name: None,
    ended: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Measure sections one after another, each in a process of its own below `output/work`."""
    outcomes = []
    shutil.rmtree(output / WORK, ignore_errors=True)  # of an earlier table
    for name in names:
        begun(name)
        outcome = _measured(name, output / WORK)
        ended(outcome)
        outcomes.append(outcome)
    return outcomes


def _measured(name: str, work: Path) -> Outcome:
    section, folder = SECTIONS[name], work / name
    folder.mkdir(parents=True)
    group = ProcessGroup(work / "logs", env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=HERE)
    command = (sys.executable, "-m", "simulations.privacy.section", section.address, str(folder))
    started = time.monotonic()
    try:
        group.start(name, Command(command))
        while group.ended(name) is None and time.monotonic() < started + section.limit_s:
            time.sleep(WATCH_S)
        code = group.ended(name)
    finally:
        group.stop(patience=ENDING_S)
    entries = [_entry(name, row) for row in _rows(folder)]
    end = _end(folder, code, section.limit_s, str(group.log_path(name)))
    if end is not None:
        entries.append(Entry(name, end[0], Row("(the rest of the section)", "", end[1], None)))
    seconds = round(time.monotonic() - started, 1)
    return Outcome(name, tuple(entries), seconds, tuple(kept(folder)))


def _rows(folder: Path) -> list[Row]:
    path = folder / ROWS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Row(**json.loads(line)) for line in lines]


def _entry(section: str, row: Row) -> Entry:
    state: State = "told" if row.met is None else "met" if row.met else "not met"
    return Entry(section, state, row)


def _end(folder: Path, code: int | None, limit_s: float, log: str) -> tuple[State, str] | None:
    """Return why a section is not whole; None where it is."""
    path = folder / END
    if code is None:
        return "failed", f"ended at its limit of {limit_s:g} s; a loaded machine needs more"
    if not path.exists():
        return "failed", f"its process ended with code {code}; see {log}"
    end = json.loads(path.read_text(encoding="utf-8"))
    if end["state"] == "done":
        return None
    return ("not measured" if end["state"] == "not measured" else "failed"), end["reason"]


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """Return 0 where every target that can be measured here is met and nothing broke, else 1."""
    states = {e.state for o in outcomes for e in o.entries}
    return int(bool(states & {"not met", "failed"}))


def verdict(outcomes: list[Outcome], planned: Sequence[str]) -> str:
    """Return one line: rows that meet their target, and what became of the others."""
    entries = [e for o in outcomes for e in o.entries]
    count = {s: sum(e.state == s for e in entries) for s in get_args(State)}
    controls = sum(e.row.control and e.state == "met" for e in entries)
    aimed = sum(e.state in ("met", "not met", "failed") for e in entries)
    told = f" ({controls} of them controls that failed)" if controls else ""
    words = [f"{count['met']} of {aimed} targets met{told}"]
    for state in ("not met", "failed", "not measured"):
        if count[state]:
            names = dict.fromkeys(e.section for e in entries if e.state == state)
            words.append(f"{state}: {count[state]} ({', '.join(names)})")
    left = [name for name in planned if name not in {o.section for o in outcomes}]
    if left:
        words.append(f"still to do: {', '.join(left)}")
    return "; ".join(words)


def results(above: Facts, outcomes: list[Outcome]) -> dict[str, Any]:
    """Return what the table holds for programs."""
    return {
        "verdict": verdict(outcomes, above.planned),
        "sections": [asdict(o) | {"title": SECTIONS[o.section].title} for o in outcomes],
    }
