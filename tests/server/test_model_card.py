"""The model card: what was trained, on whom, and whether the generator repeats its hearts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cardionets_core.privacy_config import NOT_MEMBERSHIP
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


def card(*words, warnings=()):
    """Return the card of a plan that nobody answered."""
    summary = {
        "config_hash": "", "weights_sha256": "", "metrics": {}, "versions": {},
        "privacy": {"sites": {}, "warnings": list(warnings)},
    }  # fmt: skip
    return model_card(run(*words), RunState(weights={}), summary)


def test_a_card_of_virtual_patients_says_so():
    cards = [card(f"virtual={v}") for v in ("true", "false")]
    assert [COHORT_DISCLAIMER in text for text in cards] == [True, False]
    quiet = card("stages=[handshake,diseases]")
    assert "the run has no stage `evaluate`" in quiet and "95 %" in cards[0]


def test_a_card_speaks_of_cines_and_their_generator_only_where_the_run_had_them():
    every = card()
    assert "\n- Cine: " in every and "\n- Memorisation" in every
    aligned = card("stages=[handshake,contrastive]")
    assert "\n- Cine: " in aligned and "Memorisation" not in aligned
    heard = card("stages=[handshake,ecg_masked,diseases]")
    assert "Cine" not in heard and "Memorisation" not in heard
    assert "\n\n- " not in heard.split("- ECG")[1]  # no empty line where they would stand


def test_a_card_of_noised_results_says_what_the_noise_has_left():
    private = card("plan=private", warnings=["It leaves no usable metric.", f"{NOT_MEMBERSHIP}."])
    assert "with 95 %" not in private and "were noised at each site" in private
    assert "**It leaves no usable metric.**" in private and NOT_MEMBERSHIP not in private
    assert "noised" not in card()


def test_a_card_says_that_updates_were_added_up_unseen():
    assert "Secure aggregation" not in card()
    on = ("secure_aggregation.enabled=true", "screening.norm_factor=0")
    assert "(at least two thirds of those asked, and one more) and no single update" in card(*on)
    assert "(at least 3) and no" in card(*on, "secure_aggregation.threshold=3")
