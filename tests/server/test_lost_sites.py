"""Sites that are lost in the middle of a round, come back, move, or stay away."""

from __future__ import annotations

import pytest
from flwr.app import Error

from cardionets_core.messages import (
    MISSING_PARTS,
    Update,
    refusal,
    update_to_records,
)
from server import rounds
from server.rounds import run_round
from tests.server.played_round import (
    Engine,
    HandClock,
    attend,
    good,
    play_engine,
    task_for,
    trained,
)

pytestmark = pytest.mark.usefixtures("a_server")


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

    _, result, _, waited = play_engine({100: good("a"), 101: good("b")}, plan, rejoin_s=0.3)
    assert 0.3 <= result.seconds < 0.31
    assert result.accepted == ["b"] and result.refused == {"a": "lost"}
    assert waited == [["a"], []]


def test_a_site_that_was_lost_long_ago_costs_no_round_any_time():
    def plan(engine, look):
        engine.online.pop(100, None)

    engine = Engine({100: good("a"), 101: good("b")}, plan)
    attendance = attend(engine, {"a": 100, "b": 101})
    attendance.away_since["a"] = attendance.clock() - 1000
    result = run_round(
        attendance,
        ["a", "b"],
        make_task=task_for,
        accept=lambda site, update: None,
        deadline_s=60.0,
        rejoin_s=900.0,
    )
    assert result.accepted == ["b"] and result.seconds == 0.0


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
    assert 0.6 <= result.seconds < 0.61 and result.refused == {"a": "lost"}
    assert waited == [["a"], []]


def test_a_slow_site_that_is_alive_is_waited_for_until_the_deadline_quorum_or_not():
    never = lambda task, asked: None  # noqa: E731
    _, result, _, waited = play_engine({100: never, 101: good("b")}, rejoin_s=0.01, deadline_s=0.6)
    assert 0.6 <= result.seconds < 0.61 and result.refused == {"a": "late"} and waited == []


def test_a_site_whose_process_dies_every_time_does_not_hold_up_a_quorum():
    dies = lambda task, asked: Error(code=8, reason="x")  # noqa: E731
    _, result, _, _ = play_engine({100: dies, 101: good("b")}, rejoin_s=30.0)
    assert result.accepted == ["b"] and result.refused == {"a": "lost"}
    assert result.losses["a"] == rounds.LOSSES and result.seconds < 1


def test_a_site_that_refuses_is_not_asked_again():
    engine, result, _, _ = play_engine(
        {100: lambda task, asked: Error(code=2, reason="x"), 101: good("b")},
        enough=lambda sites: len(sites) == 2,
    )
    assert result.refused == {"a": "flower_2"} and len(engine.pushed) == 2


def test_a_task_says_how_much_time_is_left():
    left, clock = [], HandClock()

    def make_task(site, lost, left_s):
        left.append(left_s)
        return task_for(site, lost, left_s)

    def lost(task, asked):
        clock.sleep(0.05)
        return refusal(MISSING_PARTS) if asked == 1 else trained("a")

    engine, _, _, _ = play_engine({100: lost}, make_task=make_task, deadline_s=30.0, clock=clock)
    assert left == [30.0, pytest.approx(29.95)]
    assert [m.metadata.ttl for m in engine.pushed] == pytest.approx(left)


def test_the_time_of_a_site_is_from_its_task_to_its_answer():
    slow = lambda task, asked: trained("b") if asked > 30 else None  # noqa: E731
    _, result, _, _ = play_engine({100: good("a"), 101: slow})
    assert 0 <= result.seconds_by_site["a"] < result.seconds_by_site["b"] <= result.seconds
