"""What a schedule that stands before round 1 costs, by both accountants.

Each ledger gates by Renyi DP at an order of its own; PRV is the tighter figure that may be quoted
of such a schedule. Whatever else a site is charged (a task that is asked again after a crash,
another run) is in its ledger, and no longer in this quote.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from cardionets_core.privacy.accounting import (
    Charge,
    epsilon_at,
    epsilon_prv,
    epsilon_rdp,
    why_no_prv,
)

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Quote:
    """Epsilon of a whole schedule; add/remove one patient.

    Attributes:
        delta: of the guarantee.
        rdp: epsilon by Renyi DP.
        prv: epsilon by PRV, to be quoted; None where it is not computed.
        why: why it is not.
        order: of the ledger that gates, at which `rdp` is; None: no ledger is asked about, and it
            is at the best order for this schedule.
    """

    delta: float
    rdp: float
    prv: float | None
    why: str
    order: float | None = None

    @property
    def epsilon(self) -> float:
        """The figure to quote: by PRV, else by Renyi DP, which is an upper bound, too."""
        return self.rdp if self.prv is None else self.prv

    def words(self) -> str:
        """Return it for a person."""
        at = "" if self.order is None else f" at order {self.order:g}"
        if self.prv is None:
            return f"epsilon {self.rdp:.2f} by RDP{at} (no PRV: {self.why})"
        return f"epsilon {self.rdp:.2f} by RDP{at}, {self.prv:.2f} by PRV"


def quoted(charges: Iterable[Charge], delta: float, *, order: float | None = None) -> Quote:
    """Return what a schedule costs.

    Args:
        charges: of the schedule.
        delta: of the guarantee.
        order: of the ledger that is to pay it; None: it is not asked about one.
    """
    charges = tuple(charges)
    by_rdp = epsilon_rdp(charges, delta) if order is None else epsilon_at(charges, delta, order)
    prv, why = _by_prv(charges, delta)
    return Quote(delta, by_rdp, prv, why, order)


@lru_cache(maxsize=256)
def _by_prv(charges: tuple[Charge, ...], delta: float) -> tuple[float | None, str]:
    """PRV takes a second; the sites of a run ask for the same few schedules."""
    why = why_no_prv(charges, delta)
    return None if why else epsilon_prv(charges, delta), why
