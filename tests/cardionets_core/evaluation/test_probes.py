"""Normal equations against scikit-learn, masked column by column."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge

from cardionets_core.evaluation import probes
from cardionets_core.evaluation.sums import merge


def _problem(rng, count=200):
    features = rng.normal(size=(count, 5)) * [1, 2, 0.5, 3, 1] + [0, 1, 0, -2, 5]
    truth = features @ rng.normal(size=(5, 3)) + rng.normal(size=(count, 3)) + [4, 0, -1]
    return features, truth, rng.random(truth.shape) < [0.9, 0.5, 0.0]


def test_solution_is_sklearns_ridge_on_the_known_rows():
    features, truth, mask = _problem(np.random.default_rng(0))
    design = probes.with_intercept(features)
    found = probes.solve(probes.normal_equations(design, truth, mask), ridge=1e-2)
    for column in range(2):
        x, y = features[mask[:, column]], truth[mask[:, column], column]
        strength = 1e-2 * np.mean(np.sum(x**2, axis=0))
        expected = Ridge(alpha=strength).fit(x, y)
        np.testing.assert_allclose(found[column, 1:], expected.coef_, rtol=1e-8)
        assert found[column, 0] == pytest.approx(expected.intercept_, rel=1e-8)
    np.testing.assert_array_equal(found[2], 0.0)


def test_sites_add_up_to_pooled_regression():
    features, truth, mask = _problem(np.random.default_rng(1))
    design = probes.with_intercept(features)
    parts = [
        probes.normal_equations(design[s], truth[s], mask[s]) for s in np.split(np.arange(200), 4)
    ]
    pooled = probes.normal_equations(design, truth, mask)
    np.testing.assert_allclose(
        probes.solve(merge(parts), ridge=1e-3), probes.solve(pooled, ridge=1e-3), rtol=1e-9
    )


def test_what_stands_in_for_a_missing_covariate_is_of_no_account():
    rng = np.random.default_rng(2)
    covariates = rng.normal([60, 0.5, 170, 75], [10, 0.5, 9, 12], size=(300, 4))
    mask = rng.random(covariates.shape) < 0.8
    design = probes.covariate_design(covariates, mask)
    other = probes.covariate_design(np.where(mask, covariates, -999.0), mask)
    np.testing.assert_array_equal(design, other)
    truth = (covariates @ [0.1, 1.0, 0.05, 0.02])[:, None] + rng.normal(size=(300, 1))
    everyone = np.ones_like(truth, bool)
    weights = probes.solve(probes.normal_equations(design, truth, everyone), ridge=1e-9)
    filled = np.where(mask, covariates, covariates.mean(0))
    table = np.concatenate([filled, ~mask], axis=1)
    expected = LinearRegression().fit(table, truth[:, 0]).predict(table)
    np.testing.assert_allclose(design @ weights[0], expected, atol=1e-5)


def test_fusion_is_stacking_of_two_predictions():
    rng = np.random.default_rng(3)
    hidden = rng.normal(size=(2000, 1))
    design = np.concatenate([np.ones((2000, 1)), hidden + rng.normal(size=(2000, 1))], axis=1)
    ecg = 0.5 * (hidden + rng.normal(size=(2000, 1)))
    known = np.ones_like(hidden, bool)
    covariates = np.array([[0.0, 0.5]])
    equations = probes.fusion_equations(design, ecg, hidden, known)
    weights = probes.solve_fusion(equations, covariates, ridge=1e-9)
    table = np.concatenate([design @ covariates.T, ecg], axis=1)
    expected = LinearRegression().fit(table, hidden[:, 0]).predict(table)
    np.testing.assert_allclose(probes.fuse(design, ecg, weights)[:, 0], expected, atol=1e-6)


def test_a_heavy_ridge_leaves_the_ecg_prediction():
    rng = np.random.default_rng(4)
    design, ecg = np.ones((50, 1)), rng.normal(size=(50, 1))
    truth = ecg + 0.1 * rng.normal(size=ecg.shape)
    equations = probes.fusion_equations(design, ecg, truth, np.ones_like(ecg, bool))
    weights = probes.solve_fusion(equations, np.zeros((1, 1)), ridge=1e6)
    np.testing.assert_allclose(probes.fuse(design, ecg, weights), ecg, atol=0.05)
