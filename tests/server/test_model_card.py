"""The model card: what was trained, on whom, and whether the generator repeats its hearts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cardionets_core.run_config import CONF, compose, run_config_from
from cardionets_core.start_config import StartConfig
from cardionets_core.vocabulary import COHORT_DISCLAIMER
from server.model_card import given, memorisation_line, model_card
from server.state import RunState


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


def run(*words):
    return run_config_from(compose("run", ["name=x", *words], package=CONF))


def test_only_what_was_trained_is_promised():
    few = given(run("stages=[handshake,ecg_masked,diseases]"))
    assert few == "out come 12 disease probabilities. Only what was trained is listed."
    every = given(run())
    for words in ("82 CMR phenotypes (Left", "12 disease probabilities, and a synthetic"):
        assert words in every
    assert given(run("stages=[handshake,ecg_masked]")).startswith("nothing that a reader could use")


def test_what_the_run_began_with_counts_as_trained():
    begun = StartConfig("checkpoint", ("generator",), "0" * 64, ("generative",))
    only_evaluated = replace(run("stages=[handshake,evaluate]"), start=begun)
    assert "out come a synthetic four-chamber cine" in given(only_evaluated)


def test_a_card_of_virtual_patients_says_so():
    state, summary = RunState(weights={}), {
        "config_hash": "", "weights_sha256": "", "privacy": {"sites": {}}, "metrics": {},
        "versions": {},
    }  # fmt: skip
    cards = [model_card(run(f"virtual={v}"), state, summary) for v in ("true", "false")]
    assert [COHORT_DISCLAIMER in card for card in cards] == [True, False]
    quiet = model_card(run("stages=[handshake,diseases]"), state, summary)
    assert "the run has no stage `evaluate`" in quiet and "95 %" in cards[0]
