"""The patient as the unit: one study of each who is sampled, by independent coins."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cardionets_core.privacy.rng import PrivacyRandom
from cardionets_core.privacy.units import PatientIndex

STUDIES = ["b", "a", "b", "c", "b", "a"]


@pytest.fixture
def index(make_dataset):
    return PatientIndex(make_dataset(STUDIES), {"ecg"})


def test_a_patient_counts_once(index):
    assert index.patients == 3


def test_everybody_gives_one_study(index):
    rng = PrivacyRandom()
    for _ in range(50):
        rows = index.sample(1.0, rng)
        assert [STUDIES[r] for r in rows] == ["a", "b", "c"]
        assert [index.patient_of(r) for r in rows.tolist()] == ["a", "b", "c"]


def test_nobody_is_no_row(index):
    rows = index.sample(1e-12, PrivacyRandom())
    assert rows.shape == (0,) and rows.dtype == np.int64


def test_all_studies_of_a_patient_are_used_equally(index):
    rng = PrivacyRandom()
    drawn = np.concatenate([index.sample(1.0, rng) for _ in range(3000)])
    counts = np.bincount(drawn, minlength=6)
    for patient in "abc":
        own = [counts[i] for i, name in enumerate(STUDIES) if name == patient]
        assert sum(own) == 3000
        assert len(own) == 1 or stats.chisquare(own).pvalue > 1e-11


def test_many_studies_do_not_raise_the_rate(make_dataset):
    """A patient with 50 studies is in a step as often as one with a single one."""
    index = PatientIndex(make_dataset(["many"] * 50 + ["one"]), ())
    rng = PrivacyRandom()
    drawn = [index.sample(0.2, rng) for _ in range(3000)]
    for patient in ("many", "one"):
        times = sum(any(index.patient_of(r) == patient for r in rows.tolist()) for rows in drawn)
        assert stats.binomtest(times, 3000, 0.2).pvalue > 1e-11


def test_patients_are_in_independently(make_dataset):
    index = PatientIndex(make_dataset([f"p{i}" for i in range(40)]), ())
    rng = PrivacyRandom()
    inside = np.zeros((2000, 40))
    for k in range(2000):
        inside[k, index.sample(0.3, rng)] = 1
    correlation = np.corrcoef(inside.T)[np.triu_indices(40, 1)]
    assert np.abs(correlation).max() < 0.17  # 780 pairs, sd 0.022
    assert inside.sum(1).var() == pytest.approx(40 * 0.3 * 0.7, rel=0.25)  # fixed-size: 0


def test_only_studies_that_have_what_is_needed(make_dataset):
    dataset = make_dataset(STUDIES)
    asked = []
    dataset.indices = lambda split, needs: (asked.append((split, set(needs))), np.array([1, 3]))[1]
    index = PatientIndex(dataset, {"ecg", "cine"})
    assert asked == [("train", {"ecg", "cine"})]
    assert index.sample(1.0, PrivacyRandom()).tolist() == [1, 3]


def test_a_site_without_such_patients_has_nobody(make_dataset):
    dataset = make_dataset(STUDIES)
    dataset.indices = lambda split, needs: np.zeros(0, dtype=np.int64)
    index = PatientIndex(dataset, ())
    assert index.patients == 0
    assert index.sample(0.5, PrivacyRandom()).shape == (0,)
