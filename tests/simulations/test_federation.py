"""A whole federation in one process: it learns, it asks for no more than it may, and it repeats."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from cardionets_core.checkpoint import part_arrays, read_checkpoint
from cardionets_core.data.scaler import Scaler
from cardionets_core.evaluation.retrieval import match_ranks
from cardionets_core.models.cardionet import PARTS, build_model
from cardionets_core.site_config import load_site_config
from cardionets_core.training.stages import STAGES
from client.site import open_dataset
from server.tracking import embedded_uri

TRAINING = ("ecg_masked", "tokenizer", "contrastive", "generative", "phenotypes", "diseases")
PAIRED = ["north", "river"]
EVERYONE = ["hill", "north", "river"]
PLAN = (
    "seed=1",
    *(f"stage.{name}.rounds=2" for name in TRAINING),
    *(f"stage.{name}.local_epochs=2" for name in TRAINING),
    "stage.contrastive.rounds=4",
    "stage.contrastive.local_epochs=8",
    "stage.contrastive.batch_size=32",
    "stage.contrastive.lr=2e-3",
    "evaluation.replicates=20",
    "evaluation.generated_patients=4",
    "evaluation.samples=2",
)
OVERHEAD = 40_000
"""Bytes of a message beside its weights: header, manifest of arrays, .npy headers."""


@pytest.fixture(scope="module")
def sites(write_hospital, tmp_path_factory):
    folder = tmp_path_factory.mktemp("larger-hospitals")
    return {
        "north": write_hospital(folder, "north", "A", patients=100),
        "river": write_hospital(folder, "river", "B", patients=100),
        "hill": write_hospital(folder, "hill", "C", patients=30, ecg_only=True),
    }


@pytest.fixture(scope="module")
def run(sites, federate, nano, tmp_path_factory):
    """The folder of one run with all stages."""
    return federate(tmp_path_factory.mktemp("outputs") / "first", sites, *nano, *PLAN)


@pytest.fixture(scope="module")
def summary(run):
    return json.loads((run / "summary.json").read_text())


@pytest.fixture(scope="module")
def checkpoint(run):
    return read_checkpoint(run / "checkpoint")


def rounds_of(summary, stage):
    return [r for r in summary["rounds"] if r["stage"] == stage]


STUCK = pytest.mark.xfail(
    reason="masked ECG stays at the loss of predicting 0 (`blank`) in the few hundred steps that "
    "a test can afford, whatever rate, batch and mask ratio were tried"
)


@pytest.mark.parametrize("stage", [pytest.param("ecg_masked", marks=STUCK), *TRAINING[1:]])
@pytest.mark.parametrize("loss", ["train_loss", "validation_loss"])
def test_losses_fall(summary, stage, loss):
    curve = [r["metrics"][loss] for r in rounds_of(summary, stage)]
    assert len(curve) >= 2
    if (stage, loss) == ("phenotypes", "validation_loss"):
        # The head starts from the readout that the alignment trained, so on held-out patients it
        # has little left to gain; 1 is the loss of predicting the mean.
        assert max(curve) < 0.95, curve
    else:
        assert curve[-1] < curve[0], curve


def test_every_stage_ran_in_order_and_nobody_refused(summary):
    order = list(dict.fromkeys(r["stage"] for r in summary["rounds"]))
    assert order == ["handshake", *TRAINING, "evaluate"]
    assert summary["status"] == "COMPLETED"
    assert all(r["refused"] == {} for r in summary["rounds"])


def test_a_site_is_asked_only_for_what_it_can_serve(summary):
    asked = {r["stage"]: (r["accepted"], sorted(r["bytes_down"])) for r in summary["rounds"]}
    for stage in ("tokenizer", "contrastive", "generative"):
        assert asked[stage] == (PAIRED, PAIRED)
    for stage in ("handshake", "ecg_masked", "phenotypes", "diseases", "evaluate"):
        assert asked[stage] == (EVERYONE, EVERYONE)
    assert "pairs" not in summary["sites"]["hill"]["modalities"]


def test_the_weight_of_a_site_is_its_training_patients(summary):
    for record in rounds_of(summary, "ecg_masked"):
        for site, examples in record["num_examples"].items():
            assert examples == summary["sites"][site]["counts"]["train_ecg"]


def sizes(checkpoint):
    return {
        part: sum(a.nbytes for a in part_arrays(checkpoint.model, part).values()) for part in PARTS
    }


@pytest.mark.parametrize("name", TRAINING)
def test_trained_parts_travel_every_round_and_frozen_ones_once(summary, checkpoint, name):
    size, stage = sizes(checkpoint), STAGES[name]
    trained = sum(size[part] for part in stage.trains)
    frozen = sum(size[part] for part in stage.uses)
    for number, record in enumerate(rounds_of(summary, name)):
        down = trained + (frozen if number == 0 else 0)
        for site in record["accepted"]:
            assert 0 < record["bytes_down"][site] - down < OVERHEAD
            assert 0 < record["bytes_up"][site] - trained < OVERHEAD


def test_the_overhead_would_not_hide_a_part(checkpoint):
    assert min(sizes(checkpoint)[part] for part in ("ecg_encoder", "tokenizer")) > OVERHEAD


def test_the_second_evaluation_round_sends_no_weights(summary, checkpoint):
    fit, score = rounds_of(summary, "evaluate")
    size = sizes(checkpoint)
    for site in EVERYONE:
        assert fit["bytes_down"][site] > max(size.values())
        assert score["bytes_down"][site] < fit["bytes_down"][site] - size["ecg_encoder"]


def ranks(model, info, sites, splits):
    """Return each patient's rank of the own CMR among a site's, scaled to 0 (best) ... 1."""
    found = []
    for name in PAIRED:
        data = open_dataset(
            load_site_config(sites[name]),
            info.model,
            phenotypes=info.phenotypes,
            diseases=info.diseases,
            scaler=Scaler(np.array(info.scaler_mean), np.array(info.scaler_sd)),
        )
        rows = np.concatenate([data.indices(split, {"ecg", "cine"}) for split in splits])
        batch = data.batch(rows, rng=None)
        with torch.no_grad():
            ecg = model.project_ecg(model.encode_ecg(batch.ecg, batch.lead_mask).pooled)
            cmr = model.project_cmr(model.encode_cmr(batch.cine, batch.view_mask))
        similarity = (ecg @ cmr.T).double().numpy()
        found += list((match_ranks(similarity) - 0.5) / len(rows))
    return np.array(found)


def sigmas_better_than_chance(found):
    """Return how far the mean rank is from one half, in its standard errors under chance."""
    return (0.5 - found.mean()) / math.sqrt(1 / 12 / len(found))


def test_retrieval_beats_chance(checkpoint, sites):
    model, info = checkpoint.model, checkpoint.info
    train = ranks(model, info, sites, ["train"])
    held_out = ranks(model, info, sites, ["validation", "test"])
    assert sigmas_better_than_chance(train) > 4
    assert sigmas_better_than_chance(held_out) > 2
    untrained = build_model(info.model, seed=1).eval()
    assert abs(sigmas_better_than_chance(ranks(untrained, info, sites, ["train"]))) < 3


def test_mlflow_holds_every_round_the_plan_and_the_artifacts(run, summary):
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(embedded_uri(run))
    run_id = (run / "mlflow_run_id").read_text()
    logged = client.get_run(run_id)
    assert logged.info.status == "FINISHED" and logged.info.run_name == run.name
    plan = json.loads((run / "config.json").read_text())
    assert logged.data.params["seed"] == "1"
    assert logged.data.params["model.preset"] == plan["model"]["preset"]
    assert float(logged.data.params["stage.contrastive.lr"]) == plan["stage"]["contrastive"]["lr"]
    for stage in TRAINING:
        records = rounds_of(summary, stage)
        for name in ("train_loss", "validation_loss"):
            history = client.get_metric_history(run_id, f"{stage}/{name}")
            values = [m.value for m in sorted(history, key=lambda m: m.step)]
            assert values == pytest.approx([r["metrics"][name] for r in records], rel=1e-12)
        site = records[0]["accepted"][0]
        for key in ("num_examples", "bytes_up", "bytes_down"):
            history = client.get_metric_history(run_id, f"{stage}/{site}/{key}")
            assert sorted(m.value for m in history) == sorted(r[key][site] for r in records)
    held = {item.path for item in client.list_artifacts(run_id)}
    assert held >= {"config.json", "summary.json", "model_card.md", "checkpoint"}
    inside = {item.path for item in client.list_artifacts(run_id, "checkpoint")}
    assert "checkpoint/checkpoint.json" in inside


def test_checkpoint_and_summary_agree(checkpoint, summary):
    info = checkpoint.info
    assert info.sha256 == summary["weights_sha256"]
    assert info.metrics == summary["metrics"] and info.metrics["pooled"]
    assert info.provenance["config_hash"] == summary["config_hash"]
    assert info.state["history"] == summary["rounds"]
    assert len(info.residual_sd) == len(info.phenotypes) and all(s > 0 for s in info.scaler_sd)
    assert all(torch.isfinite(p).all() for p in checkpoint.model.parameters())


def test_nothing_of_a_patient_or_a_folder_of_a_site_is_at_the_server(run, sites, patient_ids):
    """Every file that the server wrote, MLflow's database and copies included."""
    words = {str(path.parent) for path in sites.values()}
    for path in sites.values():
        words |= {str(load_site_config(path).data.salt), *patient_ids(path)}
    assert len(words) > 200 and min(map(len, words)) >= 5
    files = [path for path in run.parent.rglob("*") if path.is_file()]
    assert {"mlflow.db", "checkpoint.json", "summary.json", "progress.jsonl"} <= {
        path.name for path in files
    }
    for path in files:
        data = path.read_bytes()
        found = [word for word in words if word.encode() in data]
        assert not found, f"{path.relative_to(run.parent)} holds {len(found)} of them"


def weights(folder: Path):
    return json.loads((folder / "summary.json").read_text())["weights_sha256"]


def test_the_seed_fixes_every_bit(hospitals, federate, nano, tmp_path):
    """Neither the run's name nor the order in which sites answer matters; the seed does."""
    backwards = dict(reversed(hospitals.items()))
    one = federate(tmp_path / "one", hospitals, *nano, "seed=5")
    again = federate(tmp_path / "again", backwards, *nano, "seed=5")
    other = federate(
        tmp_path / "other", hospitals, *nano, "seed=6", "stages=[handshake,ecg_masked]"
    )
    assert weights(one) == weights(again)
    assert weights(one) != weights(other)
