"""How a run stands, for every combination of what was written and what lives."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from cardionets_core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    EngineError,
    IncompleteError,
    RunError,
    WireError,
)
from cardionets_core.supervision import process_start
from server import status_file
from server.status import FAILURES, NOBODY, Queue, failure, judge, standing, words
from server.status_file import (
    FILE_NAME,
    STATES,
    SUBMISSION,
    Status,
    StatusFile,
    Submission,
    give_up,
    read_status,
    read_submission,
    write_json,
    write_submission,
)

OURS, EARLIER = 7, 6  # Flower's numbers of the run that was submitted last, and of one before
RESUMES, STARTS_ONLY = Queue(alive=True, resumes=True), Queue(alive=True)
WRITTEN = ("nothing", "RUNNING", "WAITING", "interrupted", "COMPLETED", "INCOMPLETE", "FAILED")


def written(word, flower_run):
    """Return the status that a server left: a state, or that it was interrupted."""
    if word == "nothing":
        return None
    state = "RUNNING" if word == "interrupted" else word
    sites = ("north",) if word in ("WAITING", "INCOMPLETE") else ()
    code = "config" if word == "FAILED" else ""
    return Status(
        state, sites, code, flower_run=flower_run, interrupted=word == "interrupted", stage="x"
    )


def expected(word, *, submitted, stop, serving, queue):
    """Return the truth in words, by the rules of docs/operations.md and not by the code.

    A living server is believed. A last word is believed, unless the run was handed over again to
    somebody who will start it. Everything else has no server: it waits for one, or has failed.
    """
    final = word in ("COMPLETED", "INCOMPLETE", "FAILED")
    handed_over = submitted == "again" or (submitted == "once" and word == "nothing")
    will_start = queue.alive if handed_over else queue.resumes
    last_word = {"COMPLETED": "COMPLETED", "INCOMPLETE": "INCOMPLETE(north)"}
    last_word["FAILED"] = "FAILED(config)"
    if final and not (handed_over and will_start):
        return last_word[word]
    if serving and word == "RUNNING":
        return "RUNNING"
    if serving and word == "WAITING":
        return "WAITING(north)"
    if stop:
        return "FAILED(stopped)"
    return "QUEUED" if will_start else "FAILED(server_gone)"


COMBINATIONS = [
    (word, submitted, stop, serving, queue)
    for word, submitted, stop, serving, queue in itertools.product(
        WRITTEN,
        ("never", "once", "again"),
        (False, True),
        (False, True),
        (NOBODY, STARTS_ONLY, RESUMES),
    )
    if not (stop and submitted == "never") and not (serving and word == "nothing")
]


def test_every_combination_has_one_true_state():
    assert len(COMBINATIONS) == 195
    for word, submitted, stop, serving, queue in COMBINATIONS:
        number = EARLIER if submitted == "again" else OURS
        submission = None if submitted == "never" else Submission(OURS, time=1.0, stop=stop)
        found = judge(written(word, number), submission, serving=serving, queue=queue)
        truth = expected(word, submitted=submitted, stop=stop, serving=serving, queue=queue)
        assert words(found) == truth, (word, submitted, stop, serving, queue)


def test_a_run_without_a_process_is_never_shown_as_running():
    for word, submitted, stop, _, queue in COMBINATIONS:
        number = EARLIER if submitted == "again" else OURS
        submission = None if submitted == "never" else Submission(OURS, time=1.0, stop=stop)
        found = judge(written(word, number), submission, serving=False, queue=queue)
        assert found.state not in ("RUNNING", "WAITING")


def test_the_number_of_another_process_is_not_ours(tmp_path):
    """A process id is given again: only together with its start does it name a process."""
    write_json(tmp_path / FILE_NAME, vars(Status("RUNNING", pid=41, started=1000.0)))
    for table, state in (
        ({41: 1000.0}, "RUNNING"),
        ({41: 1001.5}, "RUNNING"),  # the same, read while the clock was set
        ({41: 5000.0}, "FAILED"),
        ({}, "FAILED"),
    ):
        assert standing(tmp_path, 0.0, table.get).state == state


def test_whoever_waits_for_a_run_starts_it(tmp_path):
    write_submission(tmp_path, Submission(OURS, time=1.0, pid=41, started=1000.0))
    assert standing(tmp_path, 0.0, {41: 1000.0}.get).state == "QUEUED"
    assert words(standing(tmp_path, 0.0, {}.get)) == "FAILED(server_gone)"


def test_real_processes_count_from_their_start_to_their_end(tmp_path):
    began = time.time()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        started = process_start(child.pid)
        assert started is not None and began - 60 < started < time.time() + 60
        status = Status("RUNNING", pid=child.pid, started=started)
        write_json(tmp_path / FILE_NAME, vars(status))
        assert standing(tmp_path, time.time()).state == "RUNNING"
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and still a zombie
        assert process_start(child.pid) is None
        assert standing(tmp_path, time.time()).state == "FAILED"
    assert process_start(child.pid) is None


def test_the_status_file_follows_its_server_and_closes_with_its_last_word(tmp_path):
    file = StatusFile(tmp_path, OURS)
    assert standing(tmp_path, time.time()).state == "RUNNING"
    file.write(state="WAITING", sites=("hill", "north"), stage="contrastive", round=3, rounds=9)
    found = standing(tmp_path, time.time())
    assert words(found) == "WAITING(hill, north)"
    assert (found.stage, found.round, found.rounds) == ("contrastive", 3, 9)
    file.end(Status("INCOMPLETE", sites=("hill",), reason="hill was away"))
    file.write(state="RUNNING")  # a late thread must not take the last word back
    file.write(tracking="MLflow is away")
    assert read_status(tmp_path).reason == "hill was away"
    assert read_status(tmp_path).tracking == "MLflow is away"
    assert words(standing(tmp_path, time.time())) == "INCOMPLETE(hill)"


def test_a_server_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(status_file, "HEARTBEAT_S", 0.01)
    file = StatusFile(tmp_path, OURS)
    path = tmp_path / FILE_NAME
    os.utime(path, (1.0, 1.0))
    while path.stat().st_mtime == 1.0:
        time.sleep(0.005)
    file.close()
    os.utime(path, (1.0, 1.0))
    found = standing(tmp_path, 31.0)
    assert found.state == "RUNNING" and found.silent_s == 30.0


@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "list", "gone"])
@pytest.mark.parametrize("name", [FILE_NAME, SUBMISSION])
def test_a_damaged_file_is_not_believed(tmp_path, name, harm):
    write_json(tmp_path / FILE_NAME, vars(Status("COMPLETED", flower_run=OURS)))
    write_submission(tmp_path, Submission(OURS, time=1.0))
    path = tmp_path / name
    text = path.read_text()
    damaged = {
        "cut": text[: len(text) // 2],
        "flip": text.replace(str(OURS), str(OURS + 1), 1),
        "empty": "",
        "list": "[]",
    }
    path.write_text(damaged.get(harm, ""))
    if harm == "gone":
        path.unlink()
    read = read_status if name == FILE_NAME else read_submission
    assert read(tmp_path) is None


def test_files_are_read_as_they_were_written(tmp_path):
    submission = Submission(OURS, 2.5, 41, 1000.25, restarts=3, rounds_done=8, stop=True)
    write_submission(tmp_path, submission)
    assert read_submission(tmp_path) == submission
    status = Status("WAITING", ("a", "b"), stage="tokenizer", round=2, rounds=5, time=1.5)
    write_json(tmp_path / FILE_NAME, vars(status))
    assert read_status(tmp_path) == status
    assert json.loads((tmp_path / FILE_NAME).read_text())["state"] == "WAITING"


def test_a_status_of_an_earlier_version_is_read(tmp_path):
    values = vars(Status("INCOMPLETE", ("a",), reason="a was away"))
    write_json(tmp_path / FILE_NAME, {k: v for k, v in values.items() if k != "resume_helps"})
    assert read_status(tmp_path) == Status("INCOMPLETE", ("a",), reason="a was away")
    write_json(tmp_path / FILE_NAME, {k: v for k, v in values.items() if k != "state"})
    assert read_status(tmp_path) is None


@pytest.mark.parametrize("helps", [True, False])
def test_whether_to_resume_helps_is_told_from_the_error_to_whoever_asks(tmp_path, helps):
    file = StatusFile(tmp_path, OURS)
    file.end(failure(IncompleteError("x", ["a"], resume_helps=helps)))
    file.close()
    assert standing(tmp_path, 0.0).resume_helps is helps
    StatusFile(tmp_path, OURS + 1).close()  # it was resumed: the next end says it anew
    assert read_status(tmp_path).resume_helps


def test_giving_up_takes_the_place_of_a_server_that_has_gone(tmp_path):
    write_submission(tmp_path, Submission(OURS, time=1.0))
    before = Status("RUNNING", stage="tokenizer", round=2, rounds=5, flower_run=EARLIER)
    write_json(tmp_path / FILE_NAME, vars(before))
    give_up(tmp_path, "crash_loop", "it ended six times")
    after = read_status(tmp_path)
    assert replace(after, time=0.0) == replace(
        before, state="FAILED", code="crash_loop", reason="it ended six times", flower_run=OURS
    )
    assert words(standing(tmp_path, 0.0, queue=RESUMES)) == "FAILED(crash_loop)"


@pytest.mark.parametrize(
    ("error", "truth"),
    [
        (ConfigError("x"), "FAILED(config)"),
        (DataError("x"), "FAILED(data)"),
        (WireError("x"), "FAILED(wire)"),
        (CheckpointError("x"), "FAILED(checkpoint)"),
        (EngineError("x"), "FAILED(engine)"),
        (RunError("x"), "FAILED(run)"),
        (IncompleteError("x", ["north", "hill", "north"]), "INCOMPLETE(hill, north)"),
        (ValueError("/data/patient-17.dat"), "FAILED(internal)"),
    ],
)
def test_errors_have_a_code_and_only_ours_a_text(error, truth):
    found = failure(error)
    assert words(found) == truth and "patient" not in found.reason
    assert found.code in ("", *FAILURES)


def test_a_state_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=STATES[0]):
        Status("DONE")
