"""From the mean update to the next global model; pure functions on named arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from cardionets_core.packing import Groups


def fedavg(weights: Groups, mean_delta: Groups) -> Groups:
    """Return weights + mean delta (McMahan et al. 2017, with the mean taken over patients).

    Floating arrays keep their dtype; integer arrays keep their value, and so do parts and arrays
    that `mean_delta` does not hold.
    """
    return {
        part: {
            name: stepped(array, mean_delta[part][name])
            if name in mean_delta.get(part, {})
            else array
            for name, array in arrays.items()
        }
        for part, arrays in weights.items()
    }


def moving_average(average: Groups, weights: Groups, *, examples: int, half_life: float) -> Groups:
    """Return the exponential moving average after `examples` more patients.

    Args:
        average: the average so far, same names and shapes as `weights`.
        weights: the newest global weights.
        examples: patients seen since the last call, over all sites and local epochs.
        half_life: patients after which an old model counts half.
    """
    keep = 0.5 ** (examples / half_life)
    return {
        part: {
            n: stepped(average[part][n], (1 - keep) * (w - average[part][n]))
            for n, w in arrays.items()
        }
        for part, arrays in weights.items()
    }


def stepped(array: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """Return array + delta, summed in float64, in the array's dtype; whole numbers stay."""
    if not np.issubdtype(array.dtype, np.floating):
        return array
    return np.asarray(array.astype(np.float64) + delta, dtype=array.dtype)
