"""Who is there: names, the scaler of the federation, and sites that come later."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import server.handshake
from cardionets_core.errors import RunError
from cardionets_core.messages import Update
from cardionets_core.model_config import ModelConfig
from cardionets_core.run_config import RunConfig
from server.exchange import Run
from server.handshake import STATISTICS, greet
from server.rounds import RoundResult
from server.state import RunState

CONFIG = RunConfig(
    name="run-1",
    seed=3,
    model=ModelConfig(),
    stages=("handshake",),
    stage={},
    phenotypes=("lv_edv", "lv_ef"),
    diseases=(),
    wait_s=0.0,
)


class Nodes:
    """A Grid of which the handshake only asks for nodes."""

    def __init__(self, count):
        self.count = count

    def get_node_ids(self):
        return [100 + i for i in range(self.count)]


def described(site, values, modalities=("ecg", "phenotypes")):
    """Return what a site says whose training patients have these phenotypes, [n, 2]."""
    values = np.asarray(values, dtype=np.float64)
    sums = {
        "phenotype_n": np.isfinite(values).sum(0).astype(np.float64),
        "phenotype_sum": np.nansum(values, axis=0),
        "phenotype_square": np.nansum(values**2, axis=0),
    }
    counts = {"patients": len(values), "train_studies": len(values)}
    return Update(site, "run-1", "handshake", 1, counts=counts, modalities=modalities, sums=sums)


def play(monkeypatch, answers, *, state=None, config=CONFIG):
    """Greet nodes of which the i-th gives the i-th answer (None: it refuses)."""
    records = []

    def run_round(grid, nodes, *, make_task, accept, deadline_s):
        result = RoundResult(bytes_down=dict.fromkeys(nodes, 1))
        for node, update in zip(sorted(nodes), answers, strict=True):
            if update is None:
                result.refused[node] = "data"
            elif (reason := accept(node, update)) is None:
                result.accepted.append(node)
            else:
                result.refused[node] = reason
        return result

    monkeypatch.setattr(server.handshake, "run_round", run_round)
    run = Run(Nodes(len(answers)), config, None, records.append)
    return greet(run, state or RunState({})), run, records


def test_the_scaler_is_that_of_all_patients_together(monkeypatch):
    rng = np.random.default_rng(1)
    a, b = rng.normal(150, 30, (7, 2)), rng.normal(120, 10, (12, 2))
    b[3, 1] = np.nan
    state, run, _ = play(monkeypatch, [described("a", a), described("b", b)])
    pooled = np.concatenate([a, b])
    np.testing.assert_allclose(state.scaler_mean, np.nanmean(pooled, 0), rtol=1e-12)
    np.testing.assert_allclose(state.scaler_sd, np.nanstd(pooled, 0), rtol=1e-9)
    assert run.nodes == {"a": 100, "b": 101}
    assert state.sites["a"].counts["patients"] == 7


def test_the_scaler_does_not_depend_on_which_node_is_which_site(monkeypatch):
    rng = np.random.default_rng(2)
    answers = [described(n, rng.normal(size=(5, 2))) for n in ("c", "a", "b")]
    one, _, _ = play(monkeypatch, answers)
    two, _, _ = play(monkeypatch, answers[::-1])
    assert one.scaler_mean == two.scaler_mean and one.scaler_sd == two.scaler_sd


def test_the_record_names_sites_and_not_nodes(monkeypatch):
    _, _, (record,) = play(monkeypatch, [described("b", [[1, 2]]), described("a", [[3, 4]])])
    assert record["accepted"] == ["a", "b"] and set(record["bytes_down"]) == {"a", "b"}


def test_two_nodes_under_one_name_end_the_run(monkeypatch):
    with pytest.raises(RunError, match="'a'"):
        play(monkeypatch, [described("a", [[1, 2]]), described("a", [[3, 4]])])


@pytest.mark.parametrize(
    "sums",
    [
        {},
        {"phenotype_n": np.ones(2), "phenotype_sum": np.ones(2)},
        {k: np.ones(3) for k in STATISTICS},
        {k: np.ones((2, 1)) for k in STATISTICS},
        {k: np.array([1.0, np.nan]) for k in STATISTICS},
    ],
)
def test_a_site_whose_sums_cannot_be_used_is_left_out(monkeypatch, sums):
    """One broken site would otherwise end the run, or put NaN into everybody's scaler."""
    bad = replace(described("bad", [[1, 2]]), sums=sums)
    state, run, _ = play(monkeypatch, [described("a", [[1, 2], [3, 4]]), bad])
    assert set(run.nodes) == {"a"}
    assert state.scaler_mean == (2.0, 3.0)


def test_too_few_sites_end_the_run_with_their_reasons(monkeypatch):
    config = replace(CONFIG, min_sites=2)
    with pytest.raises(RunError, match=r"1 of 2 sites answered.*data"):
        play(monkeypatch, [described("a", [[1, 2]]), None], config=config)
    with pytest.raises(RunError, match=r"1 of 2 sites are online"):
        play(monkeypatch, [described("a", [[1, 2]])], config=config)


def test_a_resumed_run_keeps_its_scaler_and_takes_new_sites_in(monkeypatch):
    first, _, _ = play(monkeypatch, [described("a", [[1, 2], [3, 4]])])
    answers = [described("a", [[1, 2], [3, 4]]), described("late", [[9, 9]], ("ecg",))]
    again, run, _ = play(monkeypatch, answers, state=first)
    assert again.scaler_mean == first.scaler_mean and again.scaler_sd == first.scaler_sd
    assert set(run.nodes) <= set(again.sites)
    assert again.sites["late"].modalities == ("ecg",)
    assert again.history == first.history
