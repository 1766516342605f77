"""Exact aggregation: the weighted mean of updates, the same bit for bit in every order of arrival.

Floating-point sums depend on their order (five updates in 120 orders give 60 different models), so
each product weight x delta is rounded once to a multiple of 2^-36 and summed as a 64-bit integer:
integer sums do not depend on order. The mean over N patients is then off by at most
sites / N x 2^-37, far below float32. docs/architecture.md gives the cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cardionets_core.errors import RunError

if TYPE_CHECKING:
    from cardionets_core.messages import Update
    from cardionets_core.packing import Arrays, Groups

SCALE = 2.0**36
"""Steps per unit of the fixed-point sums."""

LIMIT = 2.0**25
"""Largest |delta| x total weight that the sums hold without overflow, with a factor 2 to spare."""


class ExactMean:
    """Folds updates in one by one and forgets them: memory does not grow with the sites."""

    def __init__(self) -> None:
        self._sums: dict[str, Arrays] = {}
        self.weight = 0

    def fold(self, delta: Groups, weight: int) -> None:
        """Add one site's update with its weight (training patients).

        Raises:
            RunError: the sums would overflow; `screen` refuses such updates first.
        """
        self.weight += weight
        for part, arrays in delta.items():
            sums = self._sums.setdefault(part, {})
            for name, array in arrays.items():
                if float(np.abs(array).max(initial=0.0)) * self.weight > LIMIT:
                    raise RunError(f"update of {part}.{name} is too large to aggregate exactly")
                steps = np.rint(array.astype(np.float64) * (weight * SCALE)).astype(np.int64)
                if name in sums:
                    sums[name] += steps
                else:
                    sums[name] = steps

    def mean(self) -> Groups:
        """Return the weighted mean as float64 arrays."""
        return {
            part: {n: s / (SCALE * self.weight) for n, s in sums.items()}
            for part, sums in self._sums.items()
        }


def screen(update: Update, *, expected: Groups, max_examples: int) -> str | None:
    """Return why an update must not be aggregated, or None.

    Args:
        update: a site's answer to a training task.
        expected: the weights that were sent for the trained parts: names, shapes and dtypes.
        max_examples: training patients that the site declared in the handshake.
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
            if float(np.abs(got[name]).max(initial=0.0)) * max_examples > LIMIT / 64:
                return "too_large"
    return None
