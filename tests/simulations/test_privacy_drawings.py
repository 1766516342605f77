"""The charts of the privacy table: the curve of an attack, and pictures that reach the page."""

from __future__ import annotations

import numpy as np
import pytest
from opacus.accountants.analysis.gdp import eps_from_mu
from sklearn.metrics import roc_curve

from simulations.privacy.drawings import draw_attacks, draw_utility, shares_found
from simulations.privacy.figures_attacks import DELTA, most_auc
from simulations.privacy.pictures import Drawn, keep, kept


def test_the_curve_is_the_one_of_scikit_learn():
    rng = np.random.default_rng(0)
    member = rng.random(200) < 0.4
    values = rng.normal(size=200) + member
    alarms, found = shares_found(values, member)
    theirs = roc_curve(member, values, drop_intermediate=False)
    np.testing.assert_allclose(alarms, theirs[0])
    np.testing.assert_allclose(found, theirs[1])


def test_a_picture_is_kept_with_what_it_shows(tmp_path):
    first = Drawn("a.svg", "what it shows", "what to see")
    keep(tmp_path, b"<svg/>", first)
    keep(tmp_path, b"<svg></svg>", Drawn("b.svg", "another", ""))
    assert kept(tmp_path)[0] == first and len(kept(tmp_path)) == 2
    assert (tmp_path / "a.svg").read_bytes() == b"<svg/>"
    assert kept(tmp_path / "no section drew here") == []


def test_stages_have_panels_for_numbers_of_patients_and_levers_have_lines():
    row = {
        "lever": "head",
        "patients": "500",
        "metric": "mean R2, main phenotypes",
        "start": 0.1,
        "batch_factor": 1,
        "values": {"inf": 0.3, "8.0": 0.2},
    }
    rows = [
        row | {"stage": "phenotypes"},
        row | {"stage": "phenotypes", "lever": "public", "values": {"inf": 0.4}},
        row | {"stage": "phenotypes", "patients": "2000"},
        row | {"stage": "phenotypes", "patients": "2000", "lever": "left out", "batch_factor": 2},
        row | {"stage": "diseases", "metric": "mean AUROC, 9 diseases"},
    ]
    words = draw_utility(rows).decode()
    titles = ("phenotypes, 500 patients", "phenotypes, 2000 patients", "diseases, 500 patients")
    for text in (*titles, "mean R2", "mean AUROC", "public"):
        assert f"<!-- {text} -->" in words
    assert words.count("<!-- inf -->") == 3 and "left out" not in words


@pytest.mark.parametrize("words", ["epsilon 3", "clipped, not noised"])
def test_every_attack_has_a_line(words):
    member = np.array([[True, False, True, False]])
    drawn = draw_attacks({words: (np.array([[3.0, 1.0, 2.0, 0.0]]), member)})
    assert f"<!-- {words} -->".encode() in drawn


def test_what_epsilon_leaves_a_membership_attack_is_that_of_two_normals_one_apart():
    """Opacus knows mu of a full-batch step; its epsilon at that mu gives back Phi(mu / sqrt 2)."""
    epsilon = eps_from_mu(mu=1.0, delta=DELTA)
    apart = np.random.default_rng(0).normal(size=(2, 200_000)) + np.array([[1.0], [0.0]])
    assert most_auc(epsilon) == pytest.approx((apart[0] > apart[1]).mean(), abs=0.005)
