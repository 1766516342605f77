"""Exact aggregation: the weighted mean of updates, the same bit for bit in every order of arrival.

Floating-point sums depend on their order (five updates in 120 orders give 60 different models), so
each product weight x delta is rounded once to a multiple of 2^-36 and summed as a 64-bit integer:
integer sums do not depend on order, nor on how the sites are divided among servers. The mean over N
patients is then off by at most sites / N x 2^-37, far below float32. docs/scale.md gives the cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cardionets_core.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from cardionets_core.packing import Arrays, Groups

SCALE = 2.0**36
"""Steps per unit of the fixed-point sums."""

BLOCK = 2**16
"""Numbers that are converted at a time."""

ROUNDER = 1.5 * 2.0**52
"""A float64 of up to 2^51 plus this is rounded, half to even; its low bits are the whole number."""

EXACT = 2.0**51
"""Products below this are rounded with ROUNDER, larger ones by the slower `rint`: the same bits."""

LIMIT = 2.0**25
"""Largest sum of |delta| x weight over the sites, with a factor 4 to spare in an int64.

The firewall (screening.py) grants each update an equal share of it, a 64th at most, so the updates
that it lets through always fit together.
"""


class ExactMean:
    """Folds updates in one by one and forgets them: memory does not grow with the sites.

    A part is averaged over the sites whose updates hold it, its owners. `weight` counts all sites,
    each with the most studies that it has for a part.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Arrays] = {}
        self._weights: dict[str, int] = {}
        self._load = 0.0
        self.weight = 0

    def fold(self, delta: Groups, weight: int | Mapping[str, int]) -> None:
        """Add one site's update.

        Args:
            delta: of the parts that the site trained.
            weight: its training studies, for all of them or for each part.

        Raises:
            RunError: the sums might overflow; nothing of the update is then in them.
        """
        weights = dict.fromkeys(delta, weight) if isinstance(weight, int) else weight
        load = 0.0
        for part, arrays in delta.items():
            for name, array in arrays.items():
                load = max(load, magnitude(array) * weights[part])
                if not self._load + load <= LIMIT:  # also refuses NaN
                    raise RunError(f"update of {part}.{name} is too large to aggregate exactly")
        self._load += load
        self.weight += max((weights[part] for part in delta), default=0)
        for part, arrays in delta.items():
            self._weights[part] = self._weights.get(part, 0) + weights[part]
            sums = self._sums.setdefault(part, {})
            for name, array in arrays.items():
                if name not in sums:
                    sums[name] = np.zeros(array.shape, dtype=np.int64)
                small, factor = load * SCALE < EXACT, weights[part] * SCALE
                add_steps(sums[name].reshape(-1), array.reshape(-1), factor, small=small)

    def merge(self, other: ExactMean) -> None:
        """Add the sums of another server, over sites of its own: as if they had been folded here.

        Raises:
            RunError: the sums might overflow; nothing of the other's is then in them.
        """
        if not self._load + other._load <= LIMIT:
            raise RunError("the sums of two servers are too large to be added exactly")
        self._load += other._load
        self.weight += other.weight
        for part, theirs in other._sums.items():
            self._weights[part] = self._weights.get(part, 0) + other._weights[part]
            sums = self._sums.setdefault(part, {})
            for name, steps in theirs.items():
                sums[name] = sums[name] + steps if name in sums else steps.copy()

    def mean(self) -> Groups:
        """Return each part's mean over the sites that trained it, as float64 arrays.

        The means take the place of the sums, in the same memory; the sums are then used up.
        """
        sums, self._sums = self._sums, {}
        for part, arrays in sums.items():
            divisor = SCALE * self._weights.pop(part)
            for name, steps in arrays.items():
                arrays[name] = divide_steps(steps, divisor)
        return sums


def add_steps(sums: NDArray[np.int64], values: NDArray[Any], factor: float, *, small: bool) -> None:
    """Add values x factor, rounded to whole steps, to `sums` in place; both are 1-D.

    In blocks that stay in the processor's cache: no temporary array as large as the model.

    Args:
        sums: what is added to.
        values: of one array.
        factor: what they are multiplied with.
        small: no product is as large as EXACT.
    """
    scratch = np.empty(min(BLOCK, len(values)))
    for start in range(0, len(values), BLOCK):
        block = values[start : start + BLOCK]
        products = np.multiply(block, factor, out=scratch[: len(block)], dtype=np.float64)
        if small:
            products += ROUNDER
            steps = products.view(np.int64)
            steps -= np.float64(ROUNDER).view(np.int64)
        else:
            steps = np.rint(products, out=products).astype(np.int64)
        sums[start : start + BLOCK] += steps


def divide_steps(steps: NDArray[np.int64], divisor: float) -> NDArray[np.float64]:
    """Return steps / divisor in the memory of `steps`, block by block."""
    flat, quotients = steps.reshape(-1), steps.reshape(-1).view(np.float64)
    for start in range(0, len(flat), BLOCK):
        quotients[start : start + BLOCK] = flat[start : start + BLOCK] / divisor
    return quotients.reshape(steps.shape)


def magnitude(array: NDArray[Any]) -> float:
    """Return the largest absolute value; right for the most negative integer, too."""
    return max(float(array.max(initial=0)), -float(array.min(initial=0)))
