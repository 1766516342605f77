"""Who is there: names, the scaler of the federation, and sites that come later."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Message

from cardionets_core.errors import IncompleteError, RunError
from cardionets_core.flower_compat import NodeInfo, stamp_message_id
from cardionets_core.messages import Update, refusal, update_to_records
from cardionets_core.model_config import ModelConfig
from cardionets_core.privacy_config import PrivacyReport, PrivacyRequest
from cardionets_core.run_config import RunConfig, StageConfig
from server import mail
from server.exchange import Run
from server.handshake import admitted, greet, news_of
from server.state import RunState
from server.sums import STATISTICS

CONFIG = RunConfig(
    name="run-1",
    seed=3,
    model=ModelConfig(),
    stages=("handshake",),
    stage={},
    phenotypes=("lv_edv", "lv_ef"),
    diseases=(),
    wait_s=0.0,
    rejoin_s=0.0,
)


class Nodes:
    """A Grid of which node 100 + i gives the i-th answer: an update, None for a refusal.

    `silent` nodes never answer; `names` and `keys` are as Flower has registered the nodes.
    """

    def __init__(self, answers, *, names=None, keys=None, silent=()):
        self.answers = {100 + i: answer for i, answer in enumerate(answers)}
        self.names, self.keys, self.silent = names or {}, keys or {}, set(silent)
        self.offline = set()
        self.greeted = []
        self._open = {}

    def get_nodes(self):
        return [
            NodeInfo(node_id=n, name=self.names.get(n, ""), public_key=self.keys.get(n, b""))
            for n in self.answers
            if n not in self.offline
        ]

    def push_messages(self, messages):
        (message,) = messages
        message_id = f"m{len(self.greeted)}"
        stamp_message_id(message, message_id)
        self.greeted.append(message.metadata.dst_node_id)
        self._open[message_id] = message
        return [message_id]

    def pull_messages(self, message_ids):
        (message_id,) = message_ids
        message = self._open[message_id]
        node = message.metadata.dst_node_id
        if node in self.silent:
            return []
        del self._open[message_id]
        answer = self.answers[node]
        content = refusal("data") if answer is None else update_to_records(answer)
        return [Message(content, reply_to=message)]


@pytest.fixture(autouse=True)
def quick(a_server, monkeypatch):
    """Be as quick after a long wait."""
    monkeypatch.setattr(mail, "LONGEST_POLL_S", 0.002)


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


def play(answers, *, state=None, config=CONFIG, **nodes):
    """Greet nodes of which the i-th gives the i-th answer (None: it refuses)."""
    records = []
    run = Run(Nodes(answers, **nodes), config, None, records.append)
    return greet(run, state or RunState({})), run, records


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
        site: PrivacyReport(0.5, 1e-5, head * 64, 2, 8.0, 3.1)
        for site, head in (("a", "1"), ("b", "2"))
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


def restarted(known, answers, *, config=CONFIG, **nodes):
    """Greet as a server that knew these sites; return who was waited for, too."""
    before, _, _ = play([described(n, [[1, 2]]) for n in known])
    run = Run(Nodes(answers, **nodes), config, None, lambda record: None)
    waited = []
    run.waiting = waited.append
    return greet(run, before), run, waited


def test_a_restarted_server_goes_on_at_once_when_all_that_it_knew_are_there():
    config = replace(CONFIG, rejoin_s=600.0)
    answers = [described("a", [[1, 2]]), described("b", [[1, 2]]), described("c", [[1, 2]])]
    _, run, waited = restarted("ab", answers, config=config, silent=[102])
    assert set(run.nodes) == {"a", "b"} and waited == []
    assert run.attendance.unanswered()  # whoever else comes is taken in by a later round


def test_a_restarted_server_waits_for_the_sites_that_it_knew_but_not_for_ever():
    config = replace(CONFIG, rejoin_s=0.3)
    started = time.monotonic()
    state, run, waited = restarted("ab", [described("a", [[1, 2]])], config=config)
    assert time.monotonic() - started >= 0.3
    assert set(run.nodes) == {"a"} and set(state.sites) == {"a", "b"}
    assert waited[-2:] == [["b"], []]


def test_a_restarted_server_waits_for_a_site_that_is_at_work_for_the_one_before_it():
    """A SuperNode hands out one message at a time: it is online, and silent until it is free."""
    stage = StageConfig(deadline_s=600.0)
    config = replace(
        CONFIG, rejoin_s=0.05, stages=("handshake", "ecg_masked"), stage={"ecg_masked": stage}
    )
    before, _, _ = play([described(n, [[1, 2]]) for n in "ab"])
    nodes = Nodes([described(n, [[1, 2]]) for n in "ab"], silent=[101])
    run = Run(nodes, config, None, lambda record: None)
    started = time.monotonic()

    def waiting(sites):
        if sites == ["b"]:
            threading.Timer(0.3, nodes.silent.clear).start()

    run.waiting = waiting
    greet(run, before)
    assert set(run.nodes) == {"a", "b"} and time.monotonic() - started >= 0.3


def test_a_restarted_server_without_its_quorum_ends_incomplete_and_names_the_sites():
    config = replace(CONFIG, min_sites=2)
    with pytest.raises(IncompleteError, match="1 of 2 sites are online") as caught:
        restarted("ab", [described("a", [[1, 2]])], config=config)
    assert caught.value.sites == ("b",)


@pytest.mark.parametrize("names", [{}, {100: "a", 101: "a"}])
def test_a_site_that_comes_in_under_another_node_takes_its_place_unless_both_are_enrolled(names):
    """Keys prove nothing: a SuperNode that nobody registered makes itself one at each start."""
    _, run, _ = play([described("a", [[1, 2]])], names=names, keys={100: b"k", 101: b"l"})
    run.attendance.grid.answers[101] = described("a", [[1, 2]])
    run.attendance.look()
    run.attendance.greet()
    run.attendance.hear()
    assert run.nodes == {"a": 100 if names else 101}
    assert run.attendance.refused == ({101: "name_taken"} if names else {})


def test_a_site_that_came_back_before_its_old_node_was_missed_is_let_in_when_that_one_is_gone():
    _, run, _ = play([described("a", [[1, 2]])], names={100: "a", 101: "a"})
    attendance = run.attendance
    attendance.grid.answers[101] = described("a", [[1, 2]])
    for gone in (False, True):
        if gone:
            del attendance.grid.answers[100]
        attendance.look()
        attendance.greet()
        attendance.hear()
        assert run.nodes == {"a": 101 if gone else 100}
    assert attendance.refused == {}
    attendance.look()
    assert attendance.away_since == {}


def test_a_site_that_comes_in_later_is_part_of_the_next_rounds():
    state, run, _ = play([described("a", [[1, 2]])])
    run.attendance.grid.answers[101] = described("late", [[9, 9]], ("ecg",))
    run.attendance.look()
    run.attendance.greet()
    run.attendance.hear()
    state = admitted(run, state)
    assert run.nodes == {"a": 100, "late": 101} and state.sites["late"].modalities == ("ecg",)
    assert state.scaler_mean == (1.0, 2.0) and run.arrivals == {}


def test_a_resumed_run_keeps_its_scaler_and_takes_new_sites_in():
    first, _, _ = play([described("a", [[1, 2], [3, 4]])])
    answers = [described("a", [[1, 2], [3, 4]]), described("late", [[9, 9]], ("ecg",))]
    again, run, _ = play(answers, state=first)
    assert again.scaler_mean == first.scaler_mean and again.scaler_sd == first.scaler_sd
    assert set(run.nodes) <= set(again.sites)
    assert again.sites["late"].modalities == ("ecg",)
    assert again.history == first.history
