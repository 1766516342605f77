"""One round over a Grid that plays every kind of site."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Error, Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cardionets_core.errors import SITE_ERROR_CODES, RunError
from cardionets_core.flower_compat import NodeInfo, stamp_message_id, task_identity
from cardionets_core.messages import (
    MISSING_MEMORY,
    MISSING_PARTS,
    Task,
    TaskHeader,
    Update,
    payload_bytes,
    refusal,
    task_from_records,
    task_to_records,
    update_to_records,
)
from cardionets_core.model_config import ModelConfig
from server import mail, rounds
from server.attendance import Attendance
from server.round_book import LOST
from server.rounds import run_round

HEADER = TaskHeader(
    run="run-1",
    config_hash="",
    stage="ecg_masked",
    action="train",
    round=1,
    seed=1,
    threads=1,
    model=ModelConfig(),
    phenotypes=(),
    diseases=(),
)
WEIGHTS = {"ecg_encoder": {"w": np.ones(4, dtype=np.float32)}}


@pytest.fixture(autouse=True)
def a_server(monkeypatch):
    monkeypatch.setattr(mail, "POLL_S", 0.002)
    monkeypatch.setattr(rounds, "AGAIN_S", 0.002)
    with task_identity(run_id=1, node_id=1):
        yield


class FakeGrid:
    """Answers as `sites` say: node -> function of (task, times asked) that gives the reply.

    A function that returns None has not answered yet and is asked again at the next pull.
    """

    def __init__(self, sites):
        self.sites = sites
        self.pushed = []
        self.asked = {}
        self.online = dict.fromkeys(sites, "")
        self._open = {}

    def get_nodes(self):
        return [NodeInfo(node_id=n, last_activated_at=since) for n, since in self.online.items()]

    def push_messages(self, messages):
        ids = []
        for message in messages:
            message_id = f"m{len(self.pushed)}"
            stamp_message_id(message, message_id)
            self.pushed.append(message)
            self._open[message_id] = message
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids):
        replies = []
        for message_id in list(message_ids):
            message = self._open.get(message_id)
            if message is None:
                continue
            node = message.metadata.dst_node_id
            self.asked[node] = self.asked.get(node, 0) + 1
            content = self.sites[node](task_from_records(message.content), self.asked[node])
            if content is not None:
                del self._open[message_id]
                replies.append(Message(content, reply_to=message))
        return replies


def trained(site, patients=10, value=0.5):
    delta = {"ecg_encoder": {"w": np.full(4, value, dtype=np.float32)}}
    return update_to_records(Update(site, "run-1", "ecg_masked", 1, patients, delta=delta))


def good(site):
    return lambda task, asked: trained(site)


def task_for(site, lost, left_s):
    return Task(HEADER, WEIGHTS)


def play(sites, *, accept=None, make_task=task_for, deadline_s=60.0, **rest):
    """Run a round over `sites` (name -> behaviour) and return grid, result and updates."""
    nodes = {name: 100 + i for i, name in enumerate(sites)}
    grid = FakeGrid({nodes[n]: behaviour for n, behaviour in sites.items()})
    updates = {}

    def keep(site, update):
        updates[site] = update
        return None

    result = run_round(
        Attendance(grid, nodes),
        nodes,
        make_task=make_task,
        accept=accept or keep,
        deadline_s=deadline_s,
        **rest,
    )
    return grid, result, updates


def test_every_site_gets_one_message_and_its_update_is_used():
    grid, result, updates = play({"b": good("b"), "a": good("a"), "c": good("c")})
    assert result.accepted == ["a", "b", "c"] and result.refused == {}
    assert {n: u.site for n, u in updates.items()} == {"a": "a", "b": "b", "c": "c"}
    assert [m.metadata.dst_node_id for m in grid.pushed] == [101, 100, 102]  # by name
    assert all(0 < m.metadata.ttl <= 60.0 for m in grid.pushed)
    assert 0 < result.seconds < 60


def test_replies_are_used_as_they_arrive_and_not_in_the_order_of_names():
    order = []

    def accept(site, update):
        order.append(site)
        return None

    slow = lambda task, asked: trained("a") if asked > 3 else None  # noqa: E731
    _, result, _ = play({"a": slow, "b": good("b")}, accept=accept)
    assert order == ["b", "a"] and result.accepted == ["a", "b"]


def test_a_late_site_is_left_behind():
    never = lambda task, asked: None  # noqa: E731
    started = time.monotonic()
    _, result, updates = play({"a": good("a"), "slow": never}, deadline_s=1.0)
    assert time.monotonic() - started < 20
    assert result.accepted == ["a"] and result.refused == {"slow": "late"}
    assert set(updates) == {"a"}
    assert result.seconds >= 1.0


@pytest.mark.parametrize("code", sorted(set(SITE_ERROR_CODES) - set(LOST)))
def test_a_refusal_is_written_down_and_the_round_goes_on(code):
    grid, result, _ = play({"a": good("a"), "b": lambda task, asked: refusal(code)})
    assert result.accepted == ["a"] and result.refused == {"b": code}
    assert len(grid.pushed) == 2


def test_a_site_that_lost_a_part_is_sent_all_of_them_once():
    asked_for = []

    def make_task(site, lost, left_s):
        asked_for.append((site, bool(lost)))
        extra = {"tokenizer": {"w": np.zeros(3, dtype=np.float32)}} if lost else {}
        return Task(replace(HEADER), WEIGHTS | extra)

    def lost(task, asked):
        return trained("b") if "tokenizer" in task.weights else refusal(MISSING_PARTS)

    grid, result, _ = play({"a": good("a"), "b": lost}, make_task=make_task)
    assert result.accepted == ["a", "b"] and result.refused == {}
    assert asked_for == [("a", False), ("b", False), ("b", True)]
    small, _, large = (
        payload_bytes(m.content) for m in (grid.pushed[1], grid.pushed[0], grid.pushed[2])
    )
    assert result.bytes_down["b"] == small + large


@pytest.mark.parametrize("code", LOST)
def test_a_site_that_loses_it_again_is_refused(code):
    grid, result, _ = play({"b": lambda task, asked: refusal(code)})
    assert result.refused == {"b": code} and len(grid.pushed) == 2


def test_a_site_that_lost_all_is_asked_once_for_each_loss():
    told = []

    def make_task(site, lost, left_s):
        told.append(lost)
        return Task(HEADER, WEIGHTS)

    def lost(task, asked):
        return refusal(LOST[2 - asked]) if asked < 3 else trained("b")

    _, result, _ = play({"b": lost}, make_task=make_task)
    assert result.accepted == ["b"] and result.memory_lost == ["b"]
    assert told == [frozenset(), {MISSING_MEMORY}, set(LOST)]


def test_a_part_lost_at_the_deadline_makes_the_site_late():
    def slow_refusal(task, asked):
        time.sleep(0.3)
        return refusal(MISSING_PARTS)

    grid, result, _ = play({"b": slow_refusal}, deadline_s=0.2)
    assert result.refused == {"b": "late"} and result.accepted == []
    assert len(grid.pushed) == 1


@pytest.mark.parametrize("reason", ["num_examples", "not_finite", "shape", "replay"])
def test_a_screening_reason_keeps_the_update_out(reason):
    _, result, _ = play(
        {"a": good("a"), "b": good("b")}, accept=lambda site, u: reason if site == "b" else None
    )
    assert result.accepted == ["a"] and result.refused == {"b": reason}


def test_an_update_that_cannot_be_used_is_refused_and_named():
    def accept(site, update):
        if site == "b":
            raise RunError("too large to aggregate exactly")
        return None

    _, result, _ = play({"a": good("a"), "b": good("b")}, accept=accept)
    assert result.accepted == ["a"] and result.refused == {"b": "unusable"}


def test_an_answer_that_is_no_update_is_unreadable():
    _, result, _ = play({"a": good("a"), "b": lambda task, asked: task_to_records(task)})
    assert result.accepted == ["a"] and result.refused == {"b": "unreadable"}


def test_of_flowers_own_errors_only_the_number_is_kept(caplog):
    planted = "/data/smith_john_1951.hea"
    _, result, _ = play({"a": good("a"), "b": lambda task, asked: Error(code=2, reason=planted)})
    assert result.accepted == ["a"] and result.refused == {"b": "flower_2"}
    assert planted not in caplog.text


def test_bytes_up_are_counted_also_for_updates_that_are_not_used():
    _, result, _ = play({"a": good("a"), "b": good("b")}, accept=lambda site, update: "shape")
    assert result.accepted == []
    assert result.bytes_up == {n: payload_bytes(trained(n)) for n in ("a", "b")}


def test_a_reply_that_comes_twice_counts_once():
    class Doubling(FakeGrid):
        def pull_messages(self, message_ids):
            replies = super().pull_messages(message_ids)
            return replies + replies

    grid, seen = Doubling({1: good("a"), 2: good("b")}), []
    result = run_round(
        Attendance(grid, {"a": 1, "b": 2}),
        ["a", "b"],
        make_task=task_for,
        accept=lambda site, update: seen.append(site),
        deadline_s=5.0,
    )
    assert sorted(seen) == ["a", "b"] and result.accepted == ["a", "b"]


def test_a_reply_to_another_message_is_not_used():
    class Confused(FakeGrid):
        def pull_messages(self, message_ids):
            replies = super().pull_messages(message_ids)
            for reply in replies:
                reply.metadata.__dict__["_reply_to_message_id"] = "another"
            return replies

    grid = Confused({1: good("a")})
    result = run_round(
        Attendance(grid, {"a": 1}),
        ["a"],
        make_task=task_for,
        accept=lambda s, u: None,
        deadline_s=0.2,
    )
    assert result.accepted == [] and result.refused == {"a": "late"}


def test_a_bug_of_ours_is_loud():
    def accept(site, update):
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        play({"a": good("a")}, accept=accept)


@pytest.mark.parametrize(
    ("stage", "kind"),
    [("handshake", "query"), ("evaluate", "evaluate"), ("contrastive", "train")],
)
def test_the_stage_chooses_flowers_message_type(stage, kind):
    grid, _, _ = play(
        {"a": good("a")}, make_task=lambda site, lost, left_s: Task(replace(HEADER, stage=stage))
    )
    assert grid.pushed[0].metadata.message_type == kind


BEHAVIOURS = st.sampled_from(
    ["good", "slow", "never", "refuses", "lost once", "lost", "broken", "error"]
)


def behaviour(kind, site):
    def answer(task, asked):
        if kind == "never" or (kind == "slow" and asked < 3):
            return None
        if kind == "refuses":
            return refusal("refused_stage")
        if kind == "lost" or (kind == "lost once" and asked < 2):
            return refusal(MISSING_PARTS)
        if kind == "broken":
            return task_to_records(task)
        return Error(code=2, reason=site) if kind == "error" else trained(site)

    return answer


@given(st.lists(BEHAVIOURS, min_size=1, max_size=5), st.booleans())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_in_any_schedule_every_site_counts_once_or_has_a_reason(kinds, doubled):
    names = [f"s{i}" for i in range(len(kinds))]
    nodes = {name: 100 + i for i, name in enumerate(names)}
    grid = FakeGrid({nodes[n]: behaviour(k, n) for n, k in zip(names, kinds, strict=True)})
    if doubled:
        pull = grid.pull_messages
        grid.pull_messages = lambda ids: [m for reply in pull(ids) for m in (reply, reply)]
    seen = []
    result = run_round(
        Attendance(grid, nodes),
        names,
        make_task=task_for,
        accept=lambda site, update: seen.append(site),
        deadline_s=0.15 if "never" in kinds else 30.0,
    )
    assert sorted(seen) == result.accepted
    assert set(result.accepted) | set(result.refused) == set(names)
    assert not set(result.accepted) & set(result.refused)
    wanted = {
        "refuses": "refused_stage",
        "lost": MISSING_PARTS,
        "broken": "unreadable",
        "error": "flower_2",
    }
    for name, kind in zip(names, kinds, strict=True):
        if kind in wanted:
            assert result.refused[name] in (wanted[kind], "late")
        elif kind == "never":
            assert result.refused[name] == "late"
        elif "never" not in kinds:
            assert name in result.accepted


# ------------------------------------------------------------------------------------- lost sites


class Engine(FakeGrid):
    """Flower's habits with nodes that go and come; `plan` is called before every look.

    Asked for a reply of a node that is offline, it answers with error 5 and forgets the message.
    """

    def __init__(self, sites, plan=lambda engine, look: None):
        super().__init__(sites)
        self.plan = plan
        self.looks = 0
        self.pulled_offline = 0

    def get_nodes(self):
        self.looks += 1
        self.plan(self, self.looks)
        return super().get_nodes()

    def pull_messages(self, message_ids):
        (message_id,) = message_ids
        message = self._open.get(message_id)
        if message is not None and message.metadata.dst_node_id not in self.online:
            self.pulled_offline += 1
            del self._open[message_id]
            return [Message(Error(code=5, reason="node unavailable"), reply_to=message)]
        return super().pull_messages(message_ids)


def play_engine(sites, plan=lambda engine, look: None, *, nodes=None, greet=None, **rest):
    """Run a round; `sites` is node -> behaviour, and `nodes` site -> node."""
    engine = Engine(sites, plan)
    attendance = Attendance(
        engine, nodes or {n: 100 + i for i, n in enumerate("abc"[: len(sites)])}
    )
    if greet is not None:
        attendance.describe = lambda: Task(replace(HEADER, stage="handshake", action="describe"))
        attendance.welcome = lambda node, update: greet(attendance, node, update)
    updates, waited = [], []
    result = run_round(
        attendance,
        list(attendance.nodes),
        make_task=rest.pop("make_task", task_for),
        accept=lambda site, update: updates.append(site),
        deadline_s=rest.pop("deadline_s", 30.0),
        waiting=waited.append,
        **rest,
    )
    return engine, result, updates, waited


@pytest.mark.parametrize("code", [3, 4, 5, 8])
def test_an_error_of_the_engine_is_no_refusal_the_site_is_asked_again(code):
    lost = lambda task, asked: Error(code=code, reason="x") if asked == 1 else trained("a")  # noqa: E731
    engine, result, _, _ = play_engine({100: lost, 101: good("b")})
    assert result.accepted == ["a", "b"] and result.refused == {}
    assert result.losses == {"a": 1} and len(engine.pushed) == 3
    assert engine.pushed[-1].metadata.dst_node_id == 100


def test_the_reply_of_a_node_that_is_offline_is_not_asked_for_so_its_work_is_not_lost():
    """A cut line: the site trains on, and its answer comes when the line is back."""

    def plan(engine, look):
        if look == 3:
            del engine.online[100]
        if look == 8:
            engine.online[100] = ""

    slow = lambda task, asked: trained("a") if asked > 4 else None  # noqa: E731
    engine, result, _, waited = play_engine({100: slow, 101: good("b")}, plan, rejoin_s=30.0)
    assert result.accepted == ["a", "b"] and engine.pulled_offline == 0
    assert len(engine.pushed) == 2 and result.losses == {}
    assert waited == [["a"], []]


def test_a_node_in_a_new_life_is_asked_again_and_the_first_answer_counts():
    """A node that was restarted under its own id has forgotten its task; a cut one has not."""

    def plan(engine, look):
        if look == 3:
            engine.online[100] = "a later time"

    waits = lambda task, asked: trained("a") if asked > 6 else None  # noqa: E731
    engine, result, updates, _ = play_engine({100: waits}, plan)
    assert updates == ["a"] and result.accepted == ["a"] and result.losses == {"a": 1}
    assert len(engine.pushed) == 2


def test_a_site_under_another_node_is_greeted_and_asked_there():
    """Flower lists the killed node for another minute; nobody waits for that."""

    def welcome(attendance, node, update):
        attendance.nodes[update.site] = node

    def plan(engine, look):
        engine.online.pop(200, None)
        if look >= 3:
            engine.online[200] = ""

    def reborn(task, asked):
        described = Update("a", "run-1", "handshake", 1)
        return update_to_records(described) if task.header.action == "describe" else trained("a")

    never = lambda task, asked: None  # noqa: E731
    sites = {100: never, 101: good("b"), 200: reborn}
    nodes = {"a": 100, "b": 101}
    engine, result, updates, _ = play_engine(sites, plan, nodes=nodes, greet=welcome)
    assert result.accepted == ["a", "b"] and sorted(updates) == ["a", "b"]
    trains = [m.metadata for m in engine.pushed if m.metadata.message_type == "train"]
    assert [m.dst_node_id for m in trains] == [100, 101, 200]


def test_a_site_that_is_away_from_the_start_is_asked_when_it_comes():
    def plan(engine, look):
        if look == 1:
            del engine.online[100]
        if look == 5:
            engine.online[100] = ""

    _, _, updates, waited = play_engine({100: good("a"), 101: good("b")}, plan, rejoin_s=30.0)
    assert updates == ["b", "a"] and waited == [["a"], []]


def test_with_a_quorum_a_lost_site_is_waited_for_no_longer_than_rejoin_s():
    def plan(engine, look):
        engine.online.pop(100, None)

    started = time.monotonic()
    _, result, _, waited = play_engine({100: good("a"), 101: good("b")}, plan, rejoin_s=0.3)
    assert 0.3 <= time.monotonic() - started < 20
    assert result.accepted == ["b"] and result.refused == {"a": "lost"}
    assert waited == [["a"], []]


def test_a_site_that_was_lost_long_ago_costs_no_round_any_time():
    def plan(engine, look):
        engine.online.pop(100, None)

    engine = Engine({100: good("a"), 101: good("b")}, plan)
    attendance = Attendance(engine, {"a": 100, "b": 101})
    attendance.away_since["a"] = time.monotonic() - 1000
    result = run_round(
        attendance,
        ["a", "b"],
        make_task=task_for,
        accept=lambda site, update: None,
        deadline_s=60.0,
        rejoin_s=900.0,
    )
    assert result.accepted == ["b"] and result.seconds < 20


def test_without_a_quorum_a_lost_site_is_waited_for_until_the_deadline():
    def plan(engine, look):
        engine.online.pop(100, None)

    _, result, _, waited = play_engine(
        {100: good("a"), 101: good("b")},
        plan,
        rejoin_s=0.01,
        deadline_s=0.6,
        enough=lambda sites: len(sites) == 2,
    )
    assert result.seconds >= 0.6 and result.refused == {"a": "lost"} and waited == [["a"], []]


def test_a_slow_site_that_is_alive_is_waited_for_until_the_deadline_quorum_or_not():
    never = lambda task, asked: None  # noqa: E731
    _, result, _, waited = play_engine({100: never, 101: good("b")}, rejoin_s=0.01, deadline_s=0.6)
    assert result.seconds >= 0.6 and result.refused == {"a": "late"} and waited == []


def test_a_site_whose_process_dies_every_time_does_not_hold_up_a_quorum():
    dies = lambda task, asked: Error(code=8, reason="x")  # noqa: E731
    _, result, _, _ = play_engine({100: dies, 101: good("b")}, rejoin_s=30.0)
    assert result.accepted == ["b"] and result.refused == {"a": "lost"}
    assert result.losses["a"] == rounds.LOSSES and result.seconds < 20


def test_a_site_that_refuses_is_not_asked_again():
    engine, result, _, _ = play_engine(
        {100: lambda task, asked: Error(code=2, reason="x"), 101: good("b")},
        enough=lambda sites: len(sites) == 2,
    )
    assert result.refused == {"a": "flower_2"} and len(engine.pushed) == 2


def test_a_task_says_how_much_time_is_left():
    left = []

    def make_task(site, lost, left_s):
        left.append(left_s)
        return task_for(site, lost, left_s)

    def lost(task, asked):
        time.sleep(0.05)
        return refusal(MISSING_PARTS) if asked == 1 else trained("a")

    engine, _, _, _ = play_engine({100: lost}, make_task=make_task, deadline_s=30.0)
    assert 29 < left[1] < left[0] - 0.05 < 30
    assert [m.metadata.ttl for m in engine.pushed] == pytest.approx(left)


def test_the_time_of_a_site_is_from_its_task_to_its_answer():
    slow = lambda task, asked: trained("b") if asked > 30 else None  # noqa: E731
    _, result, _, _ = play_engine({100: good("a"), 101: slow})
    assert 0 <= result.seconds_by_site["a"] < result.seconds_by_site["b"] <= result.seconds
