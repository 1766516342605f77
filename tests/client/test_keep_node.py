"""A site's node is started again, and its administrator is told once why it could not come in."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import pytest

import client.keep_node
from cardionets_core.flower_command import Command
from client.keep_node import (
    AGAIN_S,
    NODE,
    SEEN,
    STILL_ALIVE,
    UNKNOWN_KEY,
    Explained,
    NodeProcesses,
    StarterProcesses,
)

ADMITTED = "echo 'INFO :  SuperNode ID: 17'; exec sleep 60"
REFUSED = "echo '[code: 2004] Failed to activate SuperNode.'; exit 1"


@pytest.fixture
def node(tmp_path):
    processes = NodeProcesses(tmp_path / SEEN, out=io.BytesIO())
    yield processes
    processes.stop()


def run(node, script):
    node.start(NODE, Command(("/bin/sh", "-c", script)))


def wait_until(happens):
    deadline = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def refused(node):
    run(node, REFUSED)
    wait_until(lambda: node.ended(NODE) is not None and node.refused)
    return node.ended(NODE)


def test_a_key_that_is_not_known_is_said_once_and_asked_for_again(node):
    explain = Explained(node)
    pause, words = explain(refused(node))
    assert pause == AGAIN_S and words.startswith(UNKNOWN_KEY) and "register" in words
    assert explain(refused(node)) == (AGAIN_S, "")


def test_a_node_that_was_in_a_moment_ago_is_let_in_again_soon(node):
    run(node, ADMITTED)
    wait_until(lambda: node.admitted)
    node.sign()
    node.stop()
    pause, words = Explained(node)(refused(node))
    assert pause == AGAIN_S and words.startswith(STILL_ALIVE)


def test_the_reason_changes_when_the_minute_is_over(node, tmp_path):
    (tmp_path / SEEN).touch()
    explain = Explained(node)
    assert explain(refused(node))[1].startswith(STILL_ALIVE)
    os.utime(tmp_path / SEEN, (1.0, 1.0))
    assert explain(refused(node))[1].startswith(UNKNOWN_KEY)


def test_the_last_words_of_a_node_are_read_before_it_counts_as_ended(node, monkeypatch):
    monkeypatch.setattr(client.keep_node, "LAST_WORDS_S", 60.0)
    run(node, f"(sleep 0.3; {REFUSED}) & exit 1")
    wait_until(lambda: node.ended(NODE) is not None)
    assert node.refused and Explained(node)(1)[1].startswith(UNKNOWN_KEY)


def test_what_an_earlier_life_says_is_passed_on_and_not_taken_for_this_ones(
    node, tmp_path, monkeypatch
):
    monkeypatch.setattr(client.keep_node, "LAST_WORDS_S", 0.0)
    monkeypatch.chdir(tmp_path)
    os.mkfifo("go")
    node._out = out = io.BytesIO()
    run(node, f"(read word; {REFUSED}) < go & exit 1")
    wait_until(lambda: node.ended(NODE) is not None)
    run(node, "exec sleep 60")
    Path("go").write_text("now\n")
    wait_until(lambda: b"Failed to activate" in out.getvalue())
    assert not node.refused


def test_another_end_is_like_that_of_any_process(node):
    run(node, "echo out of memory; exit 3")
    wait_until(lambda: node.ended(NODE) is not None)
    assert Explained(node)(3) is None and not node.refused


def test_a_node_that_has_not_been_let_in_leaves_no_sign(node, tmp_path):
    run(node, "exec sleep 60")
    node.sign()
    assert not (tmp_path / SEEN).exists() and not node.was_in()


def test_its_output_is_passed_on(node):
    out = io.BytesIO()
    node._out = out
    refused(node)
    assert b"Failed to activate" in out.getvalue()


def test_a_port_that_another_process_holds_is_named(node):
    run(node, "echo \"[Errno 98] bind on ('127.0.0.1', 9094): address already in use\"; exit 1")
    wait_until(lambda: node.ended(NODE) is not None and node.port_taken)
    pause, words = Explained(node)(1)
    assert pause == AGAIN_S and "--port" in words and "--home" in words


def test_a_node_counts_as_up_when_it_was_let_in_and_a_starter_when_it_listens(node, tmp_path):
    run(node, "exec sleep 60")
    assert not node.is_in()
    node.stop()
    run(node, ADMITTED)
    wait_until(node.is_in)
    place = tmp_path / "warm.sock"
    place.touch()  # of an earlier life
    starter = StarterProcesses(place)
    try:
        starter.start("it", Command(("/bin/sh", "-c", "exit 0")))
        assert not starter.listens()
        starter.start("again", Command(("/bin/sh", "-c", f"touch {place}; exec sleep 60")))
        wait_until(starter.listens)
    finally:
        starter.stop()
