"""The hospital's veto over what a coordinator asks of privacy."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import pytest

from cardionets_core.errors import SiteError
from cardionets_core.messages import TrainPlan
from cardionets_core.privacy_config import Modality, PrivateTask, SitePrivacy
from cardionets_core.wire_limits import MODALITIES
from client.policy import admit_private
from tests.task_header import task_header

ASKED = PrivateTask(noise=1.0, rate=0.05, clip=1.0, steps=20)
RELEASE = PrivateTask(noise=10.0, rate=1.0, clip=1.0, steps=1)
OWN = SitePrivacy(required=True, ledger="/srv/ledger.jsonl", patients=5000, min_noise=0.8)
PLAN = TrainPlan(
    local_epochs=1,
    batch_size=8,
    lr=1e-3,
    weight_decay=0.0,
    clip_norm=0.0,
    max_steps=20,
    progress=0.0,
)
TASK = task_header(stage="contrastive", train=PLAN, privacy=ASKED)
FIT = task_header(stage="evaluate", action="fit", privacy=RELEASE)


def refused(own, header):
    with pytest.raises(SiteError) as caught:
        admit_private(own, header)
    return caught.value.code == "privacy_plan"


def test_what_the_hospital_allows_is_let_in():
    admit_private(OWN, TASK)
    admit_private(OWN, FIT)
    admit_private(SitePrivacy(), replace(TASK, privacy=None))
    admit_private(replace(OWN, required=False), replace(TASK, privacy=None))


@pytest.mark.parametrize("header", [TASK, FIT])
def test_a_hospital_that_demands_privacy_answers_no_task_without(header):
    assert refused(OWN, replace(header, privacy=None))
    assert refused(SitePrivacy(required=True), replace(header, privacy=None))


def test_a_hospital_with_a_ledger_demands_privacy_unless_it_says_otherwise():
    assert replace(OWN, required=None).is_required and not SitePrivacy().is_required
    assert refused(replace(OWN, required=None), replace(TASK, privacy=None))


def test_a_hospital_without_a_ledger_takes_no_part():
    assert refused(SitePrivacy(), TASK)


@pytest.mark.parametrize(
    "changes",
    [
        {"noise": 0.79},
        {"noise": 0.0},
        {"noise": -1.0},
        {"noise": math.nan},
        {"noise": math.inf},
        {"rate": 0.51},
        {"rate": 0.0},
        {"rate": math.nan},
        {"clip": 0.0},
        {"clip": 1e-7},
        {"clip": 1e7},
        {"clip": -1.0},
        {"clip": math.nan},
        {"clip": math.inf},
        {"steps": 19},
        {"steps": 21},
        {"steps": 0},
        {"bucket_size": 1},
        {"bucket_size": 65},
        {"bucket_size": 10**9},
        {"contrastive": "public_negatives"},  # and no bank is named
    ],
)
def test_numbers_that_the_hospital_does_not_allow_are_refused(changes):
    assert refused(OWN, replace(TASK, privacy=replace(ASKED, **changes)))


@pytest.mark.parametrize("header", [TASK, FIT])
def test_a_plan_that_hides_nobody_needs_the_hospitals_own_cap(header):
    asked = replace(header, privacy=replace(header.privacy, profile="anti_reconstruction_only"))
    assert refused(OWN, asked) and refused(replace(OWN, epsilon=29.9), asked)
    admit_private(replace(OWN, epsilon=30.0), asked)


def test_a_bank_allows_public_negatives():
    asked = replace(ASKED, contrastive="public_negatives")
    admit_private(replace(OWN, bank="/srv/public"), replace(TASK, privacy=asked))


def test_stages_without_negatives_need_no_bank():
    """A site without pairs can serve the others of a run with public negatives."""
    asked = replace(ASKED, contrastive="public_negatives")
    admit_private(OWN, replace(TASK, stage="ecg_masked", privacy=asked))


@pytest.mark.parametrize(
    "changes", [{"max_steps": 0}, {"control": "start"}, {"control": "keep"}, {"partial": True}]
)
def test_what_is_no_private_training_is_refused(changes):
    assert refused(OWN, replace(TASK, train=replace(PLAN, **changes)))


@pytest.mark.parametrize("changes", [{"rate": 0.5}, {"steps": 2}, {"noise": 0.1}])
def test_a_release_is_over_everybody_and_once(changes):
    assert refused(OWN, replace(FIT, privacy=replace(RELEASE, **changes)))


def test_the_words_of_a_declaration_are_those_of_the_wire():
    assert set(get_args(Modality)) == MODALITIES
