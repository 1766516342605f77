"""Which tensors stay at the sites, and plans that cannot be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cardionets_core.checkpoint import (
    CheckpointInfo,
    part_arrays,
    read_checkpoint,
    to_tensors,
    write_checkpoint,
)
from cardionets_core.errors import CheckpointError, ConfigError
from cardionets_core.inference import load_predictor
from cardionets_core.local_parts import (
    HEAD_SOURCES,
    check_local_parts,
    is_local,
    local_names,
    needed_parts,
    split,
)
from cardionets_core.model_config import HeadConfig, ModelConfig
from cardionets_core.models.cardionet import build_model
from cardionets_core.run_config import RunConfig, StageConfig
from cardionets_core.training.stages import STAGES, configured

STAGE_NAMES = ("ecg_masked", "contrastive", "phenotypes")
NORMS = ("ecg_encoder.*norm*", "phenotype_head.encoder.*norm*")


def a_plan(*patterns, stages=STAGE_NAMES, **changes):
    return RunConfig(
        name="r",
        seed=1,
        model=ModelConfig(**changes),
        stages=("handshake", *stages),
        stage={name: StageConfig() for name in stages},
        phenotypes=("lv_ef",),
        local_parts=patterns,
    )


@pytest.mark.parametrize(
    ("patterns", "part", "name", "stays"),
    [
        (("ecg_decoder",), "ecg_decoder", "decoder.embed.weight", True),
        (("ecg_decoder",), "ecg_encoder", "embed.weight", False),
        (("ecg",), "ecg_encoder", "embed.weight", False),
        (("*_decoder",), "cmr_decoder", "decoder.embed.weight", True),
        (("ecg_encoder.*norm*",), "ecg_encoder", "transformer.blocks.0.mlp_norm.bias", True),
        (("ecg_encoder.*norm*",), "ecg_encoder", "embed.weight", False),
        (("ecg_encoder.*norm*",), "cmr_encoder", "norm.weight", False),
        (("*.norm.weight",), "cmr_encoder", "norm.weight", True),
        (("ecg_encoder.norm.weight",), "ecg_encoder", "norm.weight", True),
        (("ecg_encoder.norm.weight",), "ecg_encoder", "norm.bias", False),
        (("tokenizer", "generator"), "generator", "null.weight", True),
        ((), "generator", "null.weight", False),
    ],
)
def test_a_pattern_is_a_part_or_a_glob_over_its_tensors(patterns, part, name, stays):
    assert is_local(patterns, part, name) is stays


def test_a_split_loses_and_doubles_nothing():
    model = build_model(ModelConfig(), seed=1)
    groups = {p: part_arrays(model, p) for p in ("ecg_encoder", "ecg_decoder")}
    travels, stays = split(groups, ("ecg_encoder.*norm*", "ecg_decoder"))
    assert set(travels) == {"ecg_encoder"} and set(stays) == {"ecg_encoder", "ecg_decoder"}
    together = {**travels["ecg_encoder"], **stays["ecg_encoder"]}
    assert together.keys() == groups["ecg_encoder"].keys()
    assert not travels["ecg_encoder"].keys() & stays["ecg_encoder"].keys()
    assert all("norm" in n for n in stays["ecg_encoder"])


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (("ecg_encodr",), "did you mean 'ecg_encoder'"),
        (("ecg_encoder.normm.weight",), "did you mean 'ecg_encoder.norm.weight'"),
        (("ecg_encoder.*batchnorm*",), "matches no tensor of ecg_encoder"),
        (("",), "matches nothing"),
        (("phenotype_head",), "phenotypes would stay there"),
        (("*",), "nothing is left to average"),
        (("ecg_encoder", "ecg_decoder"), "ecg_masked would stay there"),
        (("ecg_encoder.*norm*",), "'phenotype_head.encoder"),
        (("ecg_projector.regress.*",), "'phenotype_head.readout"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_before_it_starts(patterns, words):
    with pytest.raises(ConfigError, match=r"local_parts") as error:
        check_local_parts(a_plan(*patterns))
    assert words in str(error.value)


@pytest.mark.parametrize(
    "plan",
    [
        a_plan(),
        a_plan(*NORMS),
        a_plan("ecg_decoder"),
        a_plan("cmr_projector", "ecg_encoder.*norm*", stages=("contrastive",)),
        a_plan("ecg_encoder.*norm*", phenotype_head=HeadConfig(encoder="shared")),
    ],
)
def test_a_plan_that_can_be_passes(plan):
    check_local_parts(plan)


def test_a_personal_head_needs_what_it_starts_from():
    model = a_plan().sized_model()
    stage = configured("phenotypes", {}, model)
    assert needed_parts(stage, model, NORMS) == ("phenotype_head", *HEAD_SOURCES)
    assert needed_parts(stage, model, ("ecg_decoder",)) == stage.parts
    assert needed_parts(STAGES["ecg_masked"], model, NORMS) == STAGES["ecg_masked"].parts


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint of a run whose sites keep the norms of the ECG encoder and the ECG decoder."""
    config = a_plan()
    model = build_model(config.sized_model(), seed=9)
    patterns = ("ecg_encoder.*norm*", "ecg_decoder")
    groups = {p: part_arrays(model, p) for p, _ in model.named_children()}
    info = CheckpointInfo(
        config.sized_model(),
        config.phenotypes,
        (),
        provenance={"local_parts": list(patterns), "stages_done": ["phenotypes"]},
    )
    folder = tmp_path_factory.mktemp("saved")
    write_checkpoint(folder, info, to_tensors(split(groups, patterns)[0]), number=1)
    return folder


def test_a_checkpoint_without_personal_tensors_says_so_where_they_are_needed(saved):
    for needs in (None, {"ecg_encoder"}, {"phenotype_head", "ecg_decoder"}):
        with pytest.raises(CheckpointError, match=r"kept tensors of it at its sites"):
            read_checkpoint(saved, needs)
    with pytest.raises(CheckpointError, match=r"ecg_encoder.*local_parts: ecg_encoder\.\*norm\*"):
        load_predictor(saved)


def test_and_serves_where_they_are_not(saved):
    read = read_checkpoint(saved, {"phenotype_head"})
    model = build_model(read.info.model, seed=9)
    got, want = (part_arrays(m, "phenotype_head") for m in (read.model, model))
    assert all(np.array_equal(got[n], want[n]) for n in want)


def test_names_of_what_stays_are_those_of_the_model():
    names = local_names(replace(ModelConfig(), num_phenotypes=2), ("*_projector.embed.*",))
    assert names == tuple(
        f"{part}_projector.embed.{n}" for part in ("ecg", "cmr") for n in ("weight", "bias")
    )
    assert local_names(ModelConfig(), ()) == ()
