"""Auditing differential privacy in one run: canaries, a lower bound on epsilon, and moments.

    included = rng.random(1000) < 0.5                    # each canary by a coin of its own
    scores = ...                                         # high where a canary seems to be in
    found = audit(scores, included, delta=1e-5)          # epsilon is at least found.epsilon
    check = moments(scores, included, expected)          # white-box runs only

A lower bound that stays below the promised epsilon proves little: noise a quarter of what it
should be still passes in most settings, and noise that is the same in every step looks MORE
private. The moment check has no such blind spot, because it is two-sided: where the canaries'
gradients are known, so are the mean and the spread that their scores must have. Nothing here
imports the engine: what judges it is code of its own.

Steinke, Nasr, Jagielski, "Privacy auditing with one (1) training run", NeurIPS 2023.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

SHARES = (0.1, 0.2, 0.4, 1.0)
"""Shares of the canaries that are guessed; the best counts, the confidence is split over them."""

EPSILON_MOST = 30.0
"""Where the search for the bound ends; no number of canaries that fits a run reaches it."""

TOLERANCE = 0.1
"""How far a moment may lie from its expectation, as a share of it."""


@dataclass(frozen=True)
class LowerBound:
    """What an attacker's guesses prove.

    Attributes:
        epsilon: the mechanism is not (epsilon', delta)-private for any epsilon' below, unless an
            event of probability 1 - confidence has happened.
        guesses: canaries that were guessed.
        correct: of them, rightly.
    """

    epsilon: float
    guesses: int
    correct: int


@dataclass(frozen=True)
class Expected:
    """What the scores of known canaries must look like, in the unit of the released sums.

    Attributes:
        gap: mean score of an included canary minus that of one left out.
        std_out: standard deviation of the score of a canary that was left out.
        std_in: of one that was included.
    """

    gap: float
    std_out: float
    std_in: float


@dataclass(frozen=True)
class Moments:
    """Measured over expected, 1 where the mechanism does what it says.

    Attributes:
        gap: ratio of the mean gaps: wrong rate, clip or normaliser.
        std_out: ratio of the spreads without the canary: wrong noise, or noise that is used twice.
        std_in: ratio of the spreads with it: likewise, and the sampler's law.
    """

    gap: float
    std_out: float
    std_in: float

    @property
    def worst(self) -> float:
        """The largest distance of a ratio from 1."""
        return max(abs(r - 1.0) for r in (self.gap, self.std_out, self.std_in))

    @property
    def hold(self) -> bool:
        """Whether all three lie within TOLERANCE; False where one is not a number."""
        return self.worst <= TOLERANCE


def p_value(
    canaries: int, guesses: int, correct: int, *, epsilon: float, delta: float = 0.0
) -> float:
    """Bound the probability that an (epsilon, delta)-private run allows so many right guesses.

    Theorem 5.2 of Steinke et al. 2023. With r guesses, v right, p = e^eps / (1 + e^eps) and B the
    binomial(r, p): P[right >= v] <= P[B >= v] + 2 m delta max_i P[v > B >= v - i] / i.

    Args:
        canaries: m, each included by an independent fair coin.
        guesses: r, at most m.
        correct: v.
        epsilon: of the hypothesis.
        delta: likewise.
    """
    if not 0 <= correct <= guesses <= canaries:
        raise ValueError(f"{correct} right of {guesses} guesses of {canaries} canaries cannot be")
    if correct == 0:
        return 1.0
    p = 1.0 / (1.0 + math.exp(-epsilon))
    tail = float(stats.binom.sf(correct - 1, guesses, p))
    if delta == 0.0:
        return tail
    below = stats.binom.pmf(np.arange(correct - 1, -1, -1), guesses, p)
    slope = float((np.cumsum(below) / np.arange(1, correct + 1)).max())
    return min(1.0, tail + 2.0 * canaries * delta * slope)


def epsilon_lower_bound(
    canaries: int, guesses: int, correct: int, *, delta: float = 0.0, confidence: float = 0.95
) -> float:
    """Return the largest epsilon that the guesses refute at this confidence, 0 where none."""
    allowed = 1.0 - confidence
    if p_value(canaries, guesses, correct, epsilon=0.0, delta=delta) > allowed:
        return 0.0
    low, high = 0.0, EPSILON_MOST
    for _ in range(32):
        middle = (low + high) / 2
        if p_value(canaries, guesses, correct, epsilon=middle, delta=delta) <= allowed:
            low = middle
        else:
            high = middle
    return low


def audit(
    scores: Floats,
    included: Flags,
    *,
    delta: float = 0.0,
    confidence: float = 0.95,
    shares: Sequence[float] = SHARES,
) -> LowerBound:
    """Guess from the scores which canaries were in the run, and return what that proves.

    Half of the guesses say `in` (the highest scores), half say `out` (the lowest); the others are
    abstentions. As several shares are tried, each gets its part of what may go wrong (Bonferroni).

    Args:
        scores: [m], higher where a canary seems to be in.
        included: [m], by independent fair coins.
        delta: at which epsilon is bounded.
        confidence: of the bound that is returned.
        shares: of the canaries that are guessed.
    """
    count = len(scores)
    if count < 2 or len(included) != count:
        raise ValueError(f"{count} scores for {len(included)} canaries; at least 2 of each")
    order = np.argsort(scores, kind="stable")
    each = 1.0 - (1.0 - confidence) / len(shares)
    best = LowerBound(0.0, 0, 0)
    for share in shares:
        half = max(1, int(count * share / 2))
        correct = int((~included[order[:half]]).sum() + included[order[-half:]].sum())
        found = epsilon_lower_bound(count, 2 * half, correct, delta=delta, confidence=each)
        if not best.guesses or found > best.epsilon:
            best = LowerBound(found, 2 * half, correct)
    return best


def expected_moments(*, gradient: float, rate: float, noise_std: float, steps: int) -> Expected:
    """Return the moments of a canary's score: the sum of what was released in its own coordinate.

    In each of T steps the canary is sampled with probability q and then adds its clipped gradient
    g; Gaussian noise of standard deviation s is always added, fresh in every step. So the mean gap
    is T q g, the variance T s^2 without the canary and T (s^2 + q (1 - q) g^2) with it.

    Args:
        gradient: g, the norm of the canary's gradient after clipping.
        rate: q.
        noise_std: s, of the noise on the sum: sigma C per patient, sigma 2C for buckets.
        steps: T.
    """
    spread = noise_std**2 + rate * (1.0 - rate) * gradient**2
    return Expected(
        gap=steps * rate * gradient,
        std_out=math.sqrt(steps) * noise_std,
        std_in=math.sqrt(steps * spread),
    )


def moments(scores: Floats, included: Flags, expected: Expected) -> Moments:
    """Compare the scores of canaries with what the mechanism must give; needs some of both kinds.

    Args:
        scores: [m], sums of what was released in each canary's own coordinate.
        included: [m].
        expected: of `expected_moments`.
    """
    inside, outside = scores[included], scores[~included]
    if min(len(inside), len(outside)) < 2:
        raise ValueError("moments need at least two canaries that are in and two that are out")
    return Moments(
        gap=float(inside.mean() - outside.mean()) / expected.gap,
        std_out=float(outside.std(ddof=1)) / expected.std_out,
        std_in=float(inside.std(ddof=1)) / expected.std_in,
    )
