"""One row of the privacy table: a claim, what was measured, and whether it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cardionets_core.errors import CardioNetsError


@dataclass(frozen=True)
class Row:
    """What one measurement came to.

    Attributes:
        what: what was measured, in a few words.
        target: what had to be reached; of a control, what the fault must show; empty: a figure
            that is told and has no target.
        measured: the value, with its unit.
        met: whether `measured` reaches `target`; None without a target.
        control: the mechanism was broken on purpose: `met` says that this was found.
        seeds: of every pseudo-random number behind the value; `os` where the noise is that of the
            operating system, which nobody can repeat.
        note: what a reader must know beside it.
    """

    what: str
    target: str
    measured: str
    met: bool | None
    control: bool = False
    seeds: str = ""
    note: str = ""


Measure = Callable[[Path], Iterator[Row]]
"""Measures one section in the folder that it is given."""


class NotMeasuredError(CardioNetsError):
    """A section cannot be measured on this machine; the message says why and what would help."""


def within(value: float, low: float, high: float) -> bool:
    """Return whether a value lies in [low, high]; NaN does not."""
    return low <= value <= high


def repeated(*seeds: int) -> str:
    """Return seeds as a row names them: runs of neighbours as `0-23`."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(map(str, seeds))
