"""What noisy steps cost: Renyi DP to gate, privacy loss random variables (PRV) to quote.

The unit is the patient, the neighbours differ by adding or removing one, patients are sampled by
independent coins (Poisson). Opacus has the mathematics; here its traps are closed
(docs/privacy.md, Ledger):

- equal charges are added up before anything is computed, wherever they stand in the history;
- orders go up to 512, so that a small epsilon can be told at all;
- an order at which the numbers break down counts as useless, never as free;
- PRV is computed only where its mesh fits into memory; else the RDP bound stands, which is larger.

A ledger gates at one order, fixed before its first charge (order.py): so it is a filter for charges
that are chosen on the way (Feldman and Zrnic 2021). The best of all orders, and PRV, are of a
schedule that stood before round 1 (docs/privacy.md, Accountants).
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

ORDERS: tuple[float, ...] = (
    *(1 + tenth / 10 for tenth in range(1, 100)),
    *(float(order) for order in range(11, 64)),
    *(72.0, 80.0, 96.0, 112.0, 128.0, 160.0, 192.0, 224.0, 256.0, 320.0, 384.0, 448.0, 512.0),
)
"""Orders alpha at which Renyi DP is computed."""

PRV_UP_TO = 50.0
"""Epsilon by RDP above which PRV is not computed: its mesh grows with epsilon, up to the memory."""

PRV_POINTS = 2**23
"""Points of PRV's mesh above which it is not computed (half a gigabyte or so)."""

PRV_ERROR = 0.01
"""PRV's largest error in epsilon; it is added, so the result is an upper bound."""

DELTA_ERROR = 1e-3
"""PRV's error in delta, as a share of delta (Opacus' own choice)."""

LARGEST_LOG_NOISE = 14.0
"""Natural logarithm of a noise with which nothing is learned any more: a million."""

ROUNDING = 1e-12
"""Added to a step's Renyi DP: more than float64 loses in the sum of its series."""

Accountant = Literal["rdp", "prv"]


@dataclass(frozen=True)
class Charge:
    """Noisy steps that are alike.

    Attributes:
        noise: sigma, standard deviation of the noise as a multiple of the sensitivity.
        rate: q, the probability with which a patient is in a step; 1 for a sum over all.
        steps: how many steps.
    """

    noise: float
    rate: float
    steps: int

    def __post_init__(self) -> None:
        """Refuse what no accountant can answer for."""
        if not (math.isfinite(self.noise) and self.noise > 0):
            raise ValueError(f"noise is {self.noise}; without noise there is no epsilon")
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate is {self.rate}; a sampling rate is above 0 and at most 1")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps is {self.steps!r}; it must be a whole number, at least 1")


def added_up(charges: Iterable[Charge]) -> tuple[Charge, ...]:
    """Return the same steps with equal noise and rate in one charge each, in a fixed order."""
    steps: Counter[tuple[float, float]] = Counter()
    for charge in charges:
        steps[charge.noise, charge.rate] += charge.steps
    return tuple(Charge(noise, rate, n) for (noise, rate), n in sorted(steps.items()))


def epsilon_rdp(charges: Iterable[Charge], delta: float) -> float:
    """Return epsilon by Renyi DP at the best of all orders; 0 without charges.

    Sound for charges that do not depend on what was released, as those of a schedule that stood
    before round 1.
    """
    _check_delta(delta)
    charges = added_up(charges)
    if not charges:
        return 0.0
    total = renyi_at(charges, np.asarray(ORDERS)) + conversion(delta, np.asarray(ORDERS))
    return max(0.0, float(total.min()))


def epsilon_at(charges: Iterable[Charge], delta: float, order: float) -> float:
    """Return epsilon by Renyi DP at one order, by which a ledger gates; 0 without charges.

    If the order was fixed before the first charge, this is sound for charges that were chosen in
    the light of what was released, too: docs/privacy.md, Accountants.
    """
    _check_delta(delta)
    charges, alone = added_up(charges), np.asarray([order])
    if not charges:
        return 0.0
    return max(0.0, float((renyi_at(charges, alone) + conversion(delta, alone)).item()))


def renyi_at(charges: Iterable[Charge], orders: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Renyi DP of all charges at each order; it adds up, however they were chosen."""
    total = np.zeros(len(orders))
    for c in added_up(charges):
        total += c.steps * np.asarray([_renyi(c.noise, c.rate, order) for order in orders])
    return total


def conversion(delta: float, orders: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what turns Renyi DP into epsilon at each order (Balle et al. 2020, theorem 21)."""
    term: NDArray[np.float64] = np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (
        orders - 1
    )
    return term


def epsilon_prv(charges: Iterable[Charge], delta: float) -> float:
    """Return the tighter epsilon of a schedule that stood before its first step; 0 without charges.

    An upper bound, never above `epsilon_rdp`; equal to it where PRV does not fit into memory.
    Method: Gopi, Lee, Wutschitz 2021, in Opacus.
    """
    charges = added_up(charges)
    by_rdp = epsilon_rdp(charges, delta)
    if why_no_prv(charges, delta):
        return by_rdp
    return max(0.0, min(by_rdp, _by_prv(charges, delta, _prv_error(by_rdp))))


def why_no_prv(charges: Iterable[Charge], delta: float) -> str:
    """Return why PRV is not computed for a schedule; nothing where it is."""
    charges = added_up(charges)
    by_rdp = epsilon_rdp(charges, delta)
    if not charges:
        return "nothing is charged"
    if by_rdp >= PRV_UP_TO:
        return f"epsilon is {PRV_UP_TO:g} or more: its mesh grows with epsilon"
    if _points(charges, delta, _prv_error(by_rdp)) > PRV_POINTS:
        return "its mesh does not fit into memory for noise so small"
    return ""


def noise_for(
    stages: Sequence[tuple[float, int]],
    *,
    epsilon: float,
    delta: float,
    by: Accountant = "rdp",
    order: float | None = None,
    spent: Sequence[Charge] = (),
) -> float:
    """Return the smallest noise with which all stages together fit into a budget.

    Args:
        stages: (rate, steps) of each stage; all have the same noise.
        epsilon: the budget.
        delta: of the guarantee.
        by: `rdp` or `prv`.
        order: of Renyi DP, at which a ledger gates; None: the best one for what is planned.
        spent: what the ledger holds already.

    Returns:
        The noise multiplier, rounded up in the fourth digit.

    Raises:
        ValueError: no noise makes it fit.
    """
    rule = _rule(by, order)

    def above(log_noise: float) -> float:
        """Return how far above the budget a noise is; near enough linear to be searched fast."""
        charges = [Charge(math.exp(log_noise), *stage) for stage in stages]
        cost = min(max(rule([*spent, *charges], delta), 1e-12), 1e12)  # a finite logarithm
        return math.log(cost / epsilon)

    variance = 2 * math.log(1 / delta) * sum(rate**2 * steps for rate, steps in stages)
    guess = math.log(math.sqrt(variance) / epsilon + 0.4)  # of many small steps, and of few
    low = high = guess
    while above(high) > 0:
        low, high = high, high + 0.25 * 2 ** min(6, (high - guess) / 0.25)
        if high > LARGEST_LOG_NOISE:
            raise ValueError(
                f"no noise keeps this within epsilon {epsilon:g}: {rule(spent, delta):.3g} is spent"
            )
    while low == high or above(low) <= 0:
        low, high = low - 0.25, min(low, high)
    return _rounded_up(_root(above, low, high), above)


def _rule(by: Accountant, order: float | None) -> Callable[[Iterable[Charge], float], float]:
    if by == "prv":
        return epsilon_prv
    return epsilon_rdp if order is None else partial(epsilon_at, order=order)


def _root(above: Callable[[float], float], low: float, high: float) -> float:
    """Return about where a falling function, above at `low` and not at `high`, crosses zero."""
    from scipy.optimize import brentq

    return float(brentq(above, low, high, xtol=2e-5))


def _rounded_up(log_noise: float, above: Callable[[float], float]) -> float:
    """Return the noise in four digits, the smallest near by that is not above."""
    unit = 10.0 ** (math.floor(log_noise / math.log(10)) - 3)
    whole = math.ceil(math.exp(log_noise) / unit - 0.5)
    while above(math.log(_decimal(whole * unit))) > 0:
        whole += 1
    return _decimal(whole * unit)


def _decimal(noise: float) -> float:
    return float(f"{noise:.4g}")


@lru_cache(maxsize=2**18)
def _renyi(noise: float, rate: float, order: float) -> float:
    """Return Renyi DP of one step (Mironov, Talwar, Zhang 2019)."""
    from opacus.accountants.analysis.rdp import compute_rdp

    try:
        value = float(compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=[order])[0])
    except (ArithmeticError, ValueError):
        return math.inf  # this order's series cannot be summed in float64; others can
    if math.isnan(value) or value < -ROUNDING:
        return math.inf
    return max(0.0, value) + ROUNDING  # a step is never free


def _by_prv(charges: Sequence[Charge], delta: float, error: float) -> float:
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(c.noise, c.rate, c.steps) for c in charges]
    # At rate 1 and far from the mesh's middle numpy divides by zero where the result is not used.
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "largest order": of the mesh's size, not of the result
        found: float = accountant.get_epsilon(
            delta, eps_error=error, delta_error=delta * DELTA_ERROR
        )
    return float(found)


def _prv_error(by_rdp: float) -> float:
    """Return the error in epsilon that PRV is computed to: small epsilons need a finer mesh."""
    return min(PRV_ERROR, max(PRV_ERROR / 10, by_rdp / 200))


def _points(charges: Sequence[Charge], delta: float, error: float) -> float:
    """Return about how many points PRV's mesh would have (Gopi et al. 2021, remark 5.6)."""
    steps = sum(c.steps for c in charges)
    small = delta * DELTA_ERROR
    length = max(
        epsilon_rdp(charges, small / 4),
        *(epsilon_rdp([Charge(c.noise, c.rate, 1)], small / (8 * steps)) for c in charges),
    )
    return 2 * (length + 3) * math.sqrt(steps * math.log(12 / small) / 2) / error


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta}; it must be above 0 and below 1")
