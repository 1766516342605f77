"""The statistics of the audit: golden values by hand, and bugs that each of them must see."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from cardionets_core.privacy.audit import (
    audit,
    epsilon_lower_bound,
    expected_moments,
    moments,
    p_value,
)

STEPS, RATE, SIGMA, CLIP, CANARIES = 64, 0.25, 0.5, 1.0, 3000


def released(seed, bug=""):
    """Return (scores, included) of canaries with gradient C e_i in T noisy steps, with a bug."""
    rng = np.random.default_rng(seed)
    included = rng.random(CANARIES) < 0.5
    std = SIGMA * CLIP / (4 if bug == "noise/4" else 1)
    clip = CLIP * (2 if bug == "2C" else 1)
    once = rng.normal(0, std, CANARIES)
    scores = np.zeros(CANARIES)
    for _ in range(STEPS):
        sampled = (rng.random(CANARIES) < RATE) & included
        scores += clip * sampled + (once if bug == "same noise" else rng.normal(0, std, CANARIES))
    return scores, included


EXPECTED = expected_moments(gradient=CLIP, rate=RATE, noise_std=SIGMA * CLIP, steps=STEPS)


@pytest.mark.parametrize(("guesses", "confidence"), [(1000, 0.95), (50, 0.99)])
def test_only_right_guesses_give_the_closed_form(guesses, confidence):
    # p^r = 1 - confidence with p = e^eps / (1 + e^eps)
    p = (1 - confidence) ** (1 / guesses)
    found = epsilon_lower_bound(guesses, guesses, guesses, confidence=confidence)
    assert found == pytest.approx(math.log(p / (1 - p)), abs=1e-6)


def test_the_p_value_is_that_of_exact_fractions():
    canaries, guesses, correct, delta = 40, 12, 9, Fraction(1, 1000)
    p = Fraction(3, 4)  # epsilon = log 3

    def pmf(k):
        return math.comb(guesses, k) * p**k * (1 - p) ** (guesses - k)

    tail = sum(pmf(k) for k in range(correct, guesses + 1))
    slope = max(
        sum(pmf(k) for k in range(max(0, correct - i), correct)) / i for i in range(1, canaries + 1)
    )
    exact = float(tail + 2 * canaries * delta * slope)
    found = p_value(canaries, guesses, correct, epsilon=math.log(3), delta=float(delta))
    assert found == pytest.approx(exact, rel=1e-12)


def test_guessing_like_a_coin_proves_nothing():
    assert epsilon_lower_bound(1000, 1000, 500) == 0.0
    assert p_value(1000, 1000, 0, epsilon=0.0) == 1.0
    with pytest.raises(ValueError, match="12 right of 10 guesses"):
        p_value(20, 10, 12, epsilon=0.0)


def test_the_bound_holds_for_randomised_response_and_is_close():
    """Each canary's coin is told truthfully with probability e / (1 + e): epsilon is exactly 1."""
    found = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        included = rng.random(2000) < 0.5
        truthful = rng.random(2000) < math.e / (1 + math.e)
        scores = np.where(included == truthful, 1.0, -1.0) + rng.normal(0, 0.01, 2000)
        found.append(audit(scores, included).epsilon)
    assert np.mean(np.array(found) > 1.0) <= 0.1  # promised: 0.05
    assert np.mean(found) > 0.8


def test_the_moments_of_the_right_mechanism_hold():
    for seed in range(5):
        check = moments(*released(seed), EXPECTED)
        assert check.hold, check


@pytest.mark.parametrize(
    ("bug", "moment", "ratio"),
    [("noise/4", "std_out", 1 / 4), ("same noise", "std_out", math.sqrt(STEPS)), ("2C", "gap", 2)],
)
def test_the_moment_check_sees_each_bug(bug, moment, ratio):
    check = moments(*released(1, bug), EXPECTED)
    assert not check.hold
    assert getattr(check, moment) == pytest.approx(ratio, rel=0.1)


def test_the_bound_alone_is_blind_to_noise_that_is_used_again():
    """Why the moments are there: the worst of bugs looks more private than the right mechanism."""
    right, reused = (audit(*released(2, b), delta=1e-5).epsilon for b in ("", "same noise"))
    assert right > 1.0 and reused < right / 2


def test_too_few_canaries_are_refused():
    with pytest.raises(ValueError, match="two that are out"):
        moments(np.ones(3), np.ones(3, dtype=bool), EXPECTED)
    with pytest.raises(ValueError, match="scores for"):
        audit(np.ones(3), np.ones(4, dtype=bool))
