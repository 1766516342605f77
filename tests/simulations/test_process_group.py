"""Families of processes end together: cheap trees that do what Flower's and Ray's do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import pytest

from cardionets_core.errors import EngineError
from cardionets_core.flower_command import Command
from simulations import watchdog
from simulations.process_group import ProcessGroup, check_port, free_ports, signals_as_exceptions
from tests.processes import living, names

ROOT = Path(__file__).resolve().parents[2]
# A child, a grandchild in its own session, and one whose parent is gone.
TREE = Command(("sh", "-c", "sleep 600 & setsid sleep 600 & (sleep 600 &) ; wait"))
TREE_NAMES = ["sh", "sleep", "sleep", "sleep"]
STUBBORN = Command(("sh", "-c", "trap '' TERM INT HUP; while true; do sleep 0.1; done"))


def group(folder: Path) -> ProcessGroup:
    return ProcessGroup(folder / "logs", env=dict(os.environ), cwd=folder)


def await_members(processes: ProcessGroup, count: int) -> list[int]:
    deadline = time.monotonic() + 10
    while len(members := processes.members()) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(members) >= count
    return [member.pid for member in members]


def await_tree(processes: ProcessGroup) -> list[int]:
    """Wait until TREE is its shell and three sleepers: the subshell between is gone by then."""
    deadline = time.monotonic() + 30
    while (now := names(processes.members())) != TREE_NAMES:
        assert time.monotonic() < deadline, now
        time.sleep(0.05)
    return [member.pid for member in processes.members()]


def test_stop_ends_grandchildren_wherever_they_are(tmp_path):
    processes = group(tmp_path)
    processes.start("tree", TREE)
    pids = await_tree(processes)
    processes.stop()
    assert living(pids) == []
    assert processes.members() == []
    processes.stop()  # twice is fine


def test_who_ignores_sigterm_is_killed(tmp_path):
    processes = group(tmp_path)
    processes.start("stubborn", STUBBORN)
    pids = await_members(processes, 1)
    time.sleep(0.3)
    processes.stop(patience=0.3)
    assert living(pids) == []


def test_groups_leave_each_other_alone(tmp_path):
    first, second = group(tmp_path / "1"), group(tmp_path / "2")
    for number, processes in enumerate((first, second)):
        (tmp_path / str(number + 1)).mkdir(exist_ok=True)
        processes.start("tree", TREE)
    pids = await_tree(second)
    await_tree(first)
    try:
        first.stop()
        assert living(pids) == pids
    finally:
        second.stop()


HOLDER = """
    import json, os, sys, time
    from pathlib import Path
    from cardionets_core.flower_command import Command
    from simulations.process_group import ProcessGroup
    from tests.processes import names

    folder = Path(sys.argv[1])
    processes = ProcessGroup(folder / "logs", env=dict(os.environ), cwd=folder)
    processes.start("tree", Command(tuple(json.loads(sys.argv[2]))))
    # Until it is what it stays: the subshell between lives for a moment.
    while names(processes.members()) != json.loads(sys.argv[3]):
        time.sleep(0.05)
    if os.fork() == 0:
        time.sleep(600)  # holds the watchdog's pipe open, as a forked data loader would
    print(json.dumps([p.pid for p in processes.members()]), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_watchdog_ends_a_family_whose_head_was_killed(tmp_path, number):
    tree = [json.dumps(TREE.argv), json.dumps(TREE_NAMES)]
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path), *tree],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        pids = json.loads(holder.stdout.readline())
        assert living(pids) == pids and len(pids) == len(TREE_NAMES)
        holder.send_signal(number)
        holder.wait(10)
        deadline = time.monotonic() + 10
        while living(pids) and time.monotonic() < deadline:
            time.sleep(0.1)
        left = living(pids)
    finally:
        with suppress(ProcessLookupError):  # the forked child, which is no member
            os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    assert left == []


def test_output_goes_to_the_log_and_its_end_into_messages(tmp_path):
    processes = group(tmp_path)
    lines = "; ".join(f"echo line-{i}" for i in range(40))
    processes.start("talker", Command(("sh", "-c", f"{lines}; exit 3")))
    try:
        while processes.ended("talker") is None:
            time.sleep(0.02)
        assert processes.ended("talker") == 3
        tail = processes.tail("talker")
        assert "line-39" in tail and "line-1\n" not in tail and str(tmp_path) in tail
    finally:
        processes.stop()


def test_run_returns_output_and_knows_a_deadline(tmp_path):
    processes = group(tmp_path)
    done = processes.run(Command(("sh", "-c", "echo $ANSWER"), {"ANSWER": "42"}), seconds=5)
    assert done.stdout == "42\n"
    with pytest.raises(EngineError, match="did not answer within"):
        processes.run(Command(("sleep", "60")), seconds=0.2)
    with pytest.raises(EngineError, match=r"no-such-program was not found.*pip install"):
        processes.run(Command(("no-such-program",)), seconds=1)


def test_a_program_that_is_missing_leaves_nothing(tmp_path):
    processes = group(tmp_path)
    with pytest.raises(EngineError, match="no-such-program"):
        processes.start("missing", Command(("no-such-program",)))
    processes.stop()
    assert processes.members() == []


def test_sigterm_runs_the_cleanup_and_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    cleaned = False
    with pytest.raises(SystemExit) as left, signals_as_exceptions():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            cleaned = True
    assert cleaned and left.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_that_comes_while_a_family_ends_is_delivered_afterwards(tmp_path, monkeypatch):
    end_family = watchdog.end_family

    def signalled(*family, **patience):
        os.kill(os.getpid(), signal.SIGTERM)
        return end_family(*family, **patience)

    monkeypatch.setattr(watchdog, "end_family", signalled)
    processes = group(tmp_path)
    processes.start("tree", TREE)
    pids = await_tree(processes)
    with pytest.raises(SystemExit) as left, signals_as_exceptions():
        processes.stop()
    assert left.value.code == 128 + signal.SIGTERM and living(pids) == []


def test_free_ports_are_free_and_distinct():
    ports = free_ports(5)
    assert len(set(ports)) == 5
    for port in ports:
        check_port(port)


def test_commands_print_as_one_would_type_them():
    command = Command(("a b", "--x"), {"B": "1 2", "A": "x"}, first_on_path=Path("/p q"))
    assert command.shell() == "A=x B='1 2' PATH='/p q':$PATH 'a b' --x"
    merged = command.environment({"PATH": "/bin", "NO_PROXY": "host"})
    assert merged["PATH"].split(":")[0] == "/p q" and merged["PATH"].endswith(":/bin")
    assert merged["NO_PROXY"] == "127.0.0.1,localhost,host"
