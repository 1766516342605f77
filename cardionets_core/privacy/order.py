"""The one Renyi order of a ledger: how it is chosen, and what it costs not to have the best one.

Renyi DP at an order that was fixed before the first charge is a filter: whoever stops in time keeps
to (epsilon, delta), however the charges were chosen. At an order that is chosen afterwards it is
not (docs/privacy.md, Accountants). So the order is written into a ledger's first entry.

Epsilon at one order adds up: the conversion counts once, with the first charge, and from then on
every charge adds its own Renyi DP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cardionets_core.errors import ConfigError
from cardionets_core.privacy.accounting import (
    ORDERS,
    conversion,
    epsilon_at,
    renyi_at,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from cardionets_core.privacy.accounting import Charge


def usual_order(epsilon: float, delta: float) -> float:
    """Return the order of a ledger of which it is not known what will be charged to it.

    The one with the largest (epsilon - c(alpha)) / alpha^2, c being the conversion: what Renyi DP
    has room for, over a cost that grows with the square of the order. The cost of sums over all
    patients is proportional to alpha, that of sampled steps grows faster: so this is an order
    between those that suit the two. `benchmarks/privacy/orders.py` measures it.

    Args:
        epsilon: the budget.
        delta: of the guarantee.
    """
    orders = _orders(delta)
    return float(orders[np.argmax((epsilon - conversion(delta, orders)) / orders**2)])


def best_order(charges: Iterable[Charge], delta: float) -> float:
    """Return the order at which charges cost least: of a run that is known before it begins."""
    orders = _orders(delta)
    return float(orders[np.argmin(renyi_at(charges, orders) + conversion(delta, orders))])


def first_charge(delta: float, order: float) -> float:
    """Return what the first charge counts besides its own Renyi DP: the conversion, once."""
    return float(conversion(delta, np.asarray([order])).item())


def added(charges: Iterable[Charge], order: float) -> float:
    """Return what charges add to the epsilon of a ledger that has been charged before."""
    return float(renyi_at(charges, np.asarray([order])).item())


def epsilon_with(spent: float, more: Iterable[Charge], *, delta: float, order: float) -> float:
    """Return epsilon at an order, of a history of which only its epsilon is known, with more.

    Args:
        spent: `epsilon_at` of the history.
        more: what is charged besides.
        delta: of the guarantee.
        order: of the ledger.
    """
    more = tuple(more)
    if spent == 0:  # nothing is charged yet, so the conversion neither
        return epsilon_at(more, delta, order)
    return spent + added(more, order)


def share_of_best(
    kind: Iterable[Charge], *, epsilon: float, delta: float, order: float
) -> tuple[float, float]:
    """Return the best order for a kind of charges, and how far an order goes beside it.

    Args:
        kind: charges of which the whole budget would be spent.
        epsilon: the budget.
        delta: of the guarantee.
        order: that is asked about.

    Returns:
        The best order, and the share of its charges (0 to 1) that fit at the order asked about.
    """
    kind, orders, alone = tuple(kind), _orders(delta), np.asarray([order])
    fits = (epsilon - conversion(delta, orders)) / renyi_at(kind, orders)
    own = ((epsilon - conversion(delta, alone)) / renyi_at(kind, alone)).item()
    best = float(fits.max())
    return float(orders[fits.argmax()]), max(0.0, min(1.0, own / best)) if best > 0 else 0.0


def _orders(delta: float) -> NDArray[np.float64]:
    """Return the orders that a ledger may have: at which nothing is above epsilon 0 for free.

    A conversion below 0, at very large orders and a large delta, would hide the first charges.

    Raises:
        ConfigError: there is none.
    """
    orders = np.asarray(ORDERS)
    own = orders[conversion(delta, orders) >= 0]
    if not len(own):
        raise ConfigError(
            f"delta is {delta:g}: so large a delta promises nothing at any order. Choose at most "
            "one in ten of 1 / patients."
        )
    return own
