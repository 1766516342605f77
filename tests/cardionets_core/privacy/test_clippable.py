"""What private training refuses before anything is charged: the thing, the cause, the next step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from cardionets_core.errors import PrivacyError
from cardionets_core.models.cardionet import build_model
from cardionets_core.privacy.clippable import pick_engine, require_clippable
from cardionets_core.training.objectives import KINDS, make_objective

ECG = KINDS["ecg_masked"].parts


@pytest.fixture
def model(micro):
    return build_model(micro, seed=1)


def refuse(model, match, *, name="ecg_masked", grouping="patient", engine="vmap", trains=None):
    trains = KINDS[name].parts if trains is None else trains
    objective = make_objective(name, {}, 0.5)
    with pytest.raises(PrivacyError, match=match) as error:
        require_clippable(model, objective, trains=trains, grouping=grouping, engine=engine)
    assert error.value.code == "privacy_plan"


@pytest.mark.parametrize("engine", ["vmap", "loop", "ghost"])
@pytest.mark.parametrize("name", [n for n in KINDS if n != "contrastive"])
def test_every_per_patient_objective_is_accepted(model, name, engine):
    objective = make_objective(name, {}, 0.5)
    require_clippable(model, objective, trains=KINDS[name].parts, grouping="patient", engine=engine)


def test_a_loss_that_mixes_patients_needs_buckets(model):
    refuse(model, "mixes patients.*`bucket`, or to `public_negatives`", name="contrastive")
    objective, trains = make_objective("contrastive", {}, 0.5), KINDS["contrastive"].parts
    require_clippable(model, objective, trains=trains, grouping="bucket", engine="vmap")


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (nn.BatchNorm1d(24), r"ecg_encoder.norm \(BatchNorm1d\).*Use GroupNorm or LayerNorm"),
        (nn.InstanceNorm1d(24, track_running_stats=True), "InstanceNorm1d"),
        (nn.Dropout(0.1), r"ecg_encoder.norm \(Dropout\) draws random numbers"),
    ],
)
def test_layers_that_mix_patients_or_draw(model, layer, match):
    model.ecg_encoder.norm = layer
    refuse(model, match)


def test_dropout_that_drops_nothing_is_let_in(model):
    model.ecg_encoder.norm = nn.Dropout(0.0)
    require_clippable(
        model, make_objective("ecg_masked", {}, 0.5), trains=ECG, grouping="patient", engine="vmap"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(model, value):
    with torch.no_grad():
        model.ecg_encoder.norm.bias[0] = value
    refuse(model, r"ecg_encoder\.norm\.bias holds numbers that are not finite")


def test_weights_in_half_precision(model):
    refuse(model.half(), "float16; private training needs float32")


def test_a_stage_with_nothing_to_train(micro):
    pixel = replace(micro, tokenizer=replace(micro.tokenizer, kind="pixel"))
    refuse(build_model(pixel, seed=1), "tokenizer has nothing to train", name="tokenizer")


def test_a_layer_that_ghost_cannot_clip(micro):
    model = build_model(replace(micro, ecg_encoder=replace(micro.ecg_encoder, kind="s4d")), seed=1)
    refuse(model, r"kernel \(StateSpaceKernel\).*Use the engine `vmap`", engine="ghost")
    require_clippable(
        model, make_objective("ecg_masked", {}, 0.5), trains=ECG, grouping="patient", engine="vmap"
    )


def test_a_norm_without_bias_is_not_for_ghost(model):
    model.ecg_encoder.norm = nn.LayerNorm(24, bias=False)
    refuse(model, r"ecg_encoder.norm \(LayerNorm\)", engine="ghost")


def test_one_tensor_in_two_layers_is_not_for_ghost(model):
    model.ecg_encoder.transformer.blocks[0].mlp_norm.weight = model.ecg_encoder.norm.weight
    refuse(model, "is the same tensor as", engine="ghost")


def test_ghost_is_picked_on_a_gpu_where_it_can_be(micro, model):
    s4d = build_model(replace(micro, ecg_encoder=replace(micro.ecg_encoder, kind="s4d")), seed=1)
    assert pick_engine(model, ECG, torch.device("cpu")) == "vmap"
    assert pick_engine(model, ECG, torch.device("cuda")) == "ghost"
    assert pick_engine(s4d, ECG, torch.device("cuda")) == "vmap"
