"""The run's plan: composed by Hydra, checked by us."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from cardionets_core.config_tree import digest, to_mapping
from cardionets_core.errors import ConfigError
from cardionets_core.run_config import StageConfig, compose, conf_files, run_config_from
from cardionets_core.training.stages import STAGES
from cardionets_core.vocabulary import PHENOTYPE_NAMES

CONF = "cardionets_core.conf"
PRESETS = ("tiny", "small", "base", "paper")


def composed(*overrides):
    return run_config_from(compose("run", ["name=r", *overrides], package=CONF))


def test_the_default_plan_runs_every_stage_of_the_main_job():
    config = composed()
    assert config.stages == (
        "handshake",
        "ecg_masked",
        "tokenizer",
        "contrastive",
        "generative",
        "phenotypes",
        "diseases",
        "evaluate",
    )
    assert set(config.stages) - {"handshake", "evaluate"} <= set(config.stage) <= set(STAGES)
    assert config.phenotypes == PHENOTYPE_NAMES and len(config.diseases) == 12
    assert config.model.preset == "tiny"
    sized = config.sized_model()
    assert (sized.num_phenotypes, sized.num_diseases) == (82, 12)


def test_overrides_reach_every_depth():
    config = composed(
        "seed=7",
        "stage.contrastive.rounds=20",
        "stage.contrastive.options.temperature=0.05",
        "model.generator.ar_steps=4",
        "stages=[handshake,ecg_masked]",
        "mlflow.tracking_uri=http://localhost:5000",
    )
    assert config.seed == 7 and config.stages == ("handshake", "ecg_masked")
    assert config.stage["contrastive"].rounds == 20
    assert config.stage["contrastive"].options["temperature"] == 0.05
    assert config.model.generator.ar_steps == 4
    assert config.mlflow.tracking_uri == "http://localhost:5000"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_composes(preset):
    assert composed(f"model={preset}").model.preset == preset


def test_the_presets_are_these():
    assert set(conf_files(CONF, "model")) == set(PRESETS)


def test_a_plan_survives_its_file():
    config = composed("model=small", "seed=3")
    again = run_config_from(to_mapping(config))
    assert again == config and digest(again) == digest(config)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sed=3", "seed"),
        ("stage.contrastive.round=3", "rounds"),
        ("stage.contrastve.rounds=3", "contrastive"),
        ("model=tinny", "tiny"),
        ("model.generator.hed=flow", "head"),
        ("seed=three", r"run\.seed: expected int"),
        ("stage.contrastive.lr=0", "lr is 0"),
        ("stage.contrastive.rounds=0", "rounds is 0"),
        ("stages=[ecg_masked]", "begin with 'handshake'"),
        ("stages=[handshake,ecg_maskd]", "ecg_masked"),
        ("phenotypes=[lv_eff]", "lv_ef"),
        ("phenotypes=[lv_ef,lv_ef]", "stands twice"),
        ("diseases=[flu]", "not in the vocabulary"),
        ("strategy.name=fedproxy", "fedprox"),
        ("privacy.mode=sample", "none"),
        ("model.ecg_encoder.patch_samples=26", "26 does not divide 250"),
        ("+backdoor=1", "backdoor"),
        ("seed", "key=value"),
        ("seed=[", "key=value"),
    ],
)
def test_a_wrong_override_is_one_line_that_names_the_right_one(override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        composed(override)
    assert "\n" not in str(caught.value)


def test_a_stage_without_settings_is_refused():
    values = compose("run", ["name=r"], package=CONF)
    del values["stage"]["tokenizer"]
    with pytest.raises(ConfigError, match=r"stage\.tokenizer is missing"):
        run_config_from(values)


def test_nothing_in_a_config_is_ever_called():
    with pytest.raises(ConfigError, match="_target_"):
        composed("+model._target_=os.system")


def test_the_learning_rate_warms_up_and_falls_on_a_half_cosine():
    stage = StageConfig(rounds=6, lr=2.0, warmup_rounds=2, lr_floor=0.1)
    rates = [stage.lr_at(i) for i in range(6)]
    assert rates[:2] == pytest.approx([2.0 / 3, 4.0 / 3])
    assert rates[2] == pytest.approx(2.0)
    want = [2.0 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * i / 4))) for i in range(4)]
    assert rates[2:] == pytest.approx(want)
    assert all(r >= 0.2 for r in rates[2:])


def test_a_single_round_takes_the_peak():
    assert StageConfig(rounds=1, lr=0.5).lr_at(0) == 0.5
    assert replace(StageConfig(), rounds=3, warmup_rounds=3, lr=1.0).lr_at(2) == 0.75
