"""What a schedule that stands before round 1 costs, by both accountants.

The ledgers gate by Renyi DP; PRV is the tighter figure that may be quoted of such a schedule.
Whatever else a site is charged (a task that is asked again after a crash, another run) is in its
ledger, and no longer in this quote.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from cardionets_core.privacy.accounting import Charge, epsilon_prv, epsilon_rdp, why_no_prv

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Quote:
    """Epsilon of a whole schedule; add/remove one patient.

    Attributes:
        delta: of the guarantee.
        rdp: epsilon by Renyi DP, by which ledgers gate.
        prv: epsilon by PRV, to be quoted; None where it is not computed.
        why: why it is not.
    """

    delta: float
    rdp: float
    prv: float | None
    why: str

    @property
    def epsilon(self) -> float:
        """The figure to quote: by PRV, else by Renyi DP, which is an upper bound, too."""
        return self.rdp if self.prv is None else self.prv

    def words(self) -> str:
        """Return it for a person."""
        if self.prv is None:
            return f"epsilon {self.rdp:.2f} by RDP (no PRV: {self.why})"
        return f"epsilon {self.rdp:.2f} by RDP, {self.prv:.2f} by PRV"


def quoted(charges: Iterable[Charge], delta: float) -> Quote:
    """Return what a schedule costs."""
    return _quoted(tuple(charges), delta)


@lru_cache(maxsize=256)
def _quoted(charges: tuple[Charge, ...], delta: float) -> Quote:
    """PRV takes a second; the sites of a run ask for the same few schedules."""
    why = why_no_prv(charges, delta)
    prv = None if why else epsilon_prv(charges, delta)
    return Quote(delta, epsilon_rdp(charges, delta), prv, why)
