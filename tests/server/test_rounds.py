"""One round over a Grid that plays every kind of site."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Error
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cardionets_core.errors import SITE_ERROR_CODES, RunError
from cardionets_core.messages import (
    MISSING_MEMORY,
    MISSING_PARTS,
    Task,
    payload_bytes,
    refusal,
    task_to_records,
)
from cardionets_core.run_config import StageConfig
from server.exchange import round_record
from server.gathering import deadline_of
from server.round_book import LOST
from server.rounds import run_round
from tests.server.played_round import (
    HEADER,
    WEIGHTS,
    FakeGrid,
    HandClock,
    attend,
    good,
    play,
    task_for,
    trained,
)

pytestmark = pytest.mark.usefixtures("a_server")


def test_every_site_gets_one_message_and_its_update_is_used():
    grid, result, updates = play({"b": good("b"), "a": good("a"), "c": good("c")})
    assert result.accepted == ["a", "b", "c"] and result.refused == {}
    assert {n: u.site for n, u in updates.items()} == {"a": "a", "b": "b", "c": "c"}
    assert [m.metadata.dst_node_id for m in grid.pushed] == [101, 100, 102]  # by name
    assert all(0 < m.metadata.ttl <= 60.0 for m in grid.pushed)
    assert result.seconds == 0.0


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
    _, result, updates = play({"a": good("a"), "slow": never}, deadline_s=1.0)
    assert result.accepted == ["a"] and result.refused == {"slow": "late"}
    assert set(updates) == {"a"}
    assert 1.0 <= result.seconds < 1.02


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
    clock = HandClock()

    def slow_refusal(task, asked):
        clock.sleep(0.3)
        return refusal(MISSING_PARTS)

    grid, result, _ = play({"b": slow_refusal}, deadline_s=0.2, clock=clock)
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


def test_an_answer_sent_again_does_not_shorten_the_deadline_of_a_slow_site():
    """A restarted server asks again: the site has the answer on its disk, and sends it at once."""
    replayed = lambda task, asked: trained("slow", seconds_before=400.0)  # noqa: E731
    _, result, _ = play({"a": good("a"), "slow": replayed})
    record = round_record("ecg_masked", 1, 9, result, {})
    settings = StageConfig(rounds=9, deadline_s=3600.0, patience=3.0)
    # The next round, for which the site must train, may take three times those 400 s, and more.
    assert 1260 <= deadline_of(settings, "ecg_masked", [record], attempt=1) < 3600
    assert record["seconds_by_site"]["a"] < 400 <= record["seconds_by_site"]["slow"]
    record["seconds_by_site"]["slow"] = 1e9  # whatever a site claims
    assert deadline_of(settings, "ecg_masked", [record], attempt=1) == 3600


def test_the_bytes_of_an_answer_sent_again_are_those_of_the_first():
    assert payload_bytes(trained("a", seconds_before=1234.5678)) == payload_bytes(trained("a"))


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
        attend(grid, {"a": 1, "b": 2}),
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
        attend(grid, {"a": 1}),
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
        attend(grid, nodes),
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


def test_without_a_quorum_a_round_goes_on_and_asks_again_who_has_not_answered():
    made = []

    def make_task(site, lost, left_s):
        made.append((site, left_s))
        return Task(HEADER, WEIGHTS)

    silent_once = lambda task, asked: trained("b") if len(made) > 2 else None  # noqa: E731
    _, result, updates = play(
        {"a": good("a"), "b": silent_once},
        make_task=make_task,
        deadline_s=60.0,
        first_s=0.5,
        enough=lambda sites: len(sites) == 2,
    )
    assert result.accepted == ["a", "b"] and result.refused == {} and result.longer
    assert set(updates) == {"a", "b"} and result.losses == {}
    # Only the silent one, and with what is left of the later deadline.
    assert [site for site, _ in made] == ["a", "b", "b"]
    assert made[0][1] == made[1][1] == 0.5 and 59.4 < made[2][1] <= 59.5


def test_with_a_quorum_a_round_ends_at_its_first_deadline():
    _, result, _ = play(
        {"a": good("a"), "b": lambda task, asked: None}, deadline_s=60.0, first_s=0.5
    )
    assert 0.5 <= result.seconds < 0.51
    assert result.accepted == ["a"] and result.refused == {"b": "late"} and not result.longer


def test_a_message_that_expired_below_the_quorum_is_no_late_answer():
    """Flower says 3 of an expired message; below the quorum its site is asked again."""

    def expired(task, asked):
        clock.sleep(0.4)
        if not seen:
            seen.append(asked)
            return Error(code=3, reason="expired")
        return trained("b")

    seen, clock = [], HandClock()
    _, result, _ = play(
        {"a": good("a"), "b": expired},
        clock=clock,
        deadline_s=60.0,
        first_s=0.3,
        enough=lambda sites: len(sites) == 2,
    )
    assert result.accepted == ["a", "b"] and result.refused == {}
