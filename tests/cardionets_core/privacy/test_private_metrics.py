"""Sums that may leave: bounded per patient, noised as the charge says; those of the handshake."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from cardionets_core.evaluation.options import EvaluationOptions
from cardionets_core.privacy.accounting import epsilon_rdp
from cardionets_core.privacy.metrics import (
    Prior,
    moment_parts,
    moments,
    noise_of,
    private_sums,
    release_charge,
)
from cardionets_core.privacy.reference import REFERENCE
from cardionets_core.privacy.rng import PrivacyRandom
from cardionets_core.privacy.statistics import private_statistics
from server.sums import (
    usable_statistics,
)
from tests.cardionets_core.privacy.paired_site import (
    PHENOTYPES,
    captured,
    joint_move,
    paired_site,
    patients_of,
    without,
)

OPTIONS = EvaluationOptions(sections=("phenotypes", "diseases"))


@pytest.fixture(scope="module")
def site(micro):
    return paired_site(micro, 60, seed=2, studies=2)


# ---------------------------------------------------------------------- the mechanism


def test_a_patient_moves_each_group_by_its_bound_and_no_more(silent):
    source = np.random.default_rng(0)
    worst = 0.0
    for trial in range(200):
        table = source.standard_cauchy((20, 4)) * 10.0 ** source.integers(-2, 4)
        bounds = {"a": 2.0}
        whole = private_sums({"a": table}, bounds, 1.0, silent)["a"]
        left = private_sums({"a": np.delete(table, trial % 20, 0)}, bounds, 1.0, silent)["a"]
        worst = max(worst, float(np.linalg.norm(whole - left)))
    assert 1.99 < worst <= 2.0 * (1 + 1e-5)  # float32 rounding of both sums


def test_rows_within_the_bound_are_summed_as_they_are(silent):
    table = np.array([[3.0, 4.0], [0.5, -1.0], [30.0, 40.0]])
    found = private_sums({"a": table}, {"a": 5.0}, 1.0, silent)["a"]
    np.testing.assert_allclose(found, [3 + 0.5 + 3, 4 - 1 + 4], rtol=1e-6)


def test_a_row_that_is_not_finite_adds_nothing(silent):
    table = np.array([[1.0, 2.0], [np.nan, 1.0], [np.inf, 0.0]])
    np.testing.assert_allclose(private_sums({"a": table}, {"a": 9.0}, 1.0, silent)["a"], [1, 2])


def test_the_noise_is_what_the_charge_says():
    bounds = {"a": 2.0, "b": 0.5}
    tables = {"a": np.zeros((0, 200, 100)), "b": np.zeros((0, 20000))}
    found = private_sums(tables, bounds, 3.0, PrivacyRandom())
    for name, bound in bounds.items():
        expected = 3.0 * np.sqrt(2) * bound  # noise x sensitivity of two groups together
        assert found[name].std() == pytest.approx(expected, rel=0.035)
        assert noise_of(bounds, 3.0)[name] == pytest.approx(expected)
    shared = np.corrcoef(found["a"].ravel(), found["b"])[0, 1]
    assert abs(shared) < 0.05


def test_noise_is_added_where_nobody_is():
    tables = {"a": np.zeros((0, 5))}
    one, other = (private_sums(tables, {"a": 1.0}, 1.0, PrivacyRandom())["a"] for _ in range(2))
    assert (one != 0).all()
    assert (one != other).all()


def test_what_leaves_has_the_bits_of_a_float32():
    found = private_sums({"a": np.ones((3, 50))}, {"a": 9.0}, 1.0, PrivacyRandom())["a"]
    assert (found == found.astype(np.float32)).all()


def test_a_source_that_repeats_is_refused():
    with pytest.raises(TypeError, match="PrivacyRandom"):
        private_sums({"a": np.zeros((1, 1))}, {"a": 1.0}, 1.0, np.random.default_rng(0))


@pytest.mark.parametrize("bounds", [{}, {"a": 1.0}, {"a": 1.0, "b": 1.0, "c": 1.0}])
def test_every_group_needs_its_bound(silent, bounds):
    tables = {"a": np.zeros((2, 1)), "b": np.zeros((2, 1))}
    with pytest.raises(ValueError, match="one bound"):
        private_sums(tables, bounds, 1.0, silent)


def test_groups_of_different_patients_are_refused(silent):
    tables = {"a": np.zeros((2, 1)), "b": np.zeros((3, 1))}
    with pytest.raises(ValueError, match="different numbers of patients"):
        private_sums(tables, {"a": 1.0, "b": 1.0}, 1.0, silent)


def test_a_release_costs_one_step_of_everybody():
    """Against the exact delta of one Gaussian (Balle and Wang, ICML 2018, theorem 8)."""
    charge, noise = release_charge(10.0), 10.0
    assert (charge.rate, charge.steps) == (1.0, 1)
    epsilon = epsilon_rdp([charge], 1e-5)

    def delta(at):
        half = 1 / (2 * noise)
        return norm.cdf(half - at * noise) - np.exp(at) * norm.cdf(-half - at * noise)

    assert delta(epsilon) <= 1e-5  # an upper bound
    assert delta(0.8 * epsilon) > 1e-5  # and not a wild one


# ------------------------------------------------------------------------- moments


def test_moments_of_many_patients_are_theirs_and_of_none_the_prior():
    prior = Prior(np.array([50.0, -1.0]), np.array([10.0, 2.0]))
    values = np.random.default_rng(0).normal([60.0, 0.0], [5.0, 1.0], (40000, 2))
    parts = moment_parts(values, prior)
    sums = {name: part.table.sum(axis=0) for name, part in parts.items()}
    found = moments(sums, prior, noise_std=1.0)
    np.testing.assert_allclose(found.mean, values.mean(0), atol=0.01)
    np.testing.assert_allclose(np.sqrt(found.variance), values.std(0), rtol=0.01)
    nobody = {name: np.zeros(2) for name in parts}
    empty = moments(nobody, prior, noise_std=100.0)
    np.testing.assert_allclose(empty.mean, prior.mean)
    np.testing.assert_allclose(np.sqrt(empty.variance), prior.sd, rtol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_moments_are_usable_whatever_the_noise_did(seed):
    source = np.random.default_rng(seed)
    sums = {name: source.normal(0, 300, 40) for name in ("known", "value", "square")}
    found = moments(sums, Prior(0.0, 1.0), noise_std=50.0)
    assert (found.n >= 1).all()
    assert (found.n == np.rint(found.n)).all()
    assert (np.sqrt(found.variance) >= 0.25 * 0.999).all()
    assert (np.abs(found.mean) <= 4).all()


# ---------------------------------------------------------------------- the handshake


def test_statistics_with_little_noise_are_mean_and_sd_of_patients(micro):
    site = paired_site(micro, 400, seed=3)
    found = private_statistics(site, 1e-6, PrivacyRandom())
    plain = site.statistics()
    np.testing.assert_allclose(found["phenotype_n"], plain["phenotype_n"])
    mean = plain["phenotype_sum"] / plain["phenotype_n"]
    np.testing.assert_allclose(found["phenotype_sum"] / found["phenotype_n"], mean, rtol=1e-3)
    np.testing.assert_allclose(found["phenotype_square"], plain["phenotype_square"], rtol=5e-3)


def test_drowned_statistics_are_near_the_reference_and_always_usable(site):
    for _ in range(20):
        found = private_statistics(site, 1000.0, PrivacyRandom())
        assert usable_statistics(found, phenotypes=len(PHENOTYPES))
        mean = found["phenotype_sum"] / found["phenotype_n"]
        for value, name in zip(mean, PHENOTYPES, strict=True):
            centre, sd = REFERENCE[name]
            assert abs(value - centre) <= 4 * sd


@pytest.mark.parametrize("studies", [1, 10])
def test_a_patient_moves_the_statistics_by_one_patient(micro, silent, monkeypatch, studies):
    """However many studies they have and however wild their values are."""
    from cardionets_core.privacy import statistics

    site = paired_site(micro, 30, seed=3, studies=studies)
    names, rows = patients_of(site, "train")
    wild = site.manifest.table.index[rows[names == names[0]]]
    site.manifest.table.loc[wild, list(PHENOTYPES)] = 1e12
    seen = captured(monkeypatch, statistics)
    private_statistics(site, 1.0, silent)
    private_statistics(without(site, names[0]), 1.0, silent)
    move = joint_move(*seen, silent)
    # Value and count at their bound, the centred square at a half of which the bound is a half.
    assert 0.95 * np.sqrt(3) < move <= np.sqrt(3) * (1 + 1e-5)


def test_every_phenotype_has_a_reference_within_what_a_heart_can_be():
    from cardionets_core.data.phenotype_ranges import PHENOTYPE_RANGES

    for name, (mean, sd) in REFERENCE.items():
        low, high = PHENOTYPE_RANGES[name]
        assert low < mean < high
        assert 0 < sd < high - low
