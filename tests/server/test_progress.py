"""The progress file of a run: what a crash has torn costs one line, and no reader falls over it."""

from __future__ import annotations

import random

import pytest

from cardionets_core.run_config import CONF, compose, run_config_from
from server import tracking
from server.progress import FILE_NAME, Progress, read_progress
from server.status_file import Status, read_status


def rounds(folder):
    return [e["round"] for e in read_progress(folder) if e["event"] == "round"]


def told(folder, *numbers):
    progress = Progress(folder)
    for number in numbers:
        progress.round({"stage": "ecg_masked", "round": number, "rounds": 5})


def test_a_line_that_a_crash_has_torn_does_not_swallow_the_next_one(tmp_path):
    told(tmp_path, 1, 2)
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes()[:-9])
    assert rounds(tmp_path) == [1]
    told(tmp_path, 2, 3)
    assert rounds(tmp_path) == [1, 2, 3]


def test_no_flipped_bit_stops_a_reader(tmp_path):
    told(tmp_path, *range(1, 6))
    path, draw = tmp_path / FILE_NAME, random.Random(3)
    whole = path.read_bytes()
    for _ in range(200):
        raw = bytearray(whole)
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(raw))
        assert len(rounds(tmp_path)) >= 3  # a break of line that is gone costs two


@pytest.fixture
def slow(monkeypatch, tmp_path):
    """What the status and the last word were while MLflow was waited for, which never comes."""
    seen = []

    class Slow:
        def __init__(self, folder, *, behind, **more):
            self.behind = behind

        def close(self, *seconds):
            seen.append((read_status(tmp_path), read_progress(tmp_path)[-1]["event"]))
            return False

        def ignore(self, *entry):
            pass

        params = metrics = artifact = state = ignore

    monkeypatch.setattr(tracking, "Tracker", Slow)
    return seen


def test_a_run_has_ended_for_everybody_before_mlflow_is_waited_for(slow, tmp_path):
    """A server that is killed while it waits for MLflow must not be started again."""
    plan = run_config_from(compose("run", ["name=trial", "model=tiny"], package=CONF))
    progress = Progress(tmp_path)
    with progress.tracking(plan):
        progress.end(Status("INCOMPLETE", sites=("hill",), reason="hill was away"))
        behind = progress._tracker.behind
    status, event = slow[0]
    assert status.state == "INCOMPLETE" and status.sites == ("hill",) and event == "incomplete"
    assert status.tracking == ""
    after = read_status(tmp_path)
    assert after.state == "INCOMPLETE" and "MLflow" in after.tracking
    behind("late words")  # another server may have the run by now
    assert read_status(tmp_path) == after
