"""Federations whose updates are hidden: the model of the open run, whoever drops out."""

from __future__ import annotations

import json

import numpy as np
import pytest

import client.client_app
import server.training
from cardionets_core.checkpoint import read_info, read_tensors
from cardionets_core.messages import refusal, task_from_records, update_from_records
from cardionets_core.secure_config import SECURE
from tests.narrow_hospital import NARROW_RUN, narrowed
from tests.private_site import PRIVATE_RUN, make_private

PLAN = (*NARROW_RUN, "stages=[handshake,ecg_masked]", "screening.norm_factor=0")
HIDDEN = (
    "secure_aggregation.enabled=true",
    "secure_aggregation.threshold=2",
    "secure_aggregation.clip=1.0",
    "stage.ecg_masked.min_sites=2",
)
STEP = 3 * 1.0 / (2**31 - 1)
"""Of the quantiser for three sites and a clip of 1; the mean is off by 1.5 steps at most."""


class Stopped(BaseException):
    """Ends the server in the middle of a run, like a signal would."""


def run_of(federate, folder, sites, *words, absent="", stop=False):
    """Run a federation; return its folder and what the sites answered in training.

    Args:
        absent: a site that does not answer when masked residues are asked for.
        stop: the server ends when the first sum is opened and not saved.
    """
    answers = []
    answer, save = client.client_app.answer, server.training.save_state

    def overheard(content):
        header = task_from_records(content).header
        secure = header.secure
        reply = answer(content)
        if absent and secure and secure.phase == "train" and site_of(reply) == absent:
            return refusal("internal")
        if header.action == "train" and "refusal" not in reply:
            answers.append(update_from_records(reply))
        return reply

    def stopped(state, *args):
        if stop and state.round:
            raise Stopped
        return save(state, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client.client_app, "answer", overheard)
        patch.setattr(server.training, "save_state", stopped)
        if stop:
            with pytest.raises(Stopped):
                federate(folder, sites, *words)
        else:
            federate(folder, sites, *words)
    return folder, answers


def site_of(reply):
    return "" if "refusal" in reply else update_from_records(reply).site


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def weights_of(folder):
    return read_tensors(folder / "checkpoint", read_info(folder / "checkpoint"))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("secure")


@pytest.fixture(scope="module")
def hidden(federate, ecg_hospitals, nano, outputs):
    """Three sites, of which one drops out after the others have reckoned with its masks."""
    return run_of(federate, outputs / "hidden", ecg_hospitals, *nano, *PLAN, *HIDDEN, absent="hill")


@pytest.fixture(scope="module")
def opened(federate, ecg_hospitals, nano, outputs):
    """The same without masks and without the site that dropped out."""
    sites = {name: ecg_hospitals[name] for name in ("north", "river")}
    return run_of(federate, outputs / "open", sites, *nano, *PLAN)


def test_the_model_is_that_of_the_open_run_to_the_quantiser(hidden, opened):
    ours, theirs = weights_of(hidden[0]), weights_of(opened[0])
    assert ours.keys() == theirs.keys()
    moved = 0.0
    for name, values in theirs.items():
        # The mean is off by 1.5 steps and the new weight is rounded to float32, in both runs.
        bound = 1.5 * STEP + np.spacing(np.abs(values).max(initial=0).astype(np.float32))
        assert np.abs(ours[name].astype(np.float64) - values).max(initial=0) <= bound, name
        moved = max(moved, float(np.abs(ours[name] - values).max(initial=0)))
    assert moved < 1e-6


def test_the_record_says_who_was_in_the_sum_and_nothing_of_one_site(hidden):
    (record,) = [r for r in summary(hidden[0])["rounds"] if r["stage"] == "ecg_masked"]
    assert record["accepted"] == ["north", "river"] and record["refused"] == {"hill": "internal"}
    assert record["secure_aggregation"] == {
        "threshold": 2,
        "roster": ["hill", "north", "river"],
        "dropped": {"train": ["hill"]},
    }
    assert "screening" not in record and record["metrics"] == {}
    assert record["site_metrics"] == {"north": {}, "river": {}}


def test_no_update_crossed_the_wall_by_itself(hidden, opened):
    assert len(hidden[1]) == 3 + 3 + 2 + 2 and len(opened[1]) == 2
    for update in hidden[1]:
        assert set(update.delta) == {SECURE} and not update.metrics and not update.sums
    assert all("ecg_encoder" in update.delta for update in opened[1])


def test_a_site_sends_hardly_more_than_in_the_open(hidden, opened):
    ours, theirs = (
        next(r for r in summary(run[0])["rounds"] if r["stage"] == "ecg_masked")["bytes_up"]
        for run in (hidden, opened)
    )
    for site in ("north", "river"):
        assert ours[site] <= 1.5 * theirs[site]


@pytest.mark.slow
def test_a_server_that_stops_before_it_saved_ends_with_the_same_model(
    federate, ecg_hospitals, nano, outputs, hidden
):
    folder = outputs / "stopped"
    run_of(federate, folder, ecg_hospitals, *nano, *PLAN, *HIDDEN, absent="hill", stop=True)
    _, again = run_of(federate, folder, ecg_hospitals, *nano, *PLAN, *HIDDEN)  # hill is back
    assert {u.site for u in again} == {"north", "river"}  # and left out: one sum was opened
    ours, theirs = weights_of(folder), weights_of(hidden[0])
    for name, values in theirs.items():
        # Two sites are now two, and not three of which one was gone: a finer step.
        assert np.abs(ours[name].astype(np.float64) - values).max(initial=0) < 1e-6, name


@pytest.mark.slow
def test_it_goes_with_differential_privacy(federate, write_hospital, nano, outputs, tmp_path):
    sites = {}
    for name, preset in (("east", "A"), ("south", "B"), ("west", "C")):
        site = narrowed(write_hospital(tmp_path, name, preset, patients=30))
        sites[name] = make_private(site, secure_sites=2)
    words = (*nano, *PLAN, *HIDDEN, *PRIVATE_RUN, "stage.ecg_masked.max_steps=2")
    folder, answers = run_of(federate, outputs / "both", sites, *words, "privacy.noise=5.0")
    (record,) = [r for r in summary(folder)["rounds"] if r["stage"] == "ecg_masked"]
    assert record["accepted"] == ["east", "south", "west"]
    assert set(record["privacy"]) == set(sites)
    assert all(set(update.delta) == {SECURE} for update in answers)
