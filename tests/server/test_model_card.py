"""The model card says whether the generator repeats the hearts that it was trained on."""

from __future__ import annotations

import pytest

from server.summary import memorisation_line


def metrics(**ratio):
    return {"pooled": {"generation": {"memory": {"ratio": ratio}}}}


def test_the_ratio_stands_there_with_its_interval():
    line = memorisation_line(metrics(value=0.961, low=0.902, high=1.018))
    assert line.startswith("- Memorisation: generated cines lie 0.96 (0.90 to 1.02) times as far")


def test_a_ratio_without_an_interval_stands_alone():
    assert "lie 0.96 times" in memorisation_line(metrics(value=0.961, low=None, high=None))


@pytest.mark.parametrize("found", [{}, {"pooled": {"generation": {}}}, metrics(value=None)])
def test_what_was_not_measured_is_said(found):
    assert "not measured" in memorisation_line(found)


def test_a_private_run_says_why_it_was_not_measured_and_where_to_look():
    line = memorisation_line({}, private=True)
    for word in ("not measured, since", "make privacy", "public or virtual", "docs/privacy.md"):
        assert word in line
    assert "lie 0.96 times" in memorisation_line(metrics(value=0.961), private=True)
