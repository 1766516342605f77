"""A stopped run goes on from its last finished round and ends with the same weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import server.training
from cardionets_core.checkpoint import read_info
from cardionets_core.errors import CheckpointError
from server.progress import Progress, read_progress
from server.tracking import embedded_uri


class Stopped(BaseException):
    """Ends the server in the middle of a run, like a signal would."""


PLAN = (
    # An average of the weights is state of its own, so the resumed stage keeps one.
    "stages=[handshake,ecg_masked,contrastive,evaluate]",
    "stage.ecg_masked.rounds=2",
    "stage.contrastive.rounds=2",
    "stage.contrastive.ema_half_life=50",
    "evaluation.sections=[phenotypes,retrieval]",
)
PLACES = ("ecg_masked 1", "contrastive 1", "evaluate 1")
"""Rounds after which the server is stopped: before their save, so the round is done again."""


@pytest.fixture(scope="module")
def two(hospitals):
    return {name: hospitals[name] for name in ("north", "hill")}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def whole(federate, two, nano, outputs):
    """The same run without a stop; its name is as long, because names travel and count as bytes."""
    return federate(outputs / "unbroken", two, *nano, *PLAN)


def stopped_after(place, monkeypatch, federate, folder, sites, plan):
    """Run until a round is through and not yet saved, then stop the server there."""
    report = Progress.round
    here = ""

    def stop(self, record):
        report(self, record)
        if f"{record['stage']} {record['round']}" == place:
            raise Stopped

    def enter(*, stage, number):
        nonlocal here
        here = f"{stage} {number}"

    def stop_training(point):
        if point == "aggregated_not_saved" and here == place:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "round", stop)
        patch.setattr(server.training, "fault_place", enter)
        patch.setattr(server.training, "fault_point", stop_training)
        with pytest.raises(Stopped):
            federate(folder, sites, *plan)
    return folder


def summary_of(folder: Path):
    return json.loads((folder / "summary.json").read_text())


def without_times(history):
    times = ("seconds", "seconds_by_site", "deadline_s")
    return [{k: v for k, v in record.items() if k not in times} for record in history]


@pytest.fixture(scope="module")
def resumed(federate, two, nano, outputs):
    """One run that is stopped at every place of PLACES in turn, then finished."""
    folder = outputs / "restarts"
    for place in PLACES:
        with pytest.MonkeyPatch.context() as patch:
            stopped_after(place, patch, federate, folder, two, (*nano, *PLAN))
        assert not (folder / "summary.json").exists()
        assert read_progress(folder)[-1]["event"] == "interrupted"
    return federate(folder, two)


def test_the_weights_are_those_of_the_run_without_a_stop(whole, resumed):
    assert summary_of(resumed)["weights_sha256"] == summary_of(whole)["weights_sha256"]


def test_metrics_and_history_are_those_of_the_run_without_a_stop(whole, resumed):
    ours, theirs = summary_of(resumed), summary_of(whole)
    assert ours["metrics"] == theirs["metrics"] and ours["metrics"]
    ours, theirs = without_times(ours["rounds"]), without_times(theirs["rounds"])
    # Frozen parts are sent again after a restart; everything else of a round is the same.
    for record in (*ours, *theirs):
        record.pop("bytes_down")
    assert ours == theirs


def test_finished_rounds_are_not_done_again(resumed):
    rounds = [e for e in read_progress(resumed) if e["event"] == "round"]
    done = [f"{e['stage']} {e['round']}" for e in rounds]
    assert done.count("handshake 1") == len(PLACES) + 1
    again = {place for place in done if done.count(place) > 1} - {"handshake 1"}
    assert again == {"evaluate 1"}  # a training round is told only once it is saved


def test_mlflow_goes_on_with_the_same_run_and_the_same_steps(whole, resumed):
    mlflow = pytest.importorskip("mlflow")
    curves = []
    for folder in (whole, resumed):
        client = mlflow.MlflowClient(embedded_uri(folder))
        (experiment,) = client.search_experiments(filter_string="name = 'cardionets'")
        named = f"attributes.run_name = '{folder.name}'"
        (run,) = client.search_runs([experiment.experiment_id], named)
        assert run.info.status == "FINISHED"
        keys = [k for k in run.data.metrics if k.endswith("train_loss")]
        curves.append(
            {
                k: {(m.step, m.value) for m in client.get_metric_history(run.info.run_id, k)}
                for k in keys
            }
        )
    assert curves[0] == curves[1] and "contrastive/train_loss" in curves[0]


@pytest.fixture
def half(whole, tmp_path):
    """A copy of a run that lacks its end."""
    folder = tmp_path / "half"
    shutil.copytree(whole, folder)
    (folder / "summary.json").unlink()
    (folder / "mlflow_run_id").unlink()
    return folder


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def unlink(path):
    path.unlink()


def weights_of(folder):
    return json.loads((folder / "summary.json").read_text())["weights_sha256"]


@pytest.mark.parametrize(
    ("what", "damage", "words"),
    [
        ("weights", flip, "is torn or changed"),
        ("weights", unlink, "is missing"),
        ("checkpoint.json", flip, "is not a checkpoint"),
        ("checkpoint.json", unlink, "holds no checkpoint.json"),
        ("previous.json", flip, ""),
    ],
)
def test_a_torn_generation_is_told_and_the_one_before_leads_to_the_same_weights(
    half, whole, federate, two, what, damage, words
):
    info = json.loads((half / "checkpoint" / "checkpoint.json").read_text())
    damage(half / "checkpoint" / (info["weights"] if what == "weights" else what))
    federate(half, two)
    assert weights_of(half) == weights_of(whole)
    notes = read_info(half / "checkpoint").state["notes"]
    assert [words in note for note in notes] == [True] * bool(words)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}'], ids=["torn", "list", "no model"])
def test_two_torn_generations_are_refused_by_name(half, federate, two, text):
    for name in ("checkpoint.json", "previous.json"):
        (half / "checkpoint" / name).write_text(text)
    with pytest.raises(CheckpointError, match=r"checkpoint\.json is not a checkpoint"):
        federate(half, two)
    summary = json.loads((half / "summary.json").read_text())
    assert summary["status"] == "FAILED" and summary["metrics"] == {}
    assert "is not a checkpoint" in read_progress(half)[-1]["reason"]


def test_an_edited_plan_is_refused(half, federate, two):
    """Also when the edited plan is submitted under its own new hash, as a resume does."""
    path = half / "config.json"
    values = json.loads(path.read_text())
    values["stage"]["contrastive"]["lr"] *= 2
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="belongs to another configuration"):
        federate(half, two)


def test_the_round_before_is_in_force_when_the_newest_checkpoint_was_not_finished(
    whole, half, federate, two
):
    """A crash between writing the weights and the JSON leaves an orphan file and no harm."""
    (half / "checkpoint" / "weights-999999.safetensors").write_bytes(b"half a file")
    federate(half, two)
    assert summary_of(half)["weights_sha256"] == summary_of(whole)["weights_sha256"]
