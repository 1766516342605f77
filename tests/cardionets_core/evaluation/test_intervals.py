"""Closed-form intervals against SciPy, and against simulation where SciPy has none."""

import numpy as np
from scipy.stats import binomtest, pearsonr

from cardionets_core.evaluation.intervals import fisher, hanley_mcneil, wilson
from cardionets_core.evaluation.metrics import (
    auroc_estimate,
    average_precision_estimate,
    binary_sums,
    estimate,
    pearson_estimate,
    r_squared,
    regression_sums,
)


def test_fisher_is_scipys_interval():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 40))
    y = 0.5 * x + rng.normal(size=(5, 40))
    known = [pearsonr(a, b) for a, b in zip(x, y, strict=True)]
    r = np.array([k.statistic for k in known])
    low, high = fisher(r, np.full(5, 40.0))
    ends = [k.confidence_interval(0.95) for k in known]
    np.testing.assert_allclose(low, [e.low for e in ends], atol=1e-12)
    np.testing.assert_allclose(high, [e.high for e in ends], atol=1e-12)
    assert np.isnan(fisher(np.array([0.5]), np.array([3.0]))).all()


def test_wilson_is_scipys_interval():
    hits, trials = np.array([0.0, 3.0, 17.0, 20.0]), np.full(4, 20.0)
    low, high = wilson(hits / trials, trials)
    ends = [binomtest(int(h), 20).proportion_ci(method="wilson") for h in hits]
    np.testing.assert_allclose(low, [e.low for e in ends], atol=1e-12)
    np.testing.assert_allclose(high, [e.high for e in ends], atol=1e-12)


def test_hanley_and_mcneil_cover_the_truth():
    """95 of 100 intervals should hold it; scores of the exponential family meet their model."""
    rng = np.random.default_rng(1)
    truth, held, repeats = 0.8, 0, 400
    rate = truth / (1 - truth)  # AUROC of Exp(1/rate) against Exp(1)
    for _ in range(repeats):
        absent, present = rng.exponential(size=60), rate * rng.exponential(size=40)
        area = np.array((present[:, None] > absent[None]).mean())
        low, high = hanley_mcneil(area, np.array(40.0), np.array(60.0))
        held += bool(low <= truth <= high)
    assert 0.91 <= held / repeats <= 0.99
    low, high = hanley_mcneil(np.array(1.0), np.array(15.0), np.array(15.0))
    assert 0 <= low <= high <= 1
    assert np.isnan(hanley_mcneil(np.array(0.9), np.array(9.0), np.array(70.0))).all()


def test_without_replicates_every_metric_is_defined_and_r_and_auroc_have_intervals():
    rng = np.random.default_rng(2)
    truth, weights = rng.normal(size=(50, 3)), np.ones((1, 50))
    guess = truth + rng.normal(size=truth.shape)
    known = np.ones(truth.shape, dtype=bool)
    sums = regression_sums(truth, known, {"ecg": guess}, weights)
    r, r2 = pearson_estimate(sums, "ecg"), estimate(r_squared(sums, "ecg"))
    assert np.isfinite(r2.value).all() and np.isnan(r2.low).all() and np.isnan(r2.high).all()
    assert (r.low < r.value).all() and (r.value < r.high).all()
    share = rng.random((50, 3))
    counted = binary_sums(truth > 0, known, share, share, weights, bins=(256, 64, 10))
    area = auroc_estimate(counted)
    assert (area.low < area.value).all() and (area.value < area.high).all()
    assert np.isfinite(average_precision_estimate(counted).value).all()
    assert np.isnan(average_precision_estimate(counted).low).all()
