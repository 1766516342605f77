"""What comes out of a private site's wall: messages of one size, and refusals that cost nothing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from torch import nn

import client.private_training
from cardionets_core.checkpoint import part_arrays
from cardionets_core.evaluation.options import EvaluationOptions
from cardionets_core.messages import (
    ARRAYS,
    CONFIG,
    REFUSAL,
    Task,
    payload_bytes,
    task_to_records,
)
from cardionets_core.models.cardionet import build_model
from cardionets_core.packing import fingerprint
from cardionets_core.privacy.ledger import Ledger
from cardionets_core.privacy_config import PrivateTask
from cardionets_core.site_config import SITE_CONFIG_ENV, load_site_config, write_yaml
from client.client_app import answer
from tests.narrow_hospital import DISEASES, PHENOTYPES
from tests.private_site import make_private
from tests.task_header import brief_plan, task_header

pytestmark = pytest.mark.usefixtures("torch_as_it_was")

TRAINS = ("ecg_encoder", "ecg_decoder")
STEPS = PrivateTask(noise=2.0, rate=0.2, clip=1.0, steps=1)
RELEASE = PrivateTask(noise=10.0, rate=1.0, clip=1.0, steps=1)
PLAN = brief_plan()
COHORTS = (24, 23, 2)
"""Patients: a hospital, the same less one, and one that has next to nobody."""


@pytest.fixture(scope="module")
def cohort(prepared_ecgs, tmp_path_factory):
    """Return (patients) -> YAML of the hospital with the first so many, and a ledger of its own."""

    def make(patients):
        folder = tmp_path_factory.mktemp("cohort")
        values = yaml.safe_load(prepared_ecgs.read_text())
        data = values["data"]
        rows = Path(data["manifest"]).read_text().splitlines(keepends=True)
        table = folder / "manifest.csv"
        table.write_text("".join(rows[: 1 + patients]))
        cache = str(shutil.copytree(data["cache"], folder / "cache"))
        site = folder / "west.yaml"
        write_yaml(site, values | {"data": data | {"manifest": str(table), "cache": cache}})
        return make_private(site, modalities=["ecg", "phenotypes", "diseases"])

    return make


@pytest.fixture(scope="module")
def tasks(nano_model):
    """One task of each kind that a private site answers, and one with a codec: name -> task."""
    model = build_model(nano_model, seed=1)
    header = task_header(
        model=nano_model,
        phenotypes=PHENOTYPES,
        diseases=DISEASES,
        min_patients=5,
        privacy=RELEASE,
        scaler_mean=(120.0, 60.0),
        scaler_sd=(30.0, 8.0),
    )

    def task(parts, **changes):
        weights = {part: part_arrays(model, part) for part in parts}
        marks = {part: fingerprint(arrays) for part, arrays in weights.items()}
        return Task(replace(header, parts=marks, **changes), weights)

    def training(number, codec):
        plan = replace(PLAN, codec=codec)
        return task(TRAINS, trains=TRAINS, train=plan, privacy=STEPS, round=number)

    def evaluating(action):
        options = EvaluationOptions(sections=("phenotypes", "diseases"))
        heads = ("ecg_encoder", "phenotype_head", "disease_head")
        return task(heads, stage="evaluate", action=action, evaluation=options)

    return {
        "describe": task((), stage="handshake", action="describe"),
        "train": training(1, "float32"),
        "int8": training(2, "int8"),
        "fit": evaluating("fit"),
        "score": evaluating("score"),
    }


def answered(site, task, monkeypatch):
    """Return what leaves the site's process, through the wall."""
    monkeypatch.setenv(SITE_CONFIG_ENV, str(site))
    return answer(task_to_records(task))


def outside(reply):
    """Return all that shows of an answer beside the values of its arrays, and a ledger's head."""
    header = json.loads(reply[CONFIG]["header"])
    assert len(header["privacy"].pop("head")) == 64  # it begins with a random name and the time
    manifest = json.loads(reply[CONFIG]["manifest"])
    assert all(len(group.pop("sha256")) == 64 for group in manifest.values())
    arrays = {k: (a.dtype, tuple(a.shape), len(a.data)) for k, a in reply[ARRAYS].items()}
    return header, manifest, arrays, payload_bytes(reply)


def test_an_answer_looks_the_same_from_outside_whatever_the_records_are(cohort, tasks, monkeypatch):
    """Names, shapes, dtypes and bytes of 24, 23 and 2 patients: they follow from the plan."""
    found = {}
    for patients in COHORTS:
        site = cohort(patients)
        replies = {name: answered(site, task, monkeypatch) for name, task in tasks.items()}
        assert not any(REFUSAL in reply for reply in replies.values())
        found[patients] = {name: outside(reply) for name, reply in replies.items()}
    for name in tasks:
        assert found[24][name] == found[23][name] == found[2][name], name
    assert found[24]["int8"][3] < 0.4 * found[24]["train"][3]


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(4), nn.Dropout(0.1)], ids=["mixes", "draws"])
def test_a_layer_that_cannot_be_clipped_is_refused_uncharged(
    cohort, tasks, monkeypatch, caplog, layer
):
    load = client.private_training.load_model

    def with_layer(*args):
        model = load(*args)
        model.ecg_encoder.extra = layer
        return model

    monkeypatch.setattr(client.private_training, "load_model", with_layer)
    site = cohort(4)
    reply = answered(site, tasks["train"], monkeypatch)
    assert set(reply) == {REFUSAL} and dict(reply[REFUSAL]) == {"code": "privacy_plan"}
    assert f"ecg_encoder.extra ({type(layer).__name__})" in caplog.text  # for the hospital alone
    with Ledger.read(load_site_config(site).privacy) as ledger:
        assert ledger.entries == 1
