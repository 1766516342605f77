"""What the entries of a ledger say: its terms in the first one, charges, raised budgets."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cardionets_core.privacy.accounting import Charge
from cardionets_core.wire_limits import LARGEST_ORDER

if TYPE_CHECKING:
    from collections.abc import Sequence

OPEN, RAISE, CLOCK, CHARGE = "open", "raise", "clock", "charge"
"""Kinds of entries."""

FORMAT = 2
"""Of the first entry. 1 had no order: its gate took the best of many."""


@dataclass(frozen=True)
class Terms:
    """What was fixed when a ledger was made, before its first charge.

    Attributes:
        ledger: its own random name.
        epsilon: the budget.
        delta: of the guarantee.
        order: alpha, of Renyi DP, at which everything is charged.
        patients: how many the site declared.
    """

    ledger: str
    epsilon: float
    delta: float
    order: float
    patients: int

    @classmethod
    def of(cls, body: dict[str, Any]) -> Terms:
        """Return the terms in a first entry.

        Raises:
            ValueError: it is not one of this version.
        """
        if body.get("kind") != OPEN or body.get("format") != FORMAT:
            raise ValueError(f"format {body.get('format')}, and {FORMAT} is read")
        order = float(body["order"])
        if not 1 < order <= LARGEST_ORDER:
            raise ValueError(f"order {order}, which is above 1 and at most {LARGEST_ORDER:g}")
        return cls(
            ledger=str(body["ledger"]),
            epsilon=float(body["epsilon"]),
            delta=float(body["delta"]),
            order=order,
            patients=int(body["patients"]),
        )


@dataclass(frozen=True)
class Raised:
    """A raised budget.

    Attributes:
        entry: its number in the ledger, from 1.
        time: seconds since the epoch.
        before: epsilon that was recorded until then.
        epsilon: the new one.
    """

    entry: int
    time: int
    before: float
    epsilon: float


@dataclass(frozen=True)
class Item:
    """A charge as the ledger tells it.

    Attributes:
        run: name of the run, or the whole key where it is no `charge_key`.
        stage: name of the stage.
        round: its number.
        what: `train`, `latents`, `describe`, `fit`, `score`.
        time: seconds since the epoch.
        charge: what was charged.
    """

    run: str
    stage: str
    round: int
    what: str
    time: int
    charge: Charge


def charge_key(*, run: str, stage: str, number: int, what: str, weights: str) -> str:
    """Return the key of a task's charge.

    Args:
        run: name of the run.
        stage: name of the stage; `show` adds up by run and stage.
        number: of the round.
        what: `train`, `latents`, `describe`, `fit`, `score`.
        weights: SHA-256 of the incoming weights (or of the task).
    """
    return json.dumps([run, stage, number, what, weights])


def raises_of(bodies: Sequence[dict[str, Any]]) -> tuple[Raised, ...]:
    """Return the raised budgets of a ledger, oldest first.

    Args:
        bodies: of all entries.
    """
    found: list[Raised] = []
    recorded = float(bodies[0]["epsilon"])
    for number, body in enumerate(bodies, start=1):
        if body["kind"] == RAISE:
            found.append(Raised(number, int(body["time"]), recorded, float(body["epsilon"])))
            recorded = found[-1].epsilon
    return tuple(found)


def item_of(body: dict[str, Any]) -> Item:
    """Return what the body of a charge tells."""
    run, stage, number, what = body["key"], "", 0, ""
    try:
        run, stage, number, what, _ = json.loads(body["key"])
    except (ValueError, TypeError):
        pass  # a key of another form is shown whole
    return Item(run, stage, number, what, body["time"], charge_of(body))


def counted(entries: int) -> str:
    """Return a number of entries for a person."""
    return "1 entry" if entries == 1 else f"{entries:,} entries"


def charge_of(body: dict[str, Any]) -> Charge:
    """Return what was charged by the body of a charge."""
    return Charge(body["noise"], body["rate"], body["steps"])
