"""The charts of the privacy table: the curve of an attack, and pictures that reach the page."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from simulations.privacy.drawings import draw_attacks, draw_utility, shares_found
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


def test_each_stage_of_the_utility_table_has_a_panel_and_each_row_a_line():
    row = {"lever": "head", "patients": "500", "metric": "mean R2, main phenotypes", "start": 0.1}
    values = {"inf": 0.3, "8.0": 0.2}
    rows = [
        row | {"stage": "phenotypes", "values": values},
        row | {"stage": "phenotypes", "lever": "public", "values": {"inf": 0.4}},
        row | {"stage": "diseases", "metric": "mean AUROC, 9 diseases", "values": values},
    ]
    words = draw_utility(rows).decode()
    for title in ("phenotypes: mean R2", "diseases: mean AUROC", "public, 500 patients"):
        assert f"<!-- {title} -->" in words
    assert words.count("<!-- inf -->") == 2


@pytest.mark.parametrize("words", ["epsilon 3", "clipped, not noised"])
def test_every_attack_has_a_line(words):
    member = np.array([[True, False, True, False]])
    drawn = draw_attacks({words: (np.array([[3.0, 1.0, 2.0, 0.0]]), member)})
    assert f"<!-- {words} -->".encode() in drawn
