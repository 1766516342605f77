"""The FedAvg rounds of a stage, with the sites played by functions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import server.gathering
import server.training
from cardionets_core.errors import RunError
from cardionets_core.messages import Update
from cardionets_core.model_config import ModelConfig
from cardionets_core.run_config import RunConfig, StageConfig
from server.exchange import Run
from server.state import SiteRecord, fresh_state
from server.training import train_stage
from tests.server.played_round import answering

CONFIG = RunConfig(
    name="run-1",
    seed=3,
    model=ModelConfig(),
    stages=("handshake", "tokenizer"),
    stage={"tokenizer": StageConfig(rounds=1, min_sites=1)},
    phenotypes=("lv_ef",),
    diseases=(),
)
COUNTS = {"patients": 24, "studies": 72, "train_patients": 17, "train_studies": 51}


@pytest.fixture(scope="module")
def fresh():
    return fresh_state(CONFIG)


def start(fresh, tmp_path, *sites):
    records = {n: SiteRecord(("cine", "pairs"), dict(COUNTS), {}) for n in sites}
    run = Run(None, CONFIG, tmp_path, lambda record: None, nodes=dict.fromkeys(sites, 1))
    return run, replace(fresh, sites=records, stage=1)


def play(monkeypatch, answers):
    """Let the sites give these updates (site -> function of the sent weights)."""

    def updates(state, heads):
        return {site: answers[site](state.weights) for site in heads}

    monkeypatch.setattr(server.gathering, "send_round", answering(updates))


def shifted(site, value, num_examples, changes=None):
    def answer(weights):
        delta = {n: np.full_like(a, value) for n, a in weights["tokenizer"].items()}
        update = Update(
            site, "run-1", "tokenizer", 1, num_examples=num_examples, delta={"tokenizer": delta}
        )
        return replace(update, **(changes or {}))

    return answer


def test_the_new_weights_are_the_old_ones_plus_the_weighted_mean(fresh, tmp_path, monkeypatch):
    run, state = start(fresh, tmp_path, "a", "b")
    play(monkeypatch, {"a": shifted("a", 0.25, 10), "b": shifted("b", 0.5, 30)})
    after = train_stage(run, state, "tokenizer")
    for name, before in state.weights["tokenizer"].items():
        moved = after.weights["tokenizer"][name]
        want = (before.astype(np.float64) + 0.4375).astype(before.dtype)
        assert np.array_equal(moved, want), name
    assert after.weights["generator"] is state.weights["generator"]
    assert after.round == 1 and after.saves == 1 and len(after.history) == 1


def test_a_site_with_several_studies_a_patient_is_not_refused(fresh, tmp_path, monkeypatch):
    run, state = start(fresh, tmp_path, "a")
    play(monkeypatch, {"a": shifted("a", 0.25, COUNTS["train_studies"])})
    assert train_stage(run, state, "tokenizer").history[0]["accepted"] == ["a"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"site": "b"}, "wrong_site"),
        ({"run": "another"}, "wrong_run"),
        ({"stage": "contrastive"}, "wrong_stage"),
        ({"round": 2}, "wrong_round"),
        ({"num_examples": COUNTS["train_studies"] + 1}, "num_examples"),
        ({"delta": {}}, "parts"),
    ],
)
def test_a_wrong_update_is_kept_out_and_the_run_goes_on(
    fresh, tmp_path, monkeypatch, changes, reason
):
    run, state = start(fresh, tmp_path, "a", "c")
    answers = {"a": shifted("a", 9.0, 10, changes), "c": shifted("c", 0.25, 10)}
    play(monkeypatch, answers)
    after = train_stage(run, state, "tokenizer")
    assert after.history[0]["accepted"] == ["c"]
    assert after.history[0]["refused"] == {"a": reason}


def test_too_few_replies_end_the_run_with_their_reasons(fresh, tmp_path, monkeypatch):
    run, state = start(fresh, tmp_path, "a")
    play(monkeypatch, {"a": shifted("a", np.nan, 10)})
    with pytest.raises(RunError, match="not_finite"):
        train_stage(run, state, "tokenizer")


def test_a_stage_that_no_site_can_serve_says_so(fresh, tmp_path):
    run, state = start(fresh, tmp_path, "a")
    state = replace(state, sites={"a": SiteRecord(("ecg",), COUNTS, {})})
    with pytest.raises(RunError, match="cine"):
        train_stage(run, state, "tokenizer")
