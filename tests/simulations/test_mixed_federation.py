"""ECG-only, CMR-only and paired hospitals in one run, from the handshake to the report."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from cardionets_core.checkpoint import read_checkpoint
from cardionets_core.config_tree import digest
from cardionets_core.models.cardionet import PARTS
from cardionets_core.site_config import load_site_config
from client.client_app import app as client_app
from server.server_app import app as server_app
from server.server_app import load_config, write_config
from simulations.faults.figures_parts import Answer, Wire, compare, final_weights
from simulations.faults.small import plan
from simulations.grid import run_in_process
from simulations.hospitals import Hospital
from simulations.report import write_report

STAGES = ("masked", "tokenizer", "contrastive", "phenotypes", "evaluate")
ECG, CMR = {"ecg_encoder", "ecg_decoder"}, {"cmr_encoder", "cmr_decoder"}


@pytest.fixture(scope="module")
def sites(hospitals, write_hospital, tmp_path_factory):
    folder = tmp_path_factory.mktemp("imaging")
    coast = write_hospital(folder, "coast", "D", patients=20, cmr_only=True)
    return {"north": hospitals["north"], "hill": hospitals["hill"], "coast": coast}


@pytest.fixture(scope="module")
def run(sites, nano, tmp_path_factory):
    """The folder of a run with all three kinds, and what crossed its wire."""
    folder = tmp_path_factory.mktemp("outputs") / "mixed"
    words = [*nano, f"stages=[handshake,{','.join(STAGES)}]", "stage.masked.rounds=2"]
    words += ["stage.masked.local_epochs=1", "stage.masked.part_sites={cmr_encoder: 2}"]
    write_config(folder, plan(folder.name, words, sites=len(sites)))
    submitted = {"run": folder.name, "config-hash": digest(load_config(folder))}
    wire = Wire()
    run_in_process(
        server_app,
        client_app,
        run_config=submitted,
        sites=sites,
        outputs=folder.parent,
        overhear=wire.overhear,
    )
    return folder, wire


@pytest.fixture(scope="module")
def summary(run):
    return json.loads((run[0] / "summary.json").read_text())


def test_no_kind_of_hospital_ends_the_run_and_nobody_refuses(summary):
    assert summary["status"] == "COMPLETED"
    assert all(r["refused"] == {} for r in summary["rounds"])
    offers = {
        n: set(s["modalities"]) & {"ecg", "cine", "pairs"} for n, s in summary["sites"].items()
    }
    assert offers == {"coast": {"cine"}, "hill": {"ecg"}, "north": {"ecg", "cine", "pairs"}}


def test_each_stage_asks_the_sites_that_have_what_it_needs(summary):
    asked = {r["stage"]: sorted(r["bytes_down"]) for r in summary["rounds"]}
    assert asked == {
        "handshake": ["coast", "hill", "north"],
        "masked": ["coast", "hill", "north"],
        "tokenizer": ["coast", "north"],
        "contrastive": ["north"],
        "phenotypes": ["hill", "north"],  # coast has phenotypes, and no ECG to read them from
        "evaluate": ["coast", "hill", "north"],
    }


def test_each_part_is_the_average_of_its_owners_to_the_bit(run):
    folder, wire = run
    found = compare(wire, final_weights(folder), every=41)
    assert found.averages == 2 * 4 + 1 + 4 + 1 and found.numbers > 10_000
    assert found.differing == 0


def test_the_test_above_can_fail(run):
    folder, wire = run
    answers = list(wire.answers)
    changed = answers[0].update
    delta = {
        part: {name: array * np.float32(1.001) for name, array in arrays.items()}
        for part, arrays in changed.delta.items()
    }
    answers[0] = Answer(answers[0].task, replace(changed, delta=delta))
    assert compare(Wire(answers), final_weights(folder), every=41).differing > 100


def test_only_its_own_parts_travel_to_and_from_a_site(run):
    _, wire = run
    own = {"hill": ECG, "coast": CMR, "north": ECG | CMR}
    seen = [a for a in wire.answers if a.task.header.stage == "masked"]
    assert len(seen) == 6
    for answer in seen:
        parts = own[answer.update.site]
        assert set(answer.task.weights) == set(answer.update.delta) == parts


def test_the_weight_of_a_part_is_the_studies_that_it_was_trained_on(summary):
    counts = {n: s["counts"] for n, s in summary["sites"].items()}
    for record in (r for r in summary["rounds"] if r["stage"] == "masked"):
        assert record["examples"]["hill"] == dict.fromkeys(ECG, counts["hill"]["train_ecg"])
        assert record["examples"]["coast"] == dict.fromkeys(CMR, counts["coast"]["train_cine"])
        assert record["examples"]["north"] == {
            **dict.fromkeys(ECG, counts["north"]["train_ecg"]),
            **dict.fromkeys(CMR, counts["north"]["train_cine"]),
        }


def test_each_member_has_its_own_curves(summary):
    record = next(r for r in summary["rounds"] if r["stage"] == "masked")
    ecg, cmr = "train_ecg_masked_loss", "train_cmr_masked_loss"
    assert ecg in record["site_metrics"]["north"] and cmr in record["site_metrics"]["north"]
    assert "train_loss" in record["site_metrics"]["hill"]
    assert record["metrics"]["train_loss"] > 0


def test_the_results_are_of_the_sites_with_ecgs(summary):
    sites = summary["metrics"]["sites"]
    assert sites["north"]["phenotypes"] and sites["hill"]["phenotypes"]
    assert not any(sites["coast"].values())


def test_the_report_and_the_card_name_all_three(run, sites):
    folder, _ = run
    hospitals = [Hospital(load_site_config(path), {}) for path in sites.values()]
    page = write_report(folder, hospitals).read_text()
    assert all(f"Hospital {name}" in page for name in sites) and "Pretraining" in page
    assert "| coast | cine" in (folder / "model_card.md").read_text()
    assert set(PARTS) == set(dict(read_checkpoint(folder / "checkpoint").model.named_children()))
