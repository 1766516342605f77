"""However a run ends, its folder says so in the same word everywhere; an interruption is no end."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import httpx
import pytest

import server.server_app
from cardionets_core.config_tree import digest
from cardionets_core.errors import CheckpointError, EngineError, IncompleteError, RunError
from cardionets_core.run_config import CONF, compose, run_config_from
from server.following import follow
from server.launch import REPORT_ENV, REPORT_LATER
from server.participation import require_participation
from server.progress import Progress, read_progress
from server.server_app import alone, load_config, main, write_config
from server.status import Queue, words
from server.status_file import read_status


@pytest.fixture
def ended(tmp_path, monkeypatch, plan):
    """Return (error or None) -> the run's folder after a server met that error in its rounds."""
    folder = tmp_path / "trial"
    write_config(folder, plan)
    monkeypatch.setenv("CARDIONETS_OUTPUTS", str(tmp_path))
    monkeypatch.setattr(Progress, "tracking", lambda self, config: nullcontext())

    def end(error):
        def execute(run, state):
            run.waiting(["north"])
            if error is not None:
                raise error
            return replace(state, sites={})

        monkeypatch.setattr(server.server_app, "execute", execute)
        submitted = {"run": "trial", "config-hash": digest(load_config(folder))}
        context = SimpleNamespace(run_config=submitted, run_id=7)
        with pytest.raises(type(error)) if error is not None else nullcontext():
            main(None, context)
        return folder

    return end


@pytest.fixture(scope="module")
def plan():
    return run_config_from(
        compose("run", ["name=trial", "model=tiny", "min_sites=2"], package=CONF)
    )


@pytest.mark.parametrize(
    ("error", "truth"),
    [
        (IncompleteError("north was away", ["north"]), "INCOMPLETE(north)"),
        (RunError("every update was refused"), "FAILED(run)"),
        (CheckpointError("torn"), "FAILED(checkpoint)"),
        (ZeroDivisionError("/data/patient-17"), "FAILED(internal)"),
    ],
)
def test_an_end_is_told_everywhere_with_one_word(ended, error, truth):
    folder = ended(error)
    assert words(read_status(folder)) == truth
    summary = json.loads((folder / "summary.json").read_text())
    state = truth.partition("(")[0]
    assert summary["status"] == state and summary["weights_sha256"] is None
    assert summary["missing"] == (["north"] if state == "INCOMPLETE" else [])
    assert summary["code"] == ("" if state == "INCOMPLETE" else read_status(folder).code)
    last = read_progress(folder)[-1]
    assert last["state"] == state and last["event"] == state.lower()
    for name in ("summary.json", "status.json", "progress.jsonl"):
        assert "patient-17" not in (folder / name).read_text()
    assert not (folder / "model_card.md").exists()


def test_a_report_that_cannot_be_drawn_changes_nothing_of_the_run(ended, caplog, plan):
    """This run has no checkpoint to draw from."""
    folder = ended(None)
    assert read_status(folder).state == "COMPLETED"
    assert json.loads((folder / "summary.json").read_text())["status"] == "COMPLETED"
    assert not (folder / "report.html").exists()
    assert f"cardionets-coordinator report {folder}" in caplog.text
    assert "CheckpointError" in caplog.text  # the cause
    said = []
    follow(folder, 0, queue=Queue, say=said.append)
    assert f"cardionets-coordinator report {folder}" in said[-1]


def test_a_simulator_draws_the_report_itself(ended, caplog, monkeypatch):
    monkeypatch.setenv(REPORT_ENV, REPORT_LATER)
    folder = ended(None)
    assert read_status(folder).state == "COMPLETED" and "report" not in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(0), httpx.ReadTimeout("x")])
def test_an_interruption_is_no_end(ended, error):
    """Ctrl-C, the end that Flower asks for, and that Flower gave up its run."""
    folder = ended(error)
    status = read_status(folder)
    assert status.state == "WAITING" and status.interrupted
    assert read_progress(folder)[-1]["event"] == "interrupted"
    assert not (folder / "summary.json").exists()


def test_a_plan_that_was_changed_fails_with_its_reason(ended, tmp_path):
    context = SimpleNamespace(run_config={"run": "trial", "config-hash": "other"}, run_id=7)
    with pytest.raises(CheckpointError):
        main(None, context)
    status = read_status(tmp_path / "trial")
    assert words(status) == "FAILED(checkpoint)" and "was changed" in status.reason


def test_two_servers_never_work_on_one_run(tmp_path, monkeypatch):
    monkeypatch.setattr(server.server_app, "ALONE_S", 0.1)
    with alone(tmp_path):
        with pytest.raises(EngineError, match="another server works on the run"), alone(tmp_path):
            pass
    with alone(tmp_path):
        pass


def record(stage, accepted):
    return {"stage": stage, "round": 1, "accepted": accepted}


@pytest.mark.parametrize(
    ("history", "missing"),
    [
        ([record("handshake", ["a", "b"]), record("evaluate", ["a", "b"])], None),
        ([record("handshake", ["a", "b", "c"]), record("evaluate", ["a", "c"])], None),
        ([record("handshake", ["a", "b"]), record("evaluate", ["b"])], ("a",)),
        ([record("tokenizer", ["a"])], None),  # a stage of its own minimum, 1
        ([record("tokenizer", [])], ("a", "b")),
        ([record("tokenizer", ["a"]) | {"sites_needed": 2}], ("b",)),
    ],
)
def test_a_round_below_the_plan_makes_a_run_incomplete(plan, history, missing):
    plan = replace(
        plan, stage={**plan.stage, "tokenizer": replace(plan.stage["tokenizer"], min_sites=1)}
    )
    if missing is None:
        require_participation(plan, history, ["a", "b"])
        return
    with pytest.raises(IncompleteError) as caught:
        require_participation(plan, history, ["a", "b"])
    assert caught.value.sites == missing
