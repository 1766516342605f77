"""One row of the fault table: a figure of the reliability goals, ours beside plain Flower's.

A figure is a function `(work: Path) -> Row` in one of simulations/faults/figures_*.py; the table
(simulations/faults/table.py) calls it with a folder of its own. Where it cannot be measured on this
machine it raises `NotMeasuredError` with the reason.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cardionets_core.errors import CardioNetsError

QUICK_ENV = "CARDIONETS_FAULTS_QUICK"
NO_SUCH_THING = "no such thing"
"""What the column of plain Flower says where Flower has nothing that could be measured."""


@dataclass(frozen=True)
class Row:
    """What a figure came to.

    Attributes:
        figure: its number in the goals, 1 to 25.
        what: what was done, in a few words.
        target: what had to be reached.
        ours: what was measured here, with its unit.
        flower: what plain Flower gave under the same fault, or `no such thing`.
        met: whether `ours` reaches the target.
    """

    figure: int
    what: str
    target: str
    ours: str
    flower: str
    met: bool


Figure = Callable[[Path], Row]
"""Measures one figure in the folder that it is given."""


class NotMeasuredError(CardioNetsError):
    """A figure cannot be measured on this machine; the message says why."""


def is_quick() -> bool:
    """Return whether the table was asked for a quick look: fewer repeats, smaller numbers."""
    return os.environ.get(QUICK_ENV) == "1"
