"""Stages: what each one trains, builds on and asks of a site."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from cardionets_core.models.cardionet import PARTS
from cardionets_core.run_config import StageName, model_preset
from cardionets_core.training.objectives import KINDS, NEEDS
from cardionets_core.training.stages import HEADS, STAGES, configured


def test_every_stage_of_a_plan_that_trains_is_there():
    assert set(STAGES) == set(get_args(StageName)) - {"handshake", "evaluate"}
    assert set(STAGES) == set(KINDS)


@pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))
def test_parts_exist_and_none_is_both_trained_and_frozen(stage):
    assert stage.trains and set(stage.parts) <= set(PARTS)
    assert not set(stage.trains) & set(stage.uses)
    assert stage.needs == NEEDS[stage.name]


def test_every_part_is_trained_by_some_stage():
    assert {part for stage in STAGES.values() for part in stage.trains} == set(PARTS)


@pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))
def test_who_is_asked_has_what_patients_need(stage):
    """A site that offers the stage's modality cannot lack the files that its patients need."""
    files_behind = {
        "ecg": {"ecg"},
        "cine": {"cine"},
        "pairs": {"ecg", "cine"},
        "phenotypes": {"ecg", "phenotypes"},
        "diseases": {"ecg", "diseases"},
    }
    assert set(stage.needs) <= files_behind[stage.modality]


def test_a_head_with_its_own_encoder_needs_nothing_else():
    model = model_preset("tiny")
    assert model.phenotype_head.encoder == "own"
    assert configured("phenotypes", {}, model).uses == ()


@pytest.mark.parametrize(("name", "head"), HEADS.items())
def test_a_head_on_the_aligned_encoder_builds_on_it_frozen(name, head):
    model = model_preset("tiny")
    model = replace(model, **{head: replace(getattr(model, head), encoder="shared")})
    stage = configured(name, {}, model)
    assert stage.uses == ("ecg_encoder",) and stage.trains == (head,)


def test_freezing_the_cmr_encoder_moves_it_from_trained_to_frozen():
    model = model_preset("tiny")
    plain, frozen = (configured("contrastive", {"freeze_cmr": f}, model) for f in (0.0, 1.0))
    assert "cmr_encoder" in plain.trains and "cmr_encoder" not in frozen.trains
    assert "cmr_encoder" in frozen.uses and set(plain.parts) == set(frozen.parts)
