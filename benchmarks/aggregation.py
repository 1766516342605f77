"""What exact aggregation costs beside a plain float64 sum, and what it buys.

python benchmarks/aggregation.py

Prints time and memory of folding one site's update into the running sum: fixed-point int64 (what
the server does) against a float64 sum, for the tiny preset and for one array of 40 M numbers (the
size of `small`); then how many different models five updates give in their 120 orders of arrival,
also for a float32 mean with weights n / N, as Flower's FedAvg takes it.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import platform
import sys
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np

from cardionets_core.checkpoint import part_arrays
from cardionets_core.model_config import ModelConfig
from cardionets_core.models.cardionet import PARTS, build_model
from server.aggregation import ExactMean

if TYPE_CHECKING:
    from collections.abc import Callable

    from cardionets_core.packing import Groups

REPEATS = 7
SITES = 5


class FloatMean:
    """The plain way: a weighted sum in float64."""

    def __init__(self) -> None:
        self._sums: Groups = {}
        self.weight = 0

    def fold(self, delta: Groups, weight: int) -> None:
        """Add one site's update."""
        self.weight += weight
        for part, arrays in delta.items():
            sums = self._sums.setdefault(part, {})
            for name, array in arrays.items():
                product = array.astype(np.float64) * weight
                if name in sums:
                    sums[name] += product
                else:
                    sums[name] = product

    def mean(self) -> Groups:
        """Return the weighted mean."""
        return {
            part: {n: s / self.weight for n, s in sums.items()} for part, sums in self._sums.items()
        }


class ShareMean(FloatMean):
    """A float32 sum of n / N x delta; N is known beforehand, as in a framework that waits."""

    def fold(self, delta: Groups, weight: int) -> None:
        """Add one site's share."""
        self.weight = 1
        share = np.float32(weight / 1430)
        sums = self._sums.setdefault("p", {"w": np.zeros(1000, dtype=np.float32)})
        sums["w"] += delta["p"]["w"] * share


def like_tiny() -> Groups:
    """Return a delta with the shapes of the tiny preset."""
    model, rng = build_model(ModelConfig()), np.random.default_rng(0)
    return {p: {n: noise(rng, a.shape) for n, a in part_arrays(model, p).items()} for p in PARTS}


def one_large_array() -> Groups:
    """Return a delta of 40 M numbers in one array."""
    return {"part": {"w": noise(np.random.default_rng(0), (40_000_000,))}}


def noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return updates of the size that training gives."""
    return np.asarray(rng.standard_normal(shape, dtype=np.float32) * np.float32(1e-3))


def seconds_per_fold(make: Callable[[], Any], delta: Groups) -> float:
    """Return the median time of folding one update into sums that exist."""
    mean = make()
    mean.fold(delta, 10)
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        mean.fold(delta, 10)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def peak_bytes(make: Callable[[], Any], delta: Groups) -> int:
    """Return the peak of allocated memory over five folds, the update itself left out."""
    tracemalloc.start()
    mean = make()
    for _ in range(SITES):
        mean.fold(delta, 10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def models_of_120_orders(make: Callable[[], Any], decades: float) -> int:
    """Return how many different models five updates give, over all orders of arrival.

    Args:
        make: the mean.
        decades: over how many powers of ten the size of the 1000 numbers is spread.
    """
    rng, found = np.random.default_rng(3), set()
    sizes = 10.0 ** rng.uniform(-decades, 0, (5, 1000))
    deltas = [(noise(rng, (1000,)) * size).astype(np.float32) for size in sizes]
    updates = list(zip(deltas, (17, 280, 1033, 4, 96), strict=True))
    for order in itertools.permutations(updates):
        mean = make()
        for delta, weight in order:
            mean.fold({"p": {"w": delta}}, weight)
        found.add(hashlib.sha256(mean.mean()["p"]["w"].tobytes()).hexdigest())
    return len(found)


def main() -> None:
    """Print the table."""
    print(f"command    python {' '.join(sys.argv)}")
    print(f"machine    {platform.platform()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    print(f"versions   Python {platform.python_version()}, NumPy {np.__version__}")
    for title, delta in (("tiny preset", like_tiny()), ("40 M in one array", one_large_array())):
        size = sum(a.nbytes for arrays in delta.values() for a in arrays.values())
        exact, plain = seconds_per_fold(ExactMean, delta), seconds_per_fold(FloatMean, delta)
        most, least = peak_bytes(ExactMean, delta), peak_bytes(FloatMean, delta)
        print(f"\n{title}: {size / 1e6:.1f} MB per update")
        print(f"  time     exact {exact * 1e3:8.1f} ms   float64 {plain * 1e3:8.1f} ms", end="")
        print(f"   ratio {exact / plain:.2f}")
        print(f"  memory   exact {most / 1e6:8.1f} MB   float64 {least / 1e6:8.1f} MB", end="")
        print(f"   ratio {most / least:.2f}   ({most / size:.1f} x the update)")
    print(f"\ndifferent models of {SITES} updates in 120 orders")
    for decades in (0.0, 8.0):
        exact, plain, share = (
            models_of_120_orders(m, decades) for m in (ExactMean, FloatMean, ShareMean)
        )
        print(f"  sizes over {decades:.0f} decades   exact {exact}   float64 {plain}", end="")
        print(f"   float32 shares {share}")


if __name__ == "__main__":
    main()
