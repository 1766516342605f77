"""Processes that are kept running: started again with a pause, ended with their supervisor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from cardionets_core.errors import EngineError
from cardionets_core.flower_command import Command
from cardionets_core.supervision import (
    Backoff,
    Kept,
    Processes,
    Stopped,
    ended_by_signals,
    exit_words,
    process_start,
)
from tests.processes import living

PATIENCE_S = 300.0


class FakeProcesses:
    def __init__(self):
        self.starts, self.code = 0, None

    def start(self, name, command):
        self.starts, self.code = self.starts + 1, None

    def ended(self, name):
        return self.code


def test_a_process_is_started_again_with_a_pause_that_grows_and_is_forgotten():
    processes, said, now = FakeProcesses(), [], 0.0
    kept = Kept("it", Command(("x",)), processes, say=said.append, backoff=Backoff())
    pauses = []
    for _ in range(9):
        kept.tick(now)
        processes.code = 1
        kept.tick(now)
        died, starts = now, processes.starts
        while processes.starts == starts:
            now += 0.25
            kept.tick(now)
        pauses.append(now - died)
    assert pauses == [0.5, 1, 2, 4, 8, 16, 20, 20, 20]
    assert len(said) == kept.restarts == 9 and "exit code 1" in said[0]
    processes.code = -9
    kept.tick(now + 11)  # after ten healthy seconds
    assert said[-1] == "it ended with SIGKILL; it is started again in 0.5 s"


def test_a_special_end_has_a_pause_of_its_own_and_may_be_quiet():
    processes, said = FakeProcesses(), []
    kept = Kept(
        "it",
        Command(("x",)),
        processes,
        say=said.append,
        explain=lambda code: (7.0, "") if code == 3 else None,
    )
    kept.tick(0.0)
    processes.code = 3
    kept.tick(1.0)
    kept.tick(7.9)
    assert not said and processes.starts == 1
    kept.tick(8.1)
    assert processes.starts == 2


def test_time_counts_as_healthy_from_when_a_process_is_up_and_not_from_its_start():
    processes, said, up = FakeProcesses(), [], []
    kept = Kept("it", Command(("x",)), processes, say=said.append, is_up=lambda: bool(up))
    now = 0.0
    for _ in range(3):  # a minute of imports, then an error
        kept.tick(now)
        kept.tick(now + 60)
        processes.code = 1
        kept.tick(now + 61)
        now += 100
    assert [line.split("again in ")[1] for line in said] == ["0.5 s", "1 s", "2 s"]
    kept.tick(now)
    up.append(True)
    kept.tick(now + 60)
    processes.code = 1
    kept.tick(now + 69)  # up for nine seconds
    assert said[-1].endswith("in 4 s")
    kept.tick(now + 100)
    kept.tick(now + 101)
    processes.code = 1
    kept.tick(now + 112)
    assert said[-1].endswith("in 0.5 s")


def test_exit_codes_in_words():
    assert exit_words(3) == "exit code 3" and exit_words(-15) == "SIGTERM"
    assert exit_words(-250) == "signal 250"


def test_a_program_that_is_not_there_is_named():
    with pytest.raises(EngineError, match="no-such-flower was not found"):
        Processes().start("it", Command(("no-such-flower",)))


def test_a_signal_that_comes_while_a_process_is_started_leaves_no_orphan():
    class Signalled(Processes):
        def launch(self, command):
            process = super().launch(command)
            os.kill(os.getpid(), signal.SIGTERM)
            return process

    processes, sleeper = Signalled(), Command(("sleep", "600"))
    with pytest.raises(Stopped), ended_by_signals():
        try:
            processes.start("it", sleeper)
        finally:
            processes.stop()
    assert living([processes.pid("it")]) == []


SUPERVISE = """
    import sys, time
    from cardionets_core.flower_command import Command
    from cardionets_core.supervision import (
        Backoff, Kept, Processes, Stopped, ended_by_signals
    )
    processes = Processes()
    child = Command((sys.executable, "-c", "import time; time.sleep(600)"))
    kept = Kept("child", child, processes, say=lambda line: print(line, flush=True),
                backoff=Backoff(first_s=0.01))
    try:
        with ended_by_signals():
            while True:
                kept.tick(time.monotonic())
                print(processes.pid("child"), flush=True)
                time.sleep(0.02)
    except Stopped as stopped:
        print(stopped, flush=True)
    finally:
        processes.stop()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_real_children_are_restarted_and_end_with_their_supervisor(number):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SUPERVISE)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )

    def said(right):
        line = process.stdout.readline()
        while not right(line):
            assert line, "the supervisor has ended"
            line = process.stdout.readline()
        return line

    try:
        first = int(said(str.strip))
        os.kill(first, signal.SIGKILL)
        said(lambda line: "SIGKILL" in line)
        second = int(said(lambda line: line.strip().isdigit() and int(line) != first))
        assert process_start(second) is not None
        process.send_signal(number)
        rest, _ = process.communicate(timeout=PATIENCE_S)
        assert rest.splitlines()[-1] == number.name and process.returncode == 0
        deadline = time.monotonic() + PATIENCE_S
        while living([second]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.kill()
        process.communicate()
