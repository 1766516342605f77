"""Stages: what each one trains, builds on and asks of a site."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from cardionets_core.errors import ConfigError
from cardionets_core.models.cardionet import PARTS
from cardionets_core.run_config import (
    CONF,
    StageConfig,
    StageName,
    compose,
    model_preset,
    run_config_from,
)
from cardionets_core.training.objectives import KINDS, NEEDS
from cardionets_core.training.stages import HEADS, STAGES, check_plan, configured


def test_every_stage_of_a_plan_that_trains_is_there():
    assert set(STAGES) == set(get_args(StageName)) - {"handshake", "evaluate"}
    assert {m.name for stage in STAGES.values() for m in stage.members or (stage,)} == set(KINDS)


@pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))
def test_parts_exist_and_none_is_both_trained_and_frozen(stage):
    assert stage.trains and set(stage.parts) <= set(PARTS)
    assert not set(stage.trains) & set(stage.uses)
    for member in stage.members or (stage,):
        assert member.needs == NEEDS[member.name]


def test_every_part_is_trained_by_some_stage():
    assert {part for stage in STAGES.values() for part in stage.trains} == set(PARTS)


@pytest.mark.parametrize("stage", [s for s in STAGES.values() if not s.members])
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


@pytest.mark.parametrize(
    ("modalities", "trains"),
    [
        (("ecg", "phenotypes"), ("ecg_encoder", "ecg_decoder")),
        (("cine",), ("cmr_encoder", "cmr_decoder")),
        (("ecg", "cine", "pairs"), ("ecg_encoder", "ecg_decoder", "cmr_encoder", "cmr_decoder")),
        (("diseases", "phenotypes"), ()),
    ],
)
def test_each_kind_of_site_trains_its_own_members_of_a_stage(modalities, trains):
    members = STAGES["masked"].at(modalities)
    assert tuple(part for member in members for part in member.trains) == trains


def test_a_site_without_ecgs_is_not_asked_for_a_head_though_it_has_labels():
    assert STAGES["phenotypes"].at(("cine", "phenotypes")) == ()
    assert STAGES["phenotypes"].at(("ecg", "phenotypes")) == (STAGES["phenotypes"],)
    assert STAGES["contrastive"].at(("ecg", "cine")) == ()


def test_parts_that_are_asked_for_name_the_members_behind_them():
    masked = STAGES["masked"]
    ecg, cmr = masked.members
    assert masked.training(ecg.trains) == (ecg,)
    assert masked.training((*cmr.trains, *ecg.trains)) == (ecg, cmr)
    assert masked.training(("ecg_encoder",)) == ()  # half of a member
    assert masked.training((*ecg.trains, "generator")) == ()
    assert masked.training(()) == ()
    assert ecg.training(ecg.trains) == (ecg,)


def test_members_share_no_part():
    for stage in STAGES.values():
        parts = [part for member in stage.members for part in member.trains]
        assert len(parts) == len(set(parts))


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("stage.masked.part_sites.cmr_encodr=2", "'cmr_encodr'.*cmr_encoder.*It trains"),
        ("stage.masked.part_sites.generator=1", "generator.*It trains"),
        ("stage.masked.options.mask_ration=0.5", "mask_ration"),
        ("stage.masked.partial=fednova", "ecg_masked, cmr_masked instead"),
        ("strategy.name=scaffold", "ecg_masked, cmr_masked instead"),
        ("stage.masked.budget_s=60", "budget_s.*ecg_masked, cmr_masked instead"),
    ],
)
def test_a_plan_that_names_what_its_stage_has_not_is_refused(override, match):
    config = run_config_from(
        compose("run", ["stages=[handshake,masked]", "name=r", override], package=CONF)
    )
    with pytest.raises(ConfigError, match=match):
        check_plan(config)


def test_a_plan_with_a_quorum_for_each_part_is_fine():
    words = ["stages=[handshake,masked]", "name=r", "stage.masked.min_sites=2"]
    words += ["stage.masked.part_sites={cmr_encoder: 1, cmr_decoder: 1}"]
    config = run_config_from(compose("run", words, package=CONF))
    check_plan(config)
    settings = config.stage["masked"]
    assert [settings.sites_for(p) for p in ("ecg_encoder", "cmr_encoder")] == [2, 1]


def test_a_quorum_below_nobody_is_refused():
    with pytest.raises(ValueError, match="at least 0"):
        StageConfig(part_sites={"cmr_encoder": -1})
