"""Five updates in their 120 orders of arrival: how many different models come out (figure 8)."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from server.aggregation import ExactMean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[Any]

STUDIES = (17, 280, 1033, 4, 96)
"""Training studies of the five hospitals."""

Weighted = tuple["Floats", int]
"""An update of one array and its weight."""

Average = Callable[[Sequence[Weighted]], "Floats"]
"""Averages updates in the order in which they are given."""


def five_updates(*, seed: int, decades: float, size: int = 1000) -> list[Weighted]:
    """Return five float32 updates.

    Args:
        seed: of their numbers.
        decades: over how many powers of ten the size of the numbers is spread.
        size: numbers in each.
    """
    rng = np.random.default_rng(seed)
    spread = 10.0 ** rng.uniform(-decades, 0, (len(STUDIES), size))
    deltas = (rng.standard_normal(spread.shape) * 1e-3 * spread).astype(np.float32)
    return list(zip(deltas, STUDIES, strict=True))


def different_models(average: Average, updates: Sequence[Weighted]) -> int:
    """Return how many different results the updates give over all orders, by SHA-256."""
    found = {
        hashlib.sha256(np.ascontiguousarray(average(order)).data).hexdigest()
        for order in itertools.permutations(updates)
    }
    return len(found)


def exact(updates: Sequence[Weighted]) -> Floats:
    """Average as our server does."""
    mean = ExactMean()
    for delta, weight in updates:
        mean.fold({"part": {"w": delta}}, weight)
    return mean.mean()["part"]["w"]


def float64_sum(updates: Sequence[Weighted]) -> Floats:
    """Average by a running float64 sum."""
    total = np.zeros(updates[0][0].shape)
    for delta, weight in updates:
        total += delta.astype(np.float64) * weight
    return total / sum(weight for _, weight in updates)
