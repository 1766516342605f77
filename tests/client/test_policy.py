"""The hospital's veto."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cardionets_core import __version__
from cardionets_core.errors import SiteError
from cardionets_core.messages import TrainPlan
from cardionets_core.site_config import SitePolicy
from client.policy import admit, outgoing, require_patients
from tests.task_header import task_header

PLAN = TrainPlan(
    local_epochs=4,
    batch_size=8,
    lr=1e-3,
    weight_decay=0.0,
    clip_norm=0.0,
    max_steps=0,
    progress=0.0,
)
HEADER = task_header(stage="contrastive", min_patients=5, train=PLAN)


def code_of(act):
    with pytest.raises(SiteError) as caught:
        act()
    return caught.value.code


MASKED = replace(HEADER, stage="masked")
ECG, CMR = ("ecg_encoder", "ecg_decoder"), ("cmr_encoder", "cmr_decoder")


@pytest.mark.parametrize(
    ("listed", "trains", "allowed"),
    [
        (("masked",), (*ECG, *CMR), True),
        (("ecg_masked",), ECG, True),  # an ECG-only site: its only member is listed
        (("ecg_masked", "cmr_masked"), (*ECG, *CMR), True),
        (("ecg_masked",), (*ECG, *CMR), False),
        (("cmr_masked",), ECG, False),
        (("ecg_masked",), (), False),
        (("ecg_masked",), ("ecg_encoder",), False),  # half of a member is none
        (("contrastive",), ECG, False),
        ((), (*ECG, *CMR), True),
    ],
)
def test_a_stage_of_several_is_allowed_by_its_name_or_by_all_that_is_trained(
    listed, trains, allowed
):
    header = replace(MASKED, trains=trains)
    if allowed:
        admit(SitePolicy(stages=listed), header)
    else:
        assert code_of(lambda: admit(SitePolicy(stages=listed), header)) == "refused_stage"


def test_what_the_policy_allows_is_let_in():
    admit(SitePolicy(), HEADER)
    admit(SitePolicy(stages=("contrastive",), max_local_epochs=4), HEADER)


def test_another_version_is_refused_before_all_else():
    header = replace(HEADER, version="0.0.1", stage="nonsense")
    assert code_of(lambda: admit(SitePolicy(stages=("evaluate",)), header)) == "refused_version"
    assert HEADER.version == __version__


def test_a_stage_that_is_not_in_the_policy_is_refused():
    policy = SitePolicy(stages=("handshake", "evaluate"))
    assert code_of(lambda: admit(policy, HEADER)) == "refused_stage"
    admit(policy, replace(HEADER, stage="evaluate", action="fit", train=None))


def test_too_many_local_epochs_are_refused():
    assert code_of(lambda: admit(SitePolicy(max_local_epochs=3), HEADER)) == "refused_task"


@pytest.mark.parametrize(
    ("own", "asked", "patients", "allowed"),
    [
        (20, 5, 20, True),
        (20, 5, 19, False),
        (5, 20, 19, False),
        (5, 20, 20, True),
        (0, 0, 0, False),
        (0, 0, 1, True),
    ],
)
def test_the_larger_floor_counts(own, asked, patients, allowed):
    policy, header = SitePolicy(min_patients=own), replace(HEADER, min_patients=asked)
    if allowed:
        require_patients(policy, header, patients)
    else:
        assert code_of(lambda: require_patients(policy, header, patients)) == "refused_cohort"


def test_only_metrics_with_a_known_prefix_leave():
    metrics = {
        "validation_loss": 0.5,
        "train_loss": 0.25,
        "patient_4711_loss": 9.0,
        "age_of_oldest": 103.0,
    }
    assert outgoing(metrics) == {"train_loss": 0.25, "validation_loss": 0.5}
    assert list(outgoing(metrics)) == ["train_loss", "validation_loss"]


def test_a_metric_that_is_not_finite_stays():
    """The server refuses an update that holds one, and the update is worth more than its curve."""
    metrics = {"train_loss": 0.5, "validation_loss": float("inf"), "train_nan": float("nan")}
    assert outgoing(metrics) == {"train_loss": 0.5}
