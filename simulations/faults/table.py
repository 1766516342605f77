"""The fault table: which figures there are, how they are run, and what stands above them."""

from __future__ import annotations

import importlib
import shutil
import time
import traceback
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from cardionets_core.environment import variables
from cardionets_core.errors import CardioNetsError, ConfigError
from simulations.faults.row import QUICK_ENV, NotMeasuredError, Row
from simulations.measured import Conditions, conditions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from simulations.faults.row import Figure

FIGURES: dict[int, str] = {
    1: "simulations.faults.figures_kills:figure_1",
    2: "simulations.faults.figures_kills:figure_2",
    3: "simulations.faults.figures_kills:figure_3",
    4: "simulations.faults.figures_schedules:figure_4",
    5: "simulations.faults.figures_kills:figure_5",
    6: "simulations.faults.figures_link:figure_6",
    7: "simulations.faults.figures_schedules:figure_7",
    8: "simulations.faults.figures_scale:figure_8",
    9: "simulations.faults.figures_scale:figure_9",
    10: "simulations.faults.figures_rounds:figure_10",
    11: "simulations.faults.figures_kills:figure_11",
    12: "simulations.faults.figures_screening:figure_12",
    13: "simulations.faults.figures_parts:figure_13",
    14: "simulations.faults.figures_scale:figure_14",
    24: "simulations.faults.figures_scale:figure_24",
}
"""Number of a figure -> module and function that measure it."""

TITLES: dict[int, str] = {
    1: "server killed at each of 11 phases",
    2: "recovery of a killed coordinator",
    3: "site killed at each of 8 phases",
    4: "quorum over random dropouts",
    5: "states that tell the truth",
    6: "cut network",
    7: "every update counted exactly once",
    8: "order of arrival",
    9: "server memory",
    10: "fixed time per round",
    11: "torn files",
    12: "update firewall",
    13: "sites of different kinds",
    14: "one malicious site of five",
    24: "one step equals pooled SGD",
}

WORK = "work"
"""Folder below the table's own in which the figures work."""

SEEDS = "every figure fixes its own seeds in its code: the same command draws the same faults"

State = Literal["met", "missed", "failed", "not measured"]


@dataclass(frozen=True)
class Outcome:
    """How one figure ended.

    Attributes:
        figure: its number.
        state: `met` and `missed` have a row; `failed` (the measurement itself broke) and
            `not measured` (this machine cannot) have a reason.
        row: what was measured.
        reason: why there is no row.
        seconds: what the measurement took.
    """

    figure: int
    state: State
    row: Row | None = None
    reason: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Facts(Conditions):
    """What stands above the table."""

    seeds: str
    quick: bool
    planned: tuple[int, ...]

    def lines(self) -> dict[str, str]:
        """Return what is shown of them, by its name."""
        lines = super().lines()
        started = lines.pop("started") + (", quick" if self.quick else "")
        return lines | {"seeds": self.seeds, "started": started}


def facts(planned: Sequence[int], *, quick: bool) -> Facts:
    """Return the command, the machine and the versions of this process."""
    above = vars(conditions("simulations.faults"))
    return Facts(**above, seeds=SEEDS, quick=quick, planned=tuple(planned))


def chosen(only: str) -> list[int]:
    """Return the figures that `--only 1,2,8` names; all of them for an empty text.

    Raises:
        ConfigError: a word that is no number, or a number that is no figure.
    """
    if not only.strip():
        return list(FIGURES)
    known = ", ".join(map(str, FIGURES))
    numbers = []
    for word in only.replace(" ", ",").split(","):
        if not word:
            continue
        if not word.isdecimal() or int(word) not in FIGURES:
            raise ConfigError(f"--only {only}: {word!r} is no figure of the table; known: {known}.")
        numbers.append(int(word))
    return sorted(set(numbers), key=list(FIGURES).index)


def measure(
    numbers: Iterable[int],
    output: Path,
    *,
    quick: bool = False,
    begun: Callable[[int], None] = lambda number: None,
    ended: Callable[[Outcome], None] = lambda outcome: None,
    figures: dict[int, str] | None = None,
) -> list[Outcome]:
    """Measure figures one after another; one that breaks does not stop the others.

    Args:
        numbers: which.
        output: each figure works in a folder of its own in its folder WORK, and may share there
            what is expensive with others; it stays until the next table.
        quick: fewer repeats and smaller numbers.
        begun: called before each figure.
        ended: called after each.
        figures: number -> `module:function`; the table's own by default.
    """
    outcomes = []
    shutil.rmtree(output / WORK, ignore_errors=True)  # of an earlier table
    with variables({QUICK_ENV: "1" if quick else "0"}):
        for number in numbers:
            begun(number)
            outcome = _one(number, (figures or FIGURES)[number], output / WORK / f"figure-{number}")
            ended(outcome)
            outcomes.append(outcome)
    return outcomes


def _one(number: int, address: str, work: Path) -> Outcome:
    started = time.monotonic()
    row, reason = None, ""
    state: State = "failed"
    try:
        work.mkdir(parents=True)
        row = _figure(address)(work)
        state = "met" if row.met else "missed"
    except NotMeasuredError as cannot:
        state, reason = "not measured", str(cannot)
    except CardioNetsError as error:
        reason = str(error)
    # A figure is a measurement of broken things: whatever it raises is its result, not our end.
    except Exception as error:
        (work / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        reason = f"{type(error).__name__}: {error} (see traceback.txt in {work})"
    return Outcome(number, state, row, reason, round(time.monotonic() - started, 1))


def _figure(address: str) -> Figure:
    module, _, name = address.partition(":")
    figure: Figure = getattr(importlib.import_module(module), name)
    return figure


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """Return 0 where no figure missed its target and none broke, else 1.

    A figure that this machine cannot measure is said in the table, not hidden in the exit code.
    """
    return int(any(o.state in ("missed", "failed") for o in outcomes))


def verdict(outcomes: list[Outcome], planned: Sequence[int]) -> str:
    """Return one line: how many of the planned figures were met, and what became of the others."""
    words = [f"{sum(o.state == 'met' for o in outcomes)} of {len(planned)} figures met"]
    for state in ("missed", "failed", "not measured"):
        numbers = [str(o.figure) for o in outcomes if o.state == state]
        if numbers:
            words.append(f"{state}: {', '.join(numbers)}")
    # The files are written after every figure: a table that was stopped must not look whole.
    left = [str(n) for n in planned if n not in {o.figure for o in outcomes}]
    if left:
        words.append(f"still to do: {', '.join(left)}")
    return "; ".join(words)


def results(above: Facts, outcomes: list[Outcome]) -> dict[str, Any]:
    """Return what the table holds for programs."""
    return {
        "verdict": verdict(outcomes, above.planned),
        "figures": [asdict(o) for o in outcomes],
    }
