"""Thousands of random schedules: every update counts once, in its round, or not at all.

The generators are those of the fault table (simulations/faults/figures_schedules.py), which plays
all 1,000 and 10,000 of them; here are as many as a test may take.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import server.gathering
import server.training
from cardionets_core.messages import MISSING_PARTS, Update
from cardionets_core.model_config import ModelConfig
from cardionets_core.run_config import RunConfig, StageConfig
from cardionets_core.training.stages import configured
from server.exchange import Run
from server.round_book import RoundBook
from server.state import RunState, SiteRecord
from simulations.faults.figures_schedules import exactly_once, quorums
from simulations.faults.schedules import FATES
from tests.server.played_round import answering


def spotless(got):
    return got.used > 0 and got.twice == got.astray == got.unlike == 0


def test_exactly_once_over_random_schedules():
    """RELIABILITY.md figure 7, its first 150 schedules."""
    got = exactly_once(150)
    assert spotless(got) and got.losses > 150 and set(got.fates) == set(FATES)
    assert {"late", "lost", "replay", "wrong_site", "wrong_round", "internal"} < set(got.ends)


@pytest.mark.slow
def test_exactly_once_over_10000_schedules():
    """RELIABILITY.md figure 7."""
    assert spotless(exactly_once(10_000))


@given(st.integers(10_001, 10**9))
@settings(max_examples=15, deadline=None)
def test_exactly_once_in_schedules_of_any_seed(seed):
    assert spotless(exactly_once(1, first=seed))


def test_a_firewall_without_a_ledger_of_hashes_would_be_found_out(monkeypatch):
    """A relabelled update counts again."""
    monkeypatch.setattr("server.screening.used_marks", lambda records, remembered: [])
    assert exactly_once(40).twice > 0


def test_no_round_is_aggregated_below_its_minimum(tmp_path):
    """RELIABILITY.md figure 4, its first 100 schedules."""
    got = quorums(100, tmp_path)
    assert got.below == got.unlike == got.unnamed == 0
    assert got.aggregated > 40 and got.ended > 5 and got.again > 2


@pytest.mark.slow
def test_no_round_of_1000_is_aggregated_below_its_minimum(tmp_path):
    """RELIABILITY.md figure 4."""
    got = quorums(1000, tmp_path)
    assert got.below == got.unlike == got.unnamed == 0


def test_a_server_without_a_quorum_would_be_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr(server.gathering, "quorum", lambda *of: lambda sites: len(sites) >= 1)
    assert quorums(40, tmp_path).below > 0


def test_the_book_of_a_round_ends_every_site_once():
    book = RoundBook(["a", "b", "c"])
    for message_id, site in (("1", "a"), ("2", "b"), ("3", "a")):
        book.asked(message_id, site)
    assert book.waiting == ["1", "2", "3"] and book.pending == ["a", "b", "c"]
    assert book.answered("3") == "a"
    book.settle("a", None)
    assert book.answered("1") is None and book.answered("3") is None  # an older one, a copy
    assert book.ask_again("b") and not book.ask_again("b") and book.lost("b") == {MISSING_PARTS}
    book.close(away=["c"])
    assert book.accepted == ["a"] and book.refused == {"b": "late", "c": "lost"}
    assert book.answered("2") is None and book.waiting == []
    book.asked("9", "a")
    assert book.waiting == []


# -------------------------------------------------------------------------------- the norm bound

CONFIG = RunConfig(
    name="run-1",
    seed=3,
    model=ModelConfig(),
    stages=("handshake", "ecg_masked"),
    stage={"ecg_masked": StageConfig(rounds=1)},
    phenotypes=("lv_ef",),
    diseases=(),
)


@pytest.fixture
def quick(monkeypatch):
    """Leave out what takes time and does not decide: the model behind the names of arrays."""
    monkeypatch.setattr(server.training, "learned_names", lambda model, parts: {})


def value_of(site):
    """Return what a site moves every weight by: none is a copy of another's."""
    return 1.0 + int(site[1:]) / 1024


def test_a_bound_that_is_wrong_costs_one_try_and_not_the_run(tmp_path, monkeypatch, quick):
    """All sites send 1,000 x what the round before saw: the second try goes without the bound."""
    settings_ = StageConfig(rounds=3, min_sites=3)
    config = replace(CONFIG, stage={"ecg_masked": settings_})
    sites = [f"s{i}" for i in range(5)]
    run = Run(None, config, tmp_path, lambda record: None, nodes=dict.fromkeys(sites, 1))
    stage = configured("ecg_masked", {}, CONFIG.model)
    record = SiteRecord(("ecg",), {"train_studies": 9}, {})
    weights = {p: {"w": np.ones(2, dtype=np.float32)} for p in stage.parts}
    state = RunState(weights=weights, sites=dict.fromkeys(sites, record))
    tries = []

    def update(site, head):
        scale = 1e-3 if head.round == 1 else 1.0
        values = np.full(2, scale * value_of(site) * head.round, dtype=np.float32)
        delta = {p: {"w": values} for p in head.trains}
        return Update(site, "run-1", head.stage, head.round, 1, delta=delta)

    answered = answering(lambda state, heads: {s: update(s, h) for s, h in heads.items()})

    def send_round(*arguments, **named):
        result = answered(*arguments, **named)
        tries.append(dict(result.refused))
        return result

    monkeypatch.setattr(server.gathering, "send_round", send_round)
    for index in range(3):
        state = server.training.train_round(
            run, state, stage, settings_, sites=sites, round_index=index
        )
    assert tries == [{}, dict.fromkeys(sites, "norm"), {}, {}]
    assert [r["screening"]["lifted"] for r in state.history] == [False, True, False]
