"""An evaluation of too few sites is tried once more, and not saved: a resumed run redoes it."""

from __future__ import annotations

from dataclasses import replace

import pytest

import server.evaluation
import server.server_app
from cardionets_core.checkpoint import has_checkpoint
from cardionets_core.errors import IncompleteError
from cardionets_core.messages import Update
from cardionets_core.model_config import ModelConfig
from cardionets_core.run_config import RunConfig, StageConfig
from server.evaluation import LEAST_DEADLINE_S, deadline_of
from server.exchange import Run
from server.participation import require_participation
from server.state import RunState, SiteRecord
from tests.server.played_round import answering

CONFIG = RunConfig(
    name="run-1",
    seed=3,
    model=ModelConfig(),
    stages=("handshake", "evaluate"),
    stage={},
    phenotypes=("lv_ef",),
    diseases=(),
    min_sites=2,
)
SITES = {n: SiteRecord(("ecg",), {"patients": 9}, {}) for n in "abc"}


@pytest.fixture
def evaluate(tmp_path, monkeypatch):
    """Return (tries of what each site answers: None or a refusal) -> state after the run."""
    monkeypatch.setattr(server.server_app, "greet", lambda run, state: state)
    for name in ("solve_probes", "residual_sd"):
        monkeypatch.setattr(server.evaluation, name, lambda *arguments: {})
    monkeypatch.setattr(server.evaluation, "summarise", lambda sums, *more, **named: sorted(sums))
    run = Run(None, CONFIG, tmp_path, lambda record: None)

    def play(tries):
        left = iter(tries)

        def answers(state, heads):
            refusals = next(left)
            updates = {s: Update(s, "run-1", "evaluate", h.round) for s, h in heads.items()}
            return updates | refusals

        monkeypatch.setattr(server.evaluation, "send_round", answering(answers))
        return server.server_app.execute(run, RunState({}, sites=SITES, stage=1))

    return play


ALL, FEW = {}, {"a": "late", "c": "lost"}


def test_a_round_below_the_quorum_is_tried_once_more(evaluate):
    """What the first try brought is not added to the second."""
    state = evaluate([ALL, FEW, {"b": "late"}])
    assert state.metrics == state.history[-1]["accepted"] == ["a", "c"]
    assert [r["tries"] for r in state.history] == [1, 2]
    require_participation(CONFIG, state.history, state.sites)


@pytest.mark.parametrize("before", [[], [ALL]])
def test_an_evaluation_of_too_few_sites_names_them_and_saves_nothing(evaluate, tmp_path, before):
    with pytest.raises(IncompleteError, match="1 of 2 sites needed") as caught:
        evaluate([*before, FEW, FEW])
    assert caught.value.sites == ("a", "c")
    assert not has_checkpoint(tmp_path / "checkpoint")
    assert evaluate([ALL, ALL]).metrics == ["a", "b", "c"]  # resumed


def test_a_site_below_its_own_floor_does_not_end_a_run_that_has_enough_others(evaluate):
    floor = {"c": "refused_cohort"}
    state = evaluate([floor, floor])
    assert state.metrics == ["a", "b"] and state.history[-1]["tries"] == 1
    require_participation(CONFIG, state.history, state.sites)


def test_an_evaluation_may_take_as_long_as_a_round_of_training():
    assert deadline_of(CONFIG) == LEAST_DEADLINE_S
    slow = replace(
        CONFIG,
        stages=("handshake", "tokenizer", "evaluate"),
        stage={"tokenizer": StageConfig(deadline_s=9000.0)},
    )
    assert deadline_of(slow) == 9000.0
