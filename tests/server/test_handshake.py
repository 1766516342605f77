"""The first handshake: who is there, under which name, and the scaler of the federation."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from cardionets_core.errors import RunError
from cardionets_core.flower_compat import NodeInfo
from cardionets_core.privacy_config import PrivacyReport, PrivacyRequest
from server import mail
from server.exchange import Run
from server.handshake import greet, news_of
from server.state import RunState
from server.sums import STATISTICS
from tests.server.greeted_nodes import CONFIG, Nodes, described, play


@pytest.fixture(autouse=True)
def quick(a_server, monkeypatch):
    """Be as quick after a long wait."""
    monkeypatch.setattr(mail, "LONGEST_POLL_S", 0.002)


def test_the_scaler_is_that_of_all_patients_together():
    rng = np.random.default_rng(1)
    a, b = rng.normal(150, 30, (7, 2)), rng.normal(120, 10, (12, 2))
    b[3, 1] = np.nan
    state, run, _ = play([described("a", a), described("b", b)])
    pooled = np.concatenate([a, b])
    np.testing.assert_allclose(state.scaler_mean, np.nanmean(pooled, 0), rtol=1e-12)
    np.testing.assert_allclose(state.scaler_sd, np.nanstd(pooled, 0), rtol=1e-9)
    assert run.nodes == {"a": 100, "b": 101}
    assert state.sites["a"].counts["patients"] == 7


def test_the_scaler_does_not_depend_on_which_node_is_which_site():
    rng = np.random.default_rng(2)
    answers = [described(n, rng.normal(size=(5, 2))) for n in ("c", "a", "b")]
    one, _, _ = play(answers)
    two, _, _ = play(answers[::-1])
    assert one.scaler_mean == two.scaler_mean and one.scaler_sd == two.scaler_sd


def test_the_record_names_sites_and_not_nodes():
    _, _, (record,) = play([described("b", [[1, 2]]), described("a", [[3, 4]])])
    assert record["accepted"] == ["a", "b"] and set(record["bytes_down"]) == {"a", "b"}


def test_two_nodes_under_one_name_end_the_run():
    with pytest.raises(RunError, match="'a'"):
        play([described("a", [[1, 2]]), described("a", [[3, 4]])])


def unfolding(answers, change, *, min_sites=1, **nodes):
    """Greet nodes whose grid is changed before each look: `change(nodes, number of the look)`."""
    grid = Nodes(answers, **nodes)
    listed, looks = grid.get_nodes, itertools.count(1)

    def get_nodes():
        change(grid, next(looks))
        return listed()

    grid.get_nodes = get_nodes
    config = replace(CONFIG, min_sites=min_sites, wait_s=60.0)
    run = Run(grid, config, None, lambda record: None)
    return greet(run, RunState({})), run


def comes_late(grid, look):
    """Node 101 comes in at the fourth look, 102 at the eighth; 100 is listed all the time."""
    grid.offline = {n for n, first in ((101, 4), (102, 8)) if look < first}


A, AGAIN, B = (described(n, [[v, v]]) for n, v in (("a", 1), ("a", 5), ("b", 3)))


def test_a_site_killed_in_the_first_handshake_comes_back_while_its_old_node_is_listed():
    state, run = unfolding([A, AGAIN, B], comes_late, min_sites=2)
    assert run.nodes == {"a": 101, "b": 102}
    assert state.scaler_mean == (4.0, 4.0)  # of the newer one, and of b
    assert run.attendance.refused == {}


def test_that_two_nodes_claim_a_name_is_told_while_both_are_listed():
    state, run = unfolding([A, described("a", [[5, 5], [6, 6]]), B], comes_late, min_sites=2)
    assert state.history[-1]["news"] == [
        "a came in under another node; the newer one counts",
        "a declares other counts than before: patients 1 -> 2, train_studies 1 -> 2",
        "two nodes that are listed as online claim the name a",
    ]
    assert news_of(run) == {"news": state.history[-1]["news"][2:]}  # the rest is told once
    del run.attendance.grid.answers[100]
    run.attendance.look()
    assert news_of(run) == {}


def test_of_two_nodes_of_one_name_the_newer_one_counts_whichever_answers_first():
    def change(grid, look):
        comes_late(grid, look)
        grid.silent = {100} if look < 7 else set()

    state, run = unfolding([A, AGAIN], change)
    assert run.nodes == {"a": 101} and state.scaler_mean == (5.0, 5.0)
    assert run.attendance.refused == {100: "name_taken"}


def test_two_nodes_of_one_name_that_came_together_end_the_run_however_late():
    def change(grid, look):
        grid.offline = {101, 102} if look < 4 else set()

    with pytest.raises(RunError, match=r"'a' \(node-1 and node-2\)"):
        unfolding([B, A, AGAIN], change, min_sites=2)


def test_a_second_node_of_the_name_of_an_enrolled_one_ends_a_run_that_has_not_begun():
    with pytest.raises(RunError, match="'a'"):
        unfolding([A, AGAIN, B], comes_late, min_sites=2, names={100: "a"})


def test_a_node_that_is_registered_by_name_is_told_its_own_ledgers_head_and_no_other():
    """Of the other one nobody knows whose it is: it finds its site's head among all of them."""
    told = {
        site: PrivacyReport(0.5, 1e-5, head * 64, 2, 8.0) for site, head in (("a", "1"), ("b", "2"))
    }
    config = replace(CONFIG, privacy=PrivacyRequest(mode="patient"))
    answers = [replace(answer, privacy=told[answer.site]) for answer in (A, B)]
    run = Run(Nodes(answers, names={100: "a"}), config, None, lambda record: None)
    greet(run, RunState({}))
    asked = {node: run.attendance.describe(node).header.privacy for node in (100, 101)}
    assert asked[100].head == "1" * 64 and asked[100].heads == {}
    assert asked[101].head == "" and len(asked[101].heads) == 2
    assert asked[101].head_of(run="run-1", site="b") == "2" * 64


def test_a_node_that_answers_two_greetings_is_one_site(monkeypatch):
    """It was cut off for a moment before it had answered the first."""
    info = NodeInfo(node_id=100)

    def change(grid, look):
        grid.silent = {100} if look < 4 else set()
        info.last_activated_at = "1" if look < 3 else "2"
        grid.listed = [info]

    monkeypatch.setattr(Nodes, "get_nodes", lambda grid: grid.listed)
    _, run = unfolding([A], change)
    assert run.attendance.grid.greeted == [100, 100] and run.nodes == {"a": 100}


def test_a_run_without_phenotypes_is_resumed_as_one_that_knows_its_sites():
    config = replace(CONFIG, phenotypes=())
    answers = [described(n, np.empty((2, 0))) for n in "ab"]
    first, _, _ = play(answers, config=config)
    assert first.scaler_mean == () and set(first.sites) == {"a", "b"}
    again, run, _ = play([*answers[:1], *answers[:1]], state=first, config=config)
    assert set(again.sites) == {"a", "b"} and set(run.nodes) == {"a"}
    assert again.history == first.history


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
def test_a_site_whose_sums_cannot_be_used_is_left_out(sums):
    """One broken site would otherwise end the run, or put NaN into everybody's scaler."""
    bad = replace(described("bad", [[1, 2]]), sums=sums)
    state, run, _ = play([described("a", [[1, 2], [3, 4]]), bad])
    assert set(run.nodes) == {"a"}
    assert state.scaler_mean == (2.0, 3.0)


def test_an_enrolled_node_is_the_site_that_it_is_registered_as():
    answers = [described("a", [[1, 2]]), described("a", [[9, 9]]), described("c", [[3, 4]])]
    _, run, (record,) = play(answers, names={101: "b"})
    assert run.nodes == {"a": 100, "c": 102}
    assert record["refused"] == {"b": "wrong_site"}


def test_too_few_sites_end_the_run_with_their_reasons():
    config = replace(CONFIG, min_sites=2)
    with pytest.raises(RunError, match=r"1 of 2 sites answered.*data"):
        play([described("a", [[1, 2]]), None], config=config)
    with pytest.raises(RunError, match=r"1 of 2 sites are online"):
        play([described("a", [[1, 2]])], config=config)


def test_a_node_that_has_not_said_whose_it_is_goes_by_its_number_or_its_registered_name():
    answers = [described("b", [[1, 2]]), None, None]
    _, _, (record,) = play(answers, names={101: "st-barts"})
    assert record["accepted"] == ["b"]
    assert record["refused"] == {"st-barts": "data", "node-2": "data"}
    assert set(record["bytes_down"]) == {"b", "st-barts", "node-2"} == set(record["bytes_up"])


def test_a_first_handshake_waits_for_all_that_are_online_but_not_for_a_node_that_went():
    """Flower lists a killed node for a minute: its answer never comes."""
    nodes = Nodes([described("a", [[1, 2]]), described("b", [[3, 4]])], silent=[101])
    run = Run(nodes, CONFIG, None, lambda record: None)
    looks = 0
    listed = nodes.get_nodes

    def get_nodes():
        nonlocal looks
        looks += 1
        nodes.offline = {101} if looks > 20 else set()
        return listed()

    nodes.get_nodes = get_nodes
    state = greet(run, RunState({}))
    assert set(state.sites) == {"a"} and 20 < looks < 30
