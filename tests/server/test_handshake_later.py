"""Sites that come later: to a restarted server, under another node, or for the first time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cardionets_core.errors import IncompleteError
from cardionets_core.run_config import StageConfig
from server import mail
from server.exchange import Run
from server.handshake import admitted, greet
from tests.server.greeted_nodes import CONFIG, Nodes, described, play
from tests.server.played_round import HandClock, attend


@pytest.fixture(autouse=True)
def quick(a_server, monkeypatch):
    """Be as quick after a long wait."""
    monkeypatch.setattr(mail, "LONGEST_POLL_S", 0.002)


def restarted(known, answers, *, config=CONFIG, **nodes):
    """Greet as a server that knew these sites; return who was waited for, too."""
    before, _, _ = play([described(n, [[1, 2]]) for n in known])
    run = Run(Nodes(answers, **nodes), config, None, lambda record: None)
    run.attendance = attend(run.grid, run.nodes)
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
    state, run, waited = restarted("ab", [described("a", [[1, 2]])], config=config)
    assert 0.3 <= run.attendance.clock() - HandClock().now < 0.31
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
    clock = HandClock()
    run.attendance = attend(nodes, run.nodes, clock)
    free_at, listed = clock.now + 0.3, nodes.get_nodes

    def get_nodes():
        if clock.now >= free_at:
            nodes.silent.clear()
        return listed()

    nodes.get_nodes = get_nodes
    greet(run, before)
    assert set(run.nodes) == {"a", "b"} and clock.now >= free_at


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
