"""The noise and the coins: their size, their law, and that none of them is ever used twice."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import stats

from cardionets_core.privacy.mechanism import Mechanism
from cardionets_core.privacy.rng import PrivacyRandom, require_production
from cardionets_core.privacy.step import set_noisy_mean
from simulations.privacy.linear import PART, linear_model
from simulations.privacy.row import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

SIZE = 200_000
"""Coordinates of a step: the standard error of a standard deviation is 0.16 %."""

NOISE, CLIP, GROUPS, STEPS = 1.3, 0.5, 4.0, 4
RATE, PATIENTS, SAMPLES = 0.0625, 400, 2000
CHANCE = 1e-4
"""Probability below which a result is called impossible."""

SEEDS = "os"


def noise(work: Path) -> Iterator[Row]:
    """Measure all of it; nothing is seeded, as in production."""
    for grouping, factor in (("patient", 1.0), ("bucket", 2.0)):
        yield from _steps(grouping, factor)
    yield _reseeded()
    yield from _sampler()
    yield _no_copy()


def released(grouping: str) -> Floats:
    """Return what one step releases of a sum over nobody, times its constant divisor."""
    mechanism = Mechanism(NOISE, RATE, CLIP, grouping, GROUPS, 1)  # type: ignore[arg-type]
    model = linear_model(SIZE)
    parameters = dict(model.named_parameters())
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
    set_noisy_mean(parameters, total, mechanism, PrivacyRandom())
    gradient = parameters[f"{PART}.weight"].grad
    assert gradient is not None  # it has just been set
    found: Floats = gradient.double().numpy() * GROUPS
    return found


def _steps(grouping: str, factor: float) -> Iterator[Row]:
    steps = [released(grouping) for _ in range(STEPS)]
    wanted = NOISE * factor * CLIP
    ratio = max((float(s.std()) / wanted for s in steps), key=lambda r: abs(r - 1))
    words = "C" if factor == 1 else "2C"
    yield Row(
        f"noise of a step in which nobody was sampled, {grouping}: std over sigma {words}",
        "0.98 to 1.02",
        f"{ratio:.4f}",
        abs(ratio - 1) <= 0.02,
        seeds=SEEDS,
        note=f"the worst of {STEPS} steps of {SIZE:,} coordinates",
    )
    if grouping == "patient":
        smallest = min(float(stats.kstest(s / wanted, "norm").pvalue) for s in steps)
        p = min(1.0, smallest * STEPS)  # Bonferroni: the smallest of so many
        yield Row("its law: Kolmogorov and Smirnov against the normal", *_likely(p), seeds=SEEDS)
        yield _independent("between steps", [(a, b) for a, b in pairwise(steps)])


def _independent(words: str, pairs: list[tuple[Floats, Floats]]) -> Row:
    worst = max(abs(float(np.corrcoef(a, b)[0, 1])) for a, b in pairs)
    limit = float(stats.norm.isf(CHANCE / 2)) / np.sqrt(SIZE)
    return Row(
        f"correlation of the noise {words}",
        f"|r| < {limit:.4f}",
        f"{worst:.5f}",
        bool(worst < limit),
        seeds=SEEDS,
    )


def _reseeded() -> Row:
    """The usual recipe of federated learning seeds every round; the noise must not care."""
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        found.append(released("patient"))
    return _independent("of two rounds that begin with the same seed", [(found[0], found[1])])


def _sampler() -> Iterator[Row]:
    rng = PrivacyRandom()
    drawn = np.stack([rng.bernoulli(PATIENTS, RATE) for _ in range(SAMPLES)])
    p = float(stats.binomtest(int(drawn.sum()), drawn.size, RATE).pvalue)
    yield Row("sampling rate of a patient", *_likely(p), seeds=SEEDS)
    sizes = drawn.sum(1)
    share = float(sizes.var(ddof=1)) / (PATIENTS * RATE * (1 - RATE))
    yield Row(
        "variance of the number sampled, over that of independent coins",
        "0.85 to 1.15",
        f"{share:.3f}",
        0.85 <= share <= 1.15,
        seeds=SEEDS,
        note="0 would be batches of a fixed size, for which the accountant does not hold",
    )
    labels = np.bincount(rng.integers(40_000, 8), minlength=8)
    yield Row(
        "bucket labels are uniform", *_likely(float(stats.chisquare(labels).pvalue)), seeds="os"
    )


def _likely(p: float) -> tuple[str, str, bool]:
    return f"p > {CHANCE:g}", f"p = {p:.3g}", p > CHANCE


def _no_copy() -> Row:
    """A source that could be written or copied would repeat its noise."""
    rng = PrivacyRandom()
    refused = {
        "pickle": _refuses(lambda: rng.__reduce_ex__(4)),  # what pickle calls
        "copy": _refuses(lambda: copy.deepcopy(rng)),
        "a source with a seed": _refuses(lambda: require_production(_Seeded())),
    }
    return Row(
        "a source of noise that can be repeated is refused",
        ", ".join(refused),
        ", ".join(name for name, found in refused.items() if found) or "none of them",
        all(refused.values()),
    )


def _refuses(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except TypeError:
        return True
    return False


class _Seeded:
    """What a coordinator could repeat."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def bernoulli(self, n: int, rate: float) -> NDArray[np.bool_]:
        return self._rng.random(n) < rate

    def integers(self, n: int, high: int) -> NDArray[np.int64]:
        return self._rng.integers(high, size=n)

    def normal(self, shape: tuple[int, ...], std: float) -> Floats:
        return self._rng.normal(0.0, std, shape)
