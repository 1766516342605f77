"""Metrics from sums against scikit-learn, SciPy and themselves on pooled predictions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from cardionets_core.errors import WireError
from cardionets_core.evaluation import metrics
from cardionets_core.evaluation.sums import bootstrap_weights, merge, section, under

BINS = (256, 64, 10)


def _people(count: int, start: int = 0) -> list[str]:
    return [f"p{i}" for i in range(start, start + count)]


def _regression(rng, count=300, columns=3):
    truth = rng.normal([0.0, 1.0, -2.0], 1.0, size=(count, columns))
    prediction = 0.6 * truth + 0.5 * rng.normal(size=truth.shape)
    mask = rng.random(truth.shape) < 0.8
    return truth, prediction, mask


def _scores(rng, count=400):
    truth = rng.random((count, 2)) < [0.3, 0.08]
    logit = rng.normal(size=truth.shape) + 1.3 * truth - 1.0
    return truth, 1 / (1 + np.exp(-logit)), rng.random(truth.shape) < 0.9


def test_regression_agrees_with_sklearn_and_scipy():
    truth, prediction, mask = _regression(np.random.default_rng(0))
    weights = bootstrap_weights(_people(len(truth)), replicates=30, seed=1)
    sums = metrics.regression_sums(truth, mask, {"ecg": prediction}, weights)
    for column in range(truth.shape[1]):
        y, p = (a[mask[:, column], column] for a in (truth, prediction))
        assert metrics.r_squared(sums, "ecg")[0, column] == pytest.approx(
            sk.r2_score(y, p), abs=1e-10
        )
        assert metrics.pearson(sums, "ecg")[0, column] == pytest.approx(stats.pearsonr(y, p)[0])
        mae = metrics.mean_absolute_error(sums, "ecg")[0, column]
        assert mae == pytest.approx(sk.mean_absolute_error(y, p))


def test_replicates_are_weighted_metrics():
    truth, prediction, mask = _regression(np.random.default_rng(1), columns=3)
    weights = bootstrap_weights(_people(len(truth)), replicates=25, seed=5)
    sums = metrics.regression_sums(truth, mask, {"ecg": prediction}, weights)
    row = 7
    y, p, w = truth[mask[:, 0], 0], prediction[mask[:, 0], 0], weights[row, mask[:, 0]]
    expected = sk.r2_score(y, p, sample_weight=w)
    assert metrics.r_squared(sums, "ecg")[row, 0] == pytest.approx(expected, abs=1e-10)


def test_constant_truth_and_constant_predictor_are_undefined_not_infinite():
    truth, mask = np.full((20, 1), 0.3), np.ones((20, 1), bool)
    weights = bootstrap_weights(_people(20), replicates=20, seed=0)
    sums = metrics.regression_sums(truth, mask, {"ecg": truth + 1}, weights)
    assert np.isnan(metrics.r_squared(sums, "ecg")).all()
    varied = np.linspace(-1, 1, 20)[:, None]
    sums = metrics.regression_sums(varied, mask, {"mean": np.zeros((20, 1))}, weights)
    assert metrics.r_squared(sums, "mean")[0, 0] == pytest.approx(0.0, abs=1e-12)
    assert np.isnan(metrics.pearson(sums, "mean")[0, 0])


def test_interval_covers_the_analytic_one():
    """The bootstrap interval of a mean-like metric has about the width that theory gives."""
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(800, 1))
    prediction = truth + rng.normal(size=truth.shape)
    weights = bootstrap_weights(_people(800), replicates=400, seed=2)
    sums = metrics.regression_sums(truth, np.ones_like(truth, bool), {"e": prediction}, weights)
    found = metrics.estimate(metrics.pearson(sums, "e"))
    r = found.value[0]
    low, high = np.tanh(np.arctanh(r) + np.array([-1.96, 1.96]) / np.sqrt(797))
    assert found.high[0] - found.low[0] == pytest.approx(high - low, rel=0.25)
    assert found.low[0] < r < found.high[0]


def test_binary_agrees_with_sklearn_within_the_stated_bin_error():
    truth, probability, mask = _scores(np.random.default_rng(4), 1500)
    weights = bootstrap_weights(_people(len(truth)), replicates=20, seed=1)
    sums = metrics.binary_sums(truth, mask, probability, probability, weights, bins=BINS)
    area, area_error = metrics.auroc(sums["histogram"])
    precision, precision_error = metrics.average_precision(sums["histogram"])
    for column in range(2):
        y, p = truth[mask[:, column], column], probability[mask[:, column], column]
        assert abs(area[column] - sk.roc_auc_score(y, p)) <= area_error[column] + 1e-12
        gap = abs(precision[column] - sk.average_precision_score(y, p))
        assert gap <= precision_error[column] + 1e-12
        assert metrics.brier(sums)[0, column] == pytest.approx(sk.brier_score_loss(y, p))
        binned = np.floor(p * 256)
        assert area[column] == pytest.approx(sk.roc_auc_score(y, binned))
        assert precision[column] == pytest.approx(sk.average_precision_score(y, binned))
    assert (area_error < 0.01).all()
    assert (precision_error < 0.05).all()


def test_bin_error_of_average_precision_holds_for_coarse_bins():
    rng = np.random.default_rng(5)
    truth, probability, mask = _scores(rng, 500)
    weights = np.ones((21, 500))
    sums = metrics.binary_sums(truth, mask, probability, probability, weights, bins=(8, 8, 10))
    value, error = metrics.average_precision(sums["histogram"])
    for column in range(2):
        y, p = truth[mask[:, column], column], probability[mask[:, column], column]
        assert abs(value[column] - sk.average_precision_score(y, p)) <= error[column]


def test_calibration_error_by_hand():
    probability = np.array([[0.05], [0.05], [0.95], [0.95]])
    truth = np.array([[False], [True], [True], [True]])
    sums = metrics.binary_sums(
        truth, np.ones_like(truth), probability, probability, np.ones((21, 4)), bins=BINS
    )
    assert metrics.calibration_error(sums)[0] == pytest.approx(0.5 * 0.45 + 0.5 * 0.05)
    predicted, observed, patients = metrics.calibration_curve(sums)
    assert patients[0].sum() == 4
    assert (predicted[0, 0], observed[0, 0]) == (pytest.approx(0.05), 0.5)
    assert np.isnan(observed[0, 5])


def test_auroc_interval_is_sound():
    truth, probability, mask = _scores(np.random.default_rng(6), 600)
    weights = bootstrap_weights(_people(600), replicates=200, seed=9)
    sums = metrics.binary_sums(truth, mask, probability, probability, weights, bins=BINS)
    found = metrics.auroc_estimate(sums)
    assert ((found.low < found.value) & (found.value < found.high)).all()
    y, p = truth[mask[:, 0], 0], probability[mask[:, 0], 0]
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(y), len(y)) for _ in range(300)]
    low, high = np.percentile([sk.roc_auc_score(y[d], p[d]) for d in draws], (2.5, 97.5))
    assert found.low[0] == pytest.approx(low, abs=0.015)
    assert found.high[0] == pytest.approx(high, abs=0.015)


def test_one_class_is_undefined():
    truth = np.zeros((30, 1), bool)
    score = np.linspace(0, 1, 30)[:, None]
    sums = metrics.binary_sums(truth, ~truth, score, score, np.ones((21, 30)), bins=BINS)
    assert np.isnan(metrics.auroc_estimate(sums).value[0])
    assert np.isnan(metrics.average_precision_estimate(sums).low[0])


def test_merged_sites_equal_pooled_patients():
    rng = np.random.default_rng(7)
    truth, prediction, mask = _regression(rng)
    disease, probability, known = _scores(rng, 300)
    people = _people(300)

    def of(rows: slice):
        w = bootstrap_weights(people[rows], replicates=40, seed=3)
        one = metrics.regression_sums(truth[rows], mask[rows], {"e": prediction[rows]}, w)
        two = metrics.binary_sums(
            disease[rows], known[rows], probability[rows], probability[rows], w, bins=BINS
        )
        return under("reg", one) | under("bin", two)

    merged = merge([of(slice(0, 37)), of(slice(37, 200)), of(slice(200, 300))])
    pooled = of(slice(0, 300))
    np.testing.assert_array_equal(merged["bin/histogram"], pooled["bin/histogram"])
    np.testing.assert_array_equal(merged["bin/replicates"], pooled["bin/replicates"])
    for found, expected in (
        (
            metrics.r_squared(section(merged, "reg"), "e"),
            metrics.r_squared(section(pooled, "reg"), "e"),
        ),
        (metrics.brier(section(merged, "bin")), metrics.brier(section(pooled, "bin"))),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-10)
    found = metrics.auroc_estimate(section(merged, "bin"))
    expected = metrics.auroc_estimate(section(pooled, "bin"))
    np.testing.assert_array_equal(found.low, expected.low)


def test_weights_belong_to_patients():
    people = ["b", "a", "b", "c"]
    weights = bootstrap_weights(people, replicates=50, seed=1)
    np.testing.assert_array_equal(weights[0], 1.0)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    assert not np.array_equal(weights[:, 0], weights[:, 1])
    again = bootstrap_weights(people[::-1], replicates=50, seed=1)
    np.testing.assert_array_equal(weights, again[:, ::-1])
    other = bootstrap_weights(people, replicates=50, seed=2)
    assert not np.array_equal(weights, other)
    many = bootstrap_weights(_people(2000), replicates=20, seed=0)[1:]
    assert many.mean() == pytest.approx(1.0, abs=0.02)
    assert many.var() == pytest.approx(1.0, abs=0.03)


arrays = st.lists(st.integers(-1000, 1000), min_size=3, max_size=3).map(
    lambda v: np.array(v, dtype=np.float64)
)
site_sums = st.dictionaries(st.sampled_from(["a", "b", "c"]), arrays)


@settings(max_examples=60, deadline=None)
@given(site_sums, site_sums, site_sums)
def test_merge_is_associative_and_commutative(one, two, three):
    left, right = merge([merge([one, two]), three]), merge([three, merge([two, one])])
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_array_equal(left[key], right[key])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 60), st.integers(1, 59))
def test_split_anywhere_gives_the_same_counts(seed, count, cut):
    rng = np.random.default_rng(seed)
    truth, probability, mask = _scores(rng, count)
    weights = bootstrap_weights(_people(count), replicates=20, seed=seed)

    def of(rows):
        return metrics.binary_sums(
            truth[rows],
            mask[rows],
            probability[rows],
            probability[rows],
            weights[:, rows],
            bins=BINS,
        )

    merged, pooled = merge([of(slice(0, cut)), of(slice(cut, None))]), of(slice(None))
    value, error = metrics.auroc(merged["histogram"])
    np.testing.assert_array_equal(value, metrics.auroc(pooled["histogram"])[0])
    assert ((value >= 0) & (value <= 1) | np.isnan(value)).all()
    for column in range(2):
        y, p = truth[mask[:, column], column], probability[mask[:, column], column]
        if 0 < y.sum() < len(y):
            assert abs(value[column] - sk.roc_auc_score(y, p)) <= error[column] + 1e-12


def test_merge_refuses_other_shapes():
    with pytest.raises(WireError, match="'a'"):
        merge([{"a": np.zeros(2)}, {"a": np.zeros(3)}])
