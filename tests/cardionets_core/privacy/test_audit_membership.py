"""Membership inference and copies of training images: what is there is found, and only that."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from cardionets_core.privacy.copies import copies
from cardionets_core.privacy.membership import auc, judged, likelihood_ratios, true_positives

SHADOWS, TARGETS, PATIENTS = 32, 4, 300


def federation(seed, shift):
    """Return what an attacker has, and the truth: a member's score is higher by `shift` sd."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(0, 3, PATIENTS)  # patients differ more than membership makes
    inside = rng.random((SHADOWS + TARGETS, PATIENTS)) < 0.5
    inside[:2] = [[True], [False]]
    scores = hard + shift * inside + rng.normal(0, 1, inside.shape)
    return scores[:SHADOWS], inside[:SHADOWS], scores[SHADOWS:], inside[SHADOWS:]


def test_a_member_who_fits_better_is_found_as_well_as_can_be():
    shadow, shadow_in, target, truth = federation(0, shift=2.0)
    found = judged(likelihood_ratios(shadow, shadow_in, target), truth, seed=0)
    best = stats.norm.cdf(2.0 / math.sqrt(2))  # of anyone who knows both distributions
    assert found.low < found.auc < found.high and found.better_than_chance
    assert found.auc == pytest.approx(best, abs=0.03)
    # Without shadows the patients' own difficulty drowns it.
    assert auc(target.ravel(), truth.ravel()) < 0.7


def test_a_model_that_tells_nothing_gives_chance():
    covered = 0
    for seed in range(6):
        shadow, shadow_in, target, truth = federation(seed, shift=0.0)
        found = judged(likelihood_ratios(shadow, shadow_in, target), truth, seed=0)
        covered += found.low <= 0.5 <= found.high
        assert abs(found.auc - 0.5) < 0.06
    assert covered >= 4


def test_a_patient_without_shadows_of_both_kinds_is_refused():
    shadow, shadow_in, target, _ = federation(0, 1.0)
    shadow_in[:, 5] = True
    with pytest.raises(ValueError, match="out of some"):
        likelihood_ratios(shadow, shadow_in, target)


def test_the_area_is_that_of_scikit_learn_with_ties():
    rng = np.random.default_rng(3)
    values, member = rng.integers(0, 6, 400).astype(float), rng.random(400) < 0.3
    assert auc(values, member) == pytest.approx(roc_auc_score(member, values), abs=1e-12)
    assert math.isnan(auc(values, np.ones(400, dtype=bool)))


def test_true_positives_at_one_false_alarm_in_a_hundred():
    values = np.concatenate([np.arange(100.0), [98.5, 99.5, 3.0, 120.0]])
    member = np.arange(104) >= 100
    # One of 100 others may be above: the limit is the second largest, 98.
    assert true_positives(values, member, false_alarms=0.01) == 0.75
    assert true_positives(values, member, false_alarms=0.0) == 0.5


def images(rng, count):
    return rng.normal(0, 1, (count, 20))


def distances(made, real):
    return np.linalg.norm(made[:, None] - real[None], axis=2).min(axis=1)


@pytest.mark.parametrize(("copied", "found"), [(0.0, False), (0.4, True), (1.0, True)])
def test_a_generator_that_copies_is_found(copied, found):
    rng = np.random.default_rng(7)
    training, held_out, made = (images(rng, 200) for _ in range(3))
    count = int(copied * len(made))
    made[:count] = training[:count] + rng.normal(0, 0.05, (count, 20))
    result = copies(distances(made, training), distances(made, held_out))
    assert result.found is found, result
    assert result.low <= result.nearer_training <= result.high
    if copied == 1.0:
        assert result.nearer_training == 1.0 and result.ratio < 0.1


def test_equal_distances_count_as_half():
    same = copies(np.ones(10), np.ones(10))
    assert same.nearer_training == 0.5 and not same.found and same.ratio == 1.0
    with pytest.raises(ValueError, match="as many of both"):
        copies(np.ones(3), np.ones(4))
