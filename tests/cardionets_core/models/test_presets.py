from __future__ import annotations

from dataclasses import replace
from importlib import resources
from typing import Any

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from cardionets_core.config_tree import build, digest, to_mapping
from cardionets_core.errors import ConfigError
from cardionets_core.model_config import GeneratorConfig, ModelConfig
from cardionets_core.models.cardionet import PARTS, build_model
from cardionets_core.models.cost import (
    cost_rows,
    count_parameters,
    part_costs,
    stage_costs,
    use_costs,
)
from cardionets_core.training.objectives import KINDS

PRESETS = ("tiny", "small", "base", "paper")


def preset(name: str) -> ModelConfig:
    path = resources.files("cardionets_core.conf") / "model" / f"{name}.yaml"
    values: dict[str, Any] = yaml.safe_load(path.read_text())
    return build(ModelConfig, values)


# Millions of parameters: all parts, and without the heads' own copies of the ECG encoder.
PARAMETERS = {
    "tiny": (2.751, 1.986),
    "small": (65.695, 43.662),
    "base": (556.068, 385.752),
    "paper": (584.986, 414.689),
}
# GFLOP of one training step per patient.
TRAINING = {
    "tiny": {"ecg_masked": 0.113, "tokenizer": 0.615, "contrastive": 0.599, "generative": 0.324},
    "small": {"ecg_masked": 7.03, "tokenizer": 7.93, "contrastive": 41.3, "generative": 14.96},
    "base": {"ecg_masked": 42.5, "tokenizer": 141.6, "contrastive": 281.0, "generative": 154.8},
    "paper": {"ecg_masked": 68.2, "tokenizer": 1539.0, "contrastive": 232.5, "generative": 574.7},
}
# MB per round, one way.
WIRE = {
    "tiny": {"ecg_masked": 1.79, "contrastive": 3.21, "generative": 3.14},
    "small": {"ecg_masked": 48.2, "contrastive": 88.7, "generative": 74.4},
    "base": {"ecg_masked": 370.7, "contrastive": 686.5, "generative": 775.8},
    "paper": {"ecg_masked": 354.5, "contrastive": 722.3, "generative": 759.3},
}


@pytest.mark.parametrize("name", PRESETS)
def test_preset_costs_what_the_docs_say(name: str) -> None:
    config = preset(name)
    whole, without_copies = count_parameters(config)
    assert whole / 1e6 == pytest.approx(PARAMETERS[name][0], abs=5e-4)
    assert without_copies / 1e6 == pytest.approx(PARAMETERS[name][1], abs=5e-4)
    stages = {cost.name: cost for cost in stage_costs(config)}
    assert set(stages) == set(KINDS)
    for stage, gflop in TRAINING[name].items():
        assert stages[stage].flops / 1e9 == pytest.approx(gflop, rel=0.005)
    for stage, megabytes in WIRE[name].items():
        assert stages[stage].wire_bytes / 1e6 == pytest.approx(megabytes, rel=0.005)


def test_tiny_is_below_two_million_parameters_without_copies() -> None:
    assert count_parameters(preset("tiny"))[1] < 2_000_000


def test_generation_cost_extrapolates_exactly(micro: ModelConfig) -> None:
    config = micro
    two = replace(config, generator=replace(config.generator, head_steps=2))
    four = replace(config, generator=replace(config.generator, head_steps=4))
    one = replace(config, generator=replace(config.generator, head_steps=1))
    cost = [use_costs(c)[1].flops for c in (one, two, four)]
    assert cost[2] - cost[1] == 2 * (cost[1] - cost[0])
    model = build_model(four, device="meta").requires_grad_(False)
    ecg = torch.empty(1, 12, config.ecg.crop_samples, device="meta")
    with FlopCounterMode(display=False) as counter:
        model.generate(ecg, ecg[..., 0] > 0, generator=torch.Generator().manual_seed(0))
    assert cost[2] == counter.get_total_flops()


def test_cost_table_has_one_row_per_part_and_stage(micro: ModelConfig) -> None:
    rows = cost_rows(micro)
    assert len({tuple(row) for row in rows}) == 1
    names = [row["what"] for row in rows]
    assert names[: len(PARTS)] == [f"part {part}" for part in PARTS]
    assert [n for n in names if n.startswith("train ")] == [f"train {kind}" for kind in KINDS]


def test_tiny_is_the_default_configuration() -> None:
    assert digest(preset("tiny")) == digest(ModelConfig())


@pytest.mark.parametrize("name", PRESETS)
def test_preset_file_is_complete_and_round_trips(name: str) -> None:
    config = preset(name)
    path = resources.files("cardionets_core.conf") / "model" / f"{name}.yaml"
    written = to_mapping(config)
    for run_sets in ("num_phenotypes", "num_diseases"):
        del written[run_sets]
    assert yaml.safe_load(path.read_text()) == written
    assert build(ModelConfig, to_mapping(config)) == config


def test_paper_preset_is_the_paper() -> None:
    config = preset("paper")
    model = build_model(config, device="meta")
    encoder = model.ecg_encoder
    assert 84e6 < sum(p.numel() for p in encoder.parameters()) < 86e6
    assert 12 * (encoder.steps + 2) == 384
    assert model.cmr_encoder.patches == 36
    assert config.latent_grid == (25, 12, 12)
    assert config.tokenizer.latent_channels == 16
    assert (model.generator.count, model.generator.token_values) == (180, 320)
    assert config.generator.condition_tokens == 64


@pytest.mark.parametrize("name", PRESETS)
def test_shapes_of_every_preset(name: str) -> None:
    config = preset(name)
    model = build_model(config, device="meta").requires_grad_(False)
    size, cine = 2, config.cine
    ecg = torch.empty(size, 12, config.ecg.crop_samples, device="meta")
    leads = torch.ones(size, 12, device="meta") > 0
    images = torch.empty(
        size, len(cine.views), cine.phases, cine.size_px, cine.size_px, device="meta"
    )
    views = torch.ones(images.shape[:2], device="meta") > 0
    features = model.encode_ecg(ecg, leads)
    assert features.tokens.shape[::2] == (size, config.ecg_encoder.width)
    assert features.pooled.shape == (size, config.ecg_encoder.width)
    assert model.project_ecg(features.pooled).shape == (size, config.alignment.width)
    pooled = model.encode_cmr(images, views)
    assert model.project_cmr(pooled).shape == (size, config.alignment.width)
    latent = model.encode_latent(images[:, 0])
    assert latent.shape == (size, config.tokenizer.latent_channels, *config.latent_grid)
    assert model.decode_latent(latent).shape == images[:, 0].shape
    assert model.phenotypes(ecg, leads).shape == (size, config.num_phenotypes)
    assert model.diseases(ecg, leads).shape == (size, config.num_diseases)
    cines = model.generate(
        ecg, leads, generator=torch.Generator().manual_seed(0), ar_steps=2, head_steps=1
    )
    assert cines.shape == images[:, 0].shape


def test_parts_are_the_children() -> None:
    model = build_model(ModelConfig(), device="meta")
    assert tuple(name for name, _ in model.named_children()) == PARTS
    assert [cost.part for cost in part_costs(ModelConfig())] == list(PARTS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ecg_encoder": {"patch_samples": 33}}, "33 does not divide 250"),
        ({"cmr_encoder": {"patch_px": 7}}, "7 does not divide 64"),
        ({"generator": {"patch": [3, 2, 2]}}, "3 does not divide 4"),
        ({"generator": {"view": "2ch"}}, "'2ch' is not one of cine.views"),
        ({"tokenizer": {"widths": [32]}}, "one entry fewer"),
        ({"generator": {"haed": "flow"}}, "did you mean 'head'"),
    ],
)
def test_impossible_configurations_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(ModelConfig, values)


def test_a_federation_without_labels_still_builds() -> None:
    config = ModelConfig(num_phenotypes=0, num_diseases=0, generator=GeneratorConfig())
    model = build_model(config)
    ecg, leads = torch.zeros(2, 12, 250), torch.ones(2, 12, dtype=torch.bool)
    assert model.phenotypes(ecg, leads).shape == (2, 0)
    assert model.diseases(ecg, leads).shape == (2, 0)
