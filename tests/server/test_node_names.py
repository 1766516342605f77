"""Whose a node is that refuses a handshake: named where that is certain, and never wrongly."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cardionets_core.errors import IncompleteError
from server import awaiting, mail
from server.exchange import Run
from server.handshake import greet
from server.progress import read_progress
from server.state import RunState
from tests.server.greeted_nodes import CONFIG, Nodes, described

KEYS = {100: b"of hill", 101: b"of north"}
ANSWERS = (described("hill", [[1, 2], [2, 3]]), described("north", [[3, 4], [5, 6]]))


@pytest.fixture(autouse=True)
def quick(a_server, monkeypatch):
    """Be as quick after a long wait."""
    monkeypatch.setattr(mail, "LONGEST_POLL_S", 0.002)


@pytest.fixture
def handshake(tmp_path):
    """Return (folder, answers, keys, min_sites, of Nodes) -> the entry of a handshake, written."""

    def play(beside, answers=ANSWERS, *, keys=KEYS, min_sites=2, **nodes):
        folder = tmp_path / beside
        folder.mkdir()
        told = []
        config = replace(CONFIG, min_sites=min_sites)
        greet(Run(Nodes(answers, keys=keys, **nodes), config, folder, told.append), EMPTY)
        entry = {"event": "round", **told[0]}
        (folder / "progress.jsonl").write_text(json.dumps(entry) + "\n")
        return read_progress(folder)[0]

    return play


EMPTY = RunState({})


def test_a_handshake_keeps_digests_of_keys_and_never_a_key(handshake, tmp_path):
    keys = handshake("one")["keys"]
    assert set(keys) == {"hill", "north"} and len(set(keys.values())) == 2
    assert "of north" not in (tmp_path / "one" / "progress.jsonl").read_text()
    assert "keys" not in handshake("two", keys={})


def test_a_node_that_answered_an_earlier_run_is_named(handshake):
    handshake("one")
    with pytest.raises(IncompleteError, match=r"1 of 2 .* \(refused: north: data\)") as ended:
        handshake("two", (ANSWERS[0], None))
    assert ended.value.sites == ("north",) and ended.value.refused == {"north": "data"}
    assert "north: the site's data cannot be read." in str(ended.value)


def test_of_too_few_nodes_that_are_online_it_is_said_which_refused(handshake):
    handshake("one")
    with pytest.raises(IncompleteError, match=r"1 of 2 sites are online") as ended:
        handshake("two", (None,), keys={100: KEYS[101]})
    assert "(refused: north: data); start the missing ones" in str(ended.value)
    assert ended.value.refused == {"north": "data"} and ended.value.resume_helps


def test_a_node_that_stays_silent_is_late(handshake, monkeypatch):
    monkeypatch.setattr(awaiting, "DESCRIBE_S", 0.05)
    handshake("one")
    with pytest.raises(IncompleteError, match=r"refused: north: late") as ended:
        handshake("two", silent=[101])
    assert ended.value.sites == ("north",) and ended.value.resume_helps


def test_a_site_that_was_left_out_is_named_in_the_record(handshake):
    handshake("one")
    entry = handshake("two", (ANSWERS[0], None), min_sites=1)
    assert entry["refused"] == {"north": "data"} and "north" in entry["bytes_down"]


def test_of_a_key_that_is_new_nothing_is_known(handshake):
    handshake("one")
    with pytest.raises(IncompleteError, match=r"refused: node-1: data") as ended:
        handshake("two", (ANSWERS[0], None), keys={**KEYS, 101: b"of nobody"})
    assert ended.value.sites == ()


def test_a_registered_name_goes_before_what_a_key_said(handshake):
    handshake("one")
    with pytest.raises(IncompleteError, match="refused: st-barts: data") as ended:
        handshake("two", (ANSWERS[0], None), names={101: "st-barts"})
    assert ended.value.sites == ("st-barts",)


def test_a_name_that_is_not_certain_is_not_given(handshake):
    """Another node is north now; a key has spoken for two; two keys have spoken for one site."""
    handshake("one")
    north = described("north", [[3, 4], [5, 6]])
    taken = handshake("two", (north, None), keys={100: b"new", 101: KEYS[101]}, min_sites=1)
    assert taken["refused"] == {"node-1": "data"}
    both = handshake("three", (ANSWERS[0], None, None), keys={**KEYS, 102: b"new"}, min_sites=1)
    assert both["refused"] == {"node-1": "data", "node-2": "data"}
    handshake("four", (described("other", [[3, 4]]),), keys={100: KEYS[101]}, min_sites=1)
    twice = handshake("five", (ANSWERS[0], None), min_sites=1)
    assert twice["refused"] == {"node-1": "data"}
