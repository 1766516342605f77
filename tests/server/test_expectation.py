"""Until when the evaluation waits for its last sites."""

from __future__ import annotations

import math

import pytest

from cardionets_core.model_config import ModelConfig
from cardionets_core.run_config import RunConfig, StageConfig
from server.expectation import expectation, more_work, slowness
from server.state import RunState, SiteRecord
from tests.server.played_round import good, play

ECG, BOTH = ("ecg",), ("cine", "ecg", "pairs")


def a_site(modalities=ECG, tests=100):
    return SiteRecord(modalities, {"patients": 9000, "test_studies": tests}, {})


def a_round(stage="ecg_masked", **seconds):
    return {"stage": stage, "seconds_by_site": seconds}


def last_s(sites, history, taken, pending, patience=5.0):
    config = RunConfig(
        name="run-1",
        seed=3,
        model=ModelConfig(),
        stages=("handshake", "ecg_masked", "evaluate"),
        stage={"ecg_masked": StageConfig(patience=patience)},
        phenotypes=(),
    )
    return expectation(config, RunState({}, sites=sites, history=tuple(history)))(taken, pending)


SITES = {"a": a_site(), "b": a_site(), "big": a_site(tests=400), "paired": a_site(BOTH)}


@pytest.mark.parametrize(
    ("taken", "pending", "seconds"),
    [
        ({"a": 10.0}, ["b"], 60 + 5 * 10 * 3),  # it trains three times as long
        ({"b": 10.0}, ["a"], 60 + 5 * 10),  # nobody is expected to be faster
        ({"a": 10.0}, ["big"], 60 + 5 * 10 * 2 * 4),  # twice as long, four times the patients
        ({"a": 10.0, "b": 8.0}, ["big"], 60 + 5 * 10 * 2 * 4),
        ({"a": 10.0}, ["b", "big"], 60 + 5 * 10 * 2 * 4),
        ({"a": 10.0}, ["paired"], math.inf),  # it has work that the other one has not
        ({"paired": 10.0}, ["a"], 60 + 5 * 10),
        ({"a": 10.0}, [], math.inf),
        ({}, ["a"], math.inf),
    ],
)
def test_the_wait_follows_speed_and_size(taken, pending, seconds):
    history = [
        a_round("handshake", a=900.0, b=0.1, big=0.1, paired=0.1),
        a_round(a=20.0, b=60.0, big=40.0, paired=20.0),
    ]
    assert last_s(SITES, history, taken, pending) == pytest.approx(seconds)


def test_a_site_that_never_trained_is_waited_for_as_planned():
    assert last_s(SITES, [a_round(a=1.0)], {"a": 10.0}, ["b"]) == math.inf


def test_without_patience_nothing_is_learned():
    history = [a_round(a=1.0, b=1.0)]
    assert last_s(SITES, history, {"a": 10.0}, ["b"], patience=0.0) == math.inf


def test_the_last_rounds_of_both_count_and_the_slowest_of_them():
    history = [a_round(a=1.0, b=50.0), *[a_round(a=1.0, b=2.0)] * 4, a_round(a=0.0, b=0.3)]
    assert slowness(history, "b", "a") == pytest.approx(3.0)
    assert slowness(history[:-1], "b", "a") == 50.0


def test_the_kind_of_study_of_which_it_has_most_more_counts():
    site = SiteRecord(ECG, {"test_ecg": 30, "validation_ecg": 80, "train_ecg": 10**6}, {})
    other = SiteRecord(ECG, {"test_ecg": 30, "train_ecg": 1}, {})
    assert more_work(site, other) == 80.0
    assert more_work(other, site) == 1.0


def silent(task, asked):
    return None


@pytest.mark.usefixtures("a_server")
def test_with_a_quorum_a_round_ends_when_the_others_should_be_done():
    """And not without one: then a silent site is waited for until the deadline."""
    asked = []

    def expected_s(taken, pending):
        asked.append((sorted(taken), list(pending)))
        return 0.2

    sites = {"a": good("a"), "hung": silent}
    _, result, _ = play(sites, deadline_s=500.0, expected_s=expected_s)
    assert result.accepted == ["a"] and result.refused == {"hung": "late"}
    assert set(map(str, asked)) == {str((["a"], ["hung"]))} and 0.2 <= result.seconds < 0.21
    two = lambda used: len(used) == 2  # noqa: E731
    _, result, _ = play(sites, deadline_s=1.0, expected_s=lambda *who: 0.0, enough=two)
    assert result.refused == {"hung": "late"} and result.seconds >= 1.0
