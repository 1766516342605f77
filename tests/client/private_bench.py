"""A private site's tasks: a round of training, the first question of a run, an evaluation."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from cardionets_core.checkpoint import part_arrays
from cardionets_core.errors import PrivacyError, SiteError
from cardionets_core.evaluation.options import EvaluationOptions
from cardionets_core.messages import Task, update_to_records
from cardionets_core.models.cardionet import build_model
from cardionets_core.packing import fingerprint
from cardionets_core.privacy.ledger import Ledger
from cardionets_core.privacy_config import PrivateTask
from client.local_training import serve
from tests.narrow_hospital import DISEASES, PHENOTYPES
from tests.task_header import brief_plan, task_header

TRAINS = ("ecg_encoder", "ecg_decoder")
DECLARED = 100
PRIVATE = PrivateTask(noise=2.0, rate=0.2, clip=1.0, steps=2)
RELEASE = PrivateTask(noise=10.0, rate=1.0, clip=1.0, steps=1)
PLAN = brief_plan(max_steps=2, budget_s=600.0)


def private_header(model):
    """Return the header of round 1 of a private stage."""
    return task_header(
        stage="ecg_masked",
        seed=7,
        model=model,
        phenotypes=PHENOTYPES,
        diseases=DISEASES,
        trains=TRAINS,
        train=PLAN,
        min_patients=5,
        privacy=PRIVATE,
    )


@cache
def started(model, *parts):
    """Return parts of the model at its start, and their marks; they are not to be changed."""
    built = build_model(model, seed=1)
    weights = {part: part_arrays(built, part) for part in parts}
    return weights, {part: fingerprint(arrays) for part, arrays in weights.items()}


def training(header, *, value=0.0, **changes):
    """Return a training task; `value` is added to the weights of one part."""
    weights, marks = started(header.model, *TRAINS)
    if value:
        moved = {k: v + value for k, v in weights["ecg_encoder"].items()}
        weights = weights | {"ecg_encoder": moved}
        marks = marks | {"ecg_encoder": fingerprint(moved)}
    return Task(replace(header, parts=marks, **changes), weights)


def describing(header):
    asked = {"stage": "handshake", "action": "describe", "trains": (), "train": None}
    return Task(replace(header, privacy=RELEASE, **asked))


def evaluation(header, action):
    weights, marks = started(header.model, "ecg_encoder", "phenotype_head", "disease_head")
    changed = {"stage": "evaluate", "action": action, "trains": (), "train": None}
    head = replace(
        header,
        privacy=RELEASE,
        evaluation=EvaluationOptions(sections=("phenotypes",)),
        parts=marks,
        scaler_mean=(120.0, 60.0),
        scaler_sd=(30.0, 8.0),
        **changed,
    )
    return Task(head, weights)


def charges(site):
    with Ledger.read(site.config.privacy) as ledger:
        return ledger.charges


def code_of(task, site):
    with pytest.raises((SiteError, PrivacyError)) as caught:
        serve(task, site)
    return caught.value.code


def same(a, b):
    return update_to_records(a)["arrays"] == update_to_records(b)["arrays"] and replace(
        a, delta={}, sums={}
    ) == replace(b, delta={}, sums={})
