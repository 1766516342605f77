"""Fault points in real processes: off by default, and each planned fault happens exactly once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cardionets_core import faults

WALK = """
import sys
from cardionets_core.faults import fault_place, fault_point
for number in (1, 2):
    fault_place(stage="ecg_masked", number=number, site=sys.argv[1])
    for name in ("received", "trained"):
        fault_point(name)
        print(name, number, flush=True)
"""
WHOLE = "received 1\ntrained 1\nreceived 2\ntrained 2\n"
PATIENCE_S = 300.0


@pytest.fixture
def walk() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start processes that pass the points; whatever still runs at the end is killed."""
    started = []

    def begin(folder: Path | None, site: str = "north") -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if k != faults.FAULTS_ENV}
        if folder is not None:
            environment[faults.FAULTS_ENV] = str(folder)
        words = [sys.executable, "-c", WALK, site]
        process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def waited(path: Path) -> Path:
    deadline = time.monotonic() + PATIENCE_S
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"no {path.name}: {os.listdir(path.parent)}"
        time.sleep(0.02)
    return path


def test_a_point_is_empty_without_the_variable_and_without_a_plan(walk, tmp_path):
    (tmp_path / "received.kill").touch()
    off = walk(None)
    assert off.communicate()[0] == WHOLE and off.returncode == 0
    (tmp_path / "received.kill").unlink()
    (tmp_path / "received@ecg_masked-3.kill").touch()  # of a round that never comes
    (tmp_path / "received@ecg_masked-1@south.kill").touch()  # of another site
    idle = walk(tmp_path)
    assert idle.communicate()[0] == WHOLE and idle.returncode == 0
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("plan", "printed"),
    [
        ("trained", "received 1\n"),
        ("received@ecg_masked-2", "received 1\ntrained 1\n"),
        ("trained@ecg_masked-2@north", "received 1\ntrained 1\nreceived 2\n"),
    ],
)
def test_a_kill_happens_once_at_its_place_however_often_it_is_passed(walk, tmp_path, plan, printed):
    (tmp_path / f"{plan}.kill").touch()
    begun = time.time()
    first = walk(tmp_path)
    assert first.communicate()[0] == printed and first.returncode == -signal.SIGKILL
    done = tmp_path / f"{plan}.kill.done"
    pid, when = done.read_text().split()
    # It is written to a thousandth of a second.
    assert int(pid) == first.pid and begun - 0.001 <= float(when) <= time.time() + 0.001
    second = walk(tmp_path)
    assert second.communicate()[0] == WHOLE and second.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == [done.name]


def test_of_several_processes_one_takes_the_fault(walk, tmp_path):
    (tmp_path / "received@ecg_masked-2.kill").touch()
    walkers = [walk(tmp_path, site) for site in ("north", "river", "hill")]
    for walker in walkers:
        walker.communicate()
    assert sorted(w.returncode for w in walkers) == [-signal.SIGKILL, 0, 0]


def test_a_held_process_goes_on_when_the_harness_lets_it(walk, tmp_path):
    (tmp_path / "trained@ecg_masked-1@north.hold").touch()
    walker = walk(tmp_path)
    reached = waited(tmp_path / "trained@ecg_masked-1@north.hold.reached")
    assert int(reached.read_text().split()[0]) == walker.pid
    assert walker.stdout.readline() == "received 1\n" and walker.poll() is None
    reached.unlink()
    assert walker.communicate()[0] == WHOLE.partition("\n")[2] and walker.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_the_points_trace_where_the_time_goes(walk, tmp_path, monkeypatch):
    monkeypatch.setenv(faults.TRACE_ENV, str(tmp_path / "trace.jsonl"))
    begun = time.time()
    printed, _ = walk(None).communicate()
    assert printed == WHOLE
    lines = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    assert [(e["point"], e["round"], e["site"]) for e in lines] == [
        ("received", "ecg_masked-1", "north"),
        ("trained", "ecg_masked-1", "north"),
        ("received", "ecg_masked-2", "north"),
        ("trained", "ecg_masked-2", "north"),
    ]
    times = [e["time"] for e in lines]
    assert begun <= times[0] and times == sorted(times) and times[-1] <= time.time()
