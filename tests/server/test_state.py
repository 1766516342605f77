"""What a restarted server goes on from."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from cardionets_core.config_tree import digest
from cardionets_core.errors import CheckpointError
from cardionets_core.model_config import ModelConfig
from cardionets_core.models.cardionet import PARTS
from cardionets_core.packing import fingerprint
from cardionets_core.run_config import RunConfig, StageConfig
from server.state import RunState, SiteRecord, finite, fresh_state, load_state, save_state

CONFIG = RunConfig(
    name="run-1",
    seed=3,
    model=ModelConfig(),
    stages=("handshake", "ecg_masked", "evaluate"),
    stage={"ecg_masked": StageConfig(rounds=2)},
    phenotypes=("lv_edv", "lv_ef"),
    diseases=("heart_failure",),
)


@pytest.fixture(scope="module")
def state():
    return fresh_state(CONFIG)


def in_the_middle(state):
    part = state.weights["tokenizer"]
    return replace(
        state,
        average={"tokenizer": {n: a + np.asarray(1, dtype=a.dtype) for n, a in part.items()}},
        scaler_mean=(150.123456789, 60.0),
        scaler_sd=(0.1 + 0.2, 1.0),
        sites={"a": SiteRecord(("ecg", "pairs"), {"patients": 400}, {"torch": "2.13.0"})},
        stage=1,
        round=1,
        history=({"stage": "ecg_masked", "round": 1, "metrics": {"train_loss": 0.1 + 0.2}},),
        metrics={"phenotypes": {"lv_ef": {"r2": None}}},
    )


def marks(groups):
    return {part: fingerprint(arrays) for part, arrays in groups.items()}


def test_a_fresh_state_holds_every_part_and_follows_from_the_seed(state):
    assert set(state.weights) == set(PARTS)
    assert marks(fresh_state(CONFIG).weights) == marks(state.weights)
    assert marks(fresh_state(replace(CONFIG, seed=4)).weights) != marks(state.weights)


def test_a_saved_state_comes_back_to_the_bit(state, tmp_path):
    saved = save_state(in_the_middle(state), CONFIG, tmp_path)
    back = load_state(CONFIG, tmp_path)
    assert marks(back.weights) == marks(saved.weights)
    assert marks(back.average) == marks(saved.average)
    empty = {"weights": {}, "average": {}}
    assert replace(back, **empty) == replace(saved, **empty)


def test_prediction_reads_the_average_and_training_the_raw_weights(state, tmp_path):
    saved = save_state(in_the_middle(state), CONFIG, tmp_path)
    back = load_state(CONFIG, tmp_path)
    assert marks(back.deployed())["tokenizer"] == marks(saved.average)["tokenizer"]
    assert marks(back.weights)["tokenizer"] == marks(state.weights)["tokenizer"]
    assert marks(back.deployed())["generator"] == marks(state.weights)["generator"]


def test_saves_are_counted_and_only_two_generations_stay(state, tmp_path):
    for _ in range(4):
        state = save_state(state, CONFIG, tmp_path)
    assert state.saves == 4
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == [
        "weights-000003.safetensors",
        "weights-000004.safetensors",
    ]
    assert load_state(CONFIG, tmp_path).saves == 4


def test_the_checkpoint_says_where_it_comes_from(state, tmp_path):
    save_state(in_the_middle(state), CONFIG, tmp_path)
    info = json.loads((tmp_path / "checkpoint.json").read_text())
    assert info["provenance"]["config_hash"] == digest(CONFIG)
    assert info["provenance"]["stages_done"] == ["handshake"]
    assert info["provenance"]["sites"]["a"]["counts"] == {"patients": 400}
    assert info["phenotypes"] == ["lv_edv", "lv_ef"]
    assert info["model"]["num_phenotypes"] == 2 and info["model"]["num_diseases"] == 1


def test_another_configuration_does_not_resume(state, tmp_path):
    save_state(state, CONFIG, tmp_path)
    with pytest.raises(CheckpointError, match="another configuration"):
        load_state(replace(CONFIG, seed=4), tmp_path)


def test_torn_weights_do_not_resume(state, tmp_path):
    save_state(state, CONFIG, tmp_path)
    path = tmp_path / "weights-000001.safetensors"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(CheckpointError, match="torn or changed"):
        load_state(CONFIG, tmp_path)


@pytest.mark.parametrize("missing", ["state", "provenance"])
def test_a_checkpoint_without_its_position_does_not_resume(state, tmp_path, missing):
    save_state(state, CONFIG, tmp_path)
    path = tmp_path / "checkpoint.json"
    info = json.loads(path.read_text())
    info[missing] = {"config_hash": digest(CONFIG)} if missing == "provenance" else {}
    path.write_text(json.dumps(info))
    with pytest.raises(CheckpointError):
        load_state(CONFIG, tmp_path)


def test_finite_has_no_nan_for_json():
    assert finite(np.array([1.5, np.nan, np.inf])) == [1.5, None, None]


def test_a_state_is_frozen(state):
    with pytest.raises(AttributeError):
        state.round = 5
    assert isinstance(state, RunState)
