"""Exact aggregation: the weighted mean of updates, the same bit for bit in every order of arrival.

Floating-point sums depend on their order (five updates in 120 orders give 60 different models), so
each product weight x delta is rounded once to a multiple of 2^-36 and summed as a 64-bit integer:
integer sums do not depend on order. The mean over N patients is then off by at most
sites / N x 2^-37, far below float32. docs/architecture.md gives the cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cardionets_core.errors import RunError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cardionets_core.messages import Update
    from cardionets_core.packing import Arrays, Groups

SCALE = 2.0**36
"""Steps per unit of the fixed-point sums."""

BLOCK = 2**16
"""Numbers that are converted at a time."""

LIMIT = 2.0**25
"""Largest sum of |delta| x weight over the sites, with a factor 4 to spare in an int64.

`screen` grants each update a 64th of it, so 64 screened updates always fit.
"""


class ExactMean:
    """Folds updates in one by one and forgets them: memory does not grow with the sites."""

    def __init__(self) -> None:
        self._sums: dict[str, Arrays] = {}
        self._load = 0.0
        self.weight = 0

    def fold(self, delta: Groups, weight: int) -> None:
        """Add one site's update with its weight (training patients).

        Raises:
            RunError: the sums might overflow; nothing of the update is then in them.
        """
        load = 0.0
        for part, arrays in delta.items():
            for name, array in arrays.items():
                load = max(load, magnitude(array) * weight)
                if not self._load + load <= LIMIT:  # also refuses NaN
                    raise RunError(f"update of {part}.{name} is too large to aggregate exactly")
        self._load += load
        self.weight += weight
        for part, arrays in delta.items():
            sums = self._sums.setdefault(part, {})
            for name, array in arrays.items():
                if name not in sums:
                    sums[name] = np.zeros(array.shape, dtype=np.int64)
                add_steps(sums[name].reshape(-1), array.reshape(-1), weight * SCALE)

    def mean(self) -> Groups:
        """Return the weighted mean as float64 arrays."""
        return {
            part: {n: np.asarray(s / (SCALE * self.weight)) for n, s in sums.items()}
            for part, sums in self._sums.items()
        }


def add_steps(sums: NDArray[np.int64], values: NDArray[Any], factor: float) -> None:
    """Add values x factor, rounded to whole steps, to `sums` in place; both are 1-D.

    In blocks that stay in the processor's cache: no temporary array as large as the model.
    """
    for start in range(0, len(values), BLOCK):
        part = slice(start, start + BLOCK)
        products = np.multiply(values[part], factor, dtype=np.float64)
        sums[part] += np.rint(products, out=products).astype(np.int64)


def magnitude(array: NDArray[Any]) -> float:
    """Return the largest absolute value; right for the most negative integer, too."""
    return max(float(array.max(initial=0)), -float(array.min(initial=0)))


def screen(update: Update, *, expected: Groups, max_examples: int) -> str | None:
    """Return why an update must not be aggregated, or None.

    Args:
        update: a site's answer to a training task.
        expected: the weights that were sent for the trained parts: names, shapes and dtypes.
        max_examples: training studies that the site declared in the handshake.
    """
    if not 1 <= update.num_examples <= max_examples:
        return "num_examples"
    if set(update.delta) != set(expected):
        return "parts"
    for part, arrays in expected.items():
        got = update.delta[part]
        if set(got) != set(arrays):
            return "keys"
        for name, array in arrays.items():
            if got[name].shape != array.shape or got[name].dtype != array.dtype:
                return "shape"
            if not np.isfinite(got[name]).all():
                return "not_finite"
            if magnitude(got[name]) * max_examples > LIMIT / 64:
                return "too_large"
    return None
