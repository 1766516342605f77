"""Families of processes end together: cheap trees that do what Flower's and Ray's do."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from cardionets_core.errors import EngineError
from cardionets_core.flower_command import Command
from simulations import watchdog
from simulations.process_group import (
    ProcessGroup,
    check_port,
    reserved_ports,
    signals_as_exceptions,
)
from tests.processes import living, names

ROOT = Path(__file__).resolve().parents[2]
# A child, a grandchild in its own session, and one whose parent is gone.
TREE = Command(("sh", "-c", "sleep 600 & setsid sleep 600 & (sleep 600 &) ; wait"))
TREE_NAMES = ["sh", "sleep", "sleep", "sleep"]
STUBBORN = Command(
    ("sh", "-c", "trap '' TERM INT HUP; touch trapped; while true; do sleep 0.1; done")
)
PATIENCE_S = 120.0


@pytest.fixture
def group():
    """Make groups that are stopped after the test, however it ends."""
    made = []

    def make(folder: Path) -> ProcessGroup:
        made.append(ProcessGroup(folder / "logs", env=dict(os.environ), cwd=folder))
        return made[-1]

    yield make
    for processes in made:
        processes.stop()


def wait_until(happens: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def await_tree(processes: ProcessGroup) -> list[int]:
    """Wait until TREE is its shell and three sleepers: the subshell between is gone by then."""
    wait_until(lambda: names(processes.members()) == TREE_NAMES)
    return [member.pid for member in processes.members()]


def test_stop_ends_grandchildren_wherever_they_are(tmp_path, group):
    processes = group(tmp_path)
    processes.start("tree", TREE)
    pids = await_tree(processes)
    processes.stop()
    assert living(pids) == []
    assert processes.members() == []
    processes.stop()  # twice is fine


def test_who_ignores_sigterm_is_killed(tmp_path, group):
    processes = group(tmp_path)
    processes.start("stubborn", STUBBORN)
    wait_until((tmp_path / "trapped").exists)
    pids = [member.pid for member in processes.members()]
    processes.stop(patience=0.3)
    assert processes.ended("stubborn") == -signal.SIGKILL
    assert living(pids) == []


def test_groups_leave_each_other_alone(tmp_path, group):
    first, second = group(tmp_path / "1"), group(tmp_path / "2")
    for number, processes in enumerate((first, second)):
        (tmp_path / str(number + 1)).mkdir(exist_ok=True)
        processes.start("tree", TREE)
    pids = await_tree(second)
    await_tree(first)
    first.stop()
    assert living(pids) == pids


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
        holder.wait(PATIENCE_S)
        wait_until(lambda: not living(pids))
    finally:
        with suppress(ProcessLookupError):  # the forked child, which is no member
            os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()


WATCHER = """
    import sys
    from simulations import watchdog

    watchdog.end_family = lambda token, sessions: print(token, sorted(sessions))
    watchdog.watch("the-token", int(sys.argv[1]))
"""


def test_the_watchdog_hears_all_that_was_said_before_its_parent_died():
    """On a busy machine it starts late, and finds several lines and a pipe that others hold."""
    hears, says = os.pipe()
    try:
        os.write(says, b"11\n12\n13\n")
        words = [sys.executable, "-c", textwrap.dedent(WATCHER), "-1"]
        done = subprocess.run(words, cwd=ROOT, stdin=hears, stdout=subprocess.PIPE, text=True)
    finally:
        os.close(hears)
        os.close(says)
    assert done.stdout == "the-token [11, 12, 13]\n"


def test_output_goes_to_the_log_and_its_end_into_messages(tmp_path, group):
    processes = group(tmp_path)
    lines = "; ".join(f"echo line-{i}" for i in range(40))
    processes.start("talker", Command(("sh", "-c", f"{lines}; exit 3")))
    wait_until(lambda: processes.ended("talker") is not None)
    assert processes.ended("talker") == 3
    tail = processes.tail("talker")
    assert "line-39" in tail and "line-1\n" not in tail and str(tmp_path) in tail


def test_run_returns_output_and_knows_a_deadline(tmp_path, group):
    processes = group(tmp_path)
    done = processes.run(
        Command(("sh", "-c", "echo $ANSWER"), {"ANSWER": "42"}), seconds=PATIENCE_S
    )
    assert done.stdout == "42\n"
    with pytest.raises(EngineError, match="did not answer within"):
        processes.run(Command(("sleep", "60")), seconds=0.2)
    with pytest.raises(EngineError, match=r"no-such-program was not found.*pip install"):
        processes.run(Command(("no-such-program",)), seconds=PATIENCE_S)


def test_a_program_that_is_missing_leaves_nothing(tmp_path, group):
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


def test_a_signal_that_comes_while_a_family_ends_is_delivered_afterwards(
    tmp_path, group, monkeypatch
):
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


def test_reserved_ports_are_free_and_nobody_elses():
    with reserved_ports(100) as ports, reserved_ports(100) as others:
        assert len({*ports, *others}) == 200
        for port in ports[:5]:
            check_port(port)
        taken = pytest.raises(EngineError, match=f"port {ports[0]} is in use")
        with socket.create_server(("127.0.0.1", ports[0])), taken:
            check_port(ports[0])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems let go of the ports")
def test_a_program_that_asks_for_any_port_is_given_none_that_is_reserved():
    with reserved_ports(400) as ports, ExitStack() as stack:
        found = set()
        for _ in range(400):
            other = stack.enter_context(socket.socket())
            other.bind(("127.0.0.1", 0))
            found.add(other.getsockname()[1])
    assert not found & set(ports)


def test_commands_print_as_one_would_type_them():
    command = Command(("a b", "--x"), {"B": "1 2", "A": "x"}, first_on_path=Path("/p q"))
    assert command.shell() == "A=x B='1 2' PATH='/p q':$PATH 'a b' --x"
    merged = command.environment({"PATH": "/bin", "NO_PROXY": "host"})
    assert merged["PATH"].split(":")[0] == "/p q" and merged["PATH"].endswith(":/bin")
    assert merged["NO_PROXY"] == "127.0.0.1,localhost,host"
