from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from cardionets_core.batch import Batch
from cardionets_core.model_config import HeadConfig, ModelConfig
from cardionets_core.models.cardionet import CardioNet, build_model

MakeBatch = Callable[..., Batch]


def kinds(micro: ModelConfig) -> dict[str, ModelConfig]:
    """The micro configuration with each alternative kind of part."""
    encoder = micro.ecg_encoder
    return {
        "default": micro,
        "separators": replace(micro, ecg_encoder=replace(encoder, separators=True, embed="linear")),
        "s4d": replace(micro, ecg_encoder=replace(encoder, kind="s4d", state_size=4)),
        "class token": replace(micro, cmr_encoder=replace(micro.cmr_encoder, pool="cls")),
        "pixel": replace(micro, tokenizer=replace(micro.tokenizer, kind="pixel")),
        "paper's generator": replace(
            micro, generator=replace(micro.generator, condition="vector", head="ddpm", head_steps=6)
        ),
        "shared heads": replace(
            micro,
            phenotype_head=HeadConfig(encoder="shared", hidden=8),
            disease_head=HeadConfig(encoder="shared"),
        ),
    }


KINDS = (
    "default",
    "separators",
    "s4d",
    "class token",
    "pixel",
    "paper's generator",
    "shared heads",
)


def sample(model: CardioNet, batch: Batch, *, seed: int = 0, **options: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return model.generate(batch.ecg, batch.lead_mask, generator=generator, **options)  # type: ignore[arg-type]


def open_gates(model: CardioNet, seed: int = 5) -> CardioNet:
    """Give zero-started weights a value, so that every input can reach the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in (
            model.generator.head,
            model.ecg_projector.regress,
            model.phenotype_head.readout,
            model.disease_head.readout,
        ):
            for parameter in part.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_builds_runs_and_generates(
    micro: ModelConfig, make_batch: MakeBatch, kind: str
) -> None:
    config = kinds(micro)[kind]
    model, batch = build_model(config, seed=1), make_batch(config, 3)
    pooled = model.encode_ecg(batch.ecg, batch.lead_mask).pooled
    assert torch.allclose(model.project_ecg(pooled).norm(dim=1), torch.ones(3), atol=1e-5)
    cines = sample(model, batch)
    assert cines.shape == (3, 4, 16, 16)
    assert torch.isfinite(cines).all()
    assert cines.abs().max() <= 1.0
    assert model.phenotypes(batch.ecg, batch.lead_mask).shape == (3, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_follow_from_config_and_seed(micro: ModelConfig, kind: str) -> None:
    config = kinds(micro)[kind]
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first, again, other = (build_model(config, seed=s).state_dict() for s in (7, 7, 8))
    assert torch.equal(torch.get_rng_state(), before)  # no global state is used
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)
    assert all(torch.isfinite(v).all() for v in first.values())


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_in_an_absent_lead_or_view_never_matters(
    micro: ModelConfig, make_batch: MakeBatch, kind: str
) -> None:
    config = kinds(micro)[kind]
    model, batch = open_gates(build_model(config, seed=1)), make_batch(config, 3)
    batch.lead_mask[:, 3] = False
    batch.lead_mask[1, 6:] = False
    batch.view_mask[2, 1] = False
    junk = replace(batch, ecg=batch.ecg.clone(), cine=batch.cine.clone())
    junk.ecg[~batch.lead_mask] = torch.nan
    junk.cine[~batch.view_mask] = 1e9
    for one, two in (
        (model.encode_ecg(b.ecg, b.lead_mask).pooled for b in (batch, junk)),
        (model.encode_cmr(b.cine, b.view_mask) for b in (batch, junk)),
        (model.phenotypes(b.ecg, b.lead_mask) for b in (batch, junk)),
        (sample(model, b) for b in (batch, junk)),
    ):
        assert torch.isfinite(one).all()
        assert torch.equal(one, two)
    changed = batch.ecg.clone()
    changed[0, 0] += 1.0
    assert not torch.equal(
        model.encode_ecg(changed, batch.lead_mask).pooled,
        model.encode_ecg(batch.ecg, batch.lead_mask).pooled,
    )


def test_a_patient_without_leads_or_views_is_finite(
    micro: ModelConfig, make_batch: MakeBatch
) -> None:
    model, batch = build_model(micro), make_batch(micro, 2)
    batch.lead_mask[0] = False
    batch.view_mask[0] = False
    assert torch.isfinite(model.encode_ecg(batch.ecg, batch.lead_mask).pooled).all()
    assert torch.isfinite(model.encode_cmr(batch.cine, batch.view_mask)).all()


def test_order_of_leads_is_known_to_the_encoder(micro: ModelConfig, make_batch: MakeBatch) -> None:
    model, batch = build_model(micro), make_batch(micro, 2)
    swapped = batch.ecg.flip(1)
    one = model.encode_ecg(batch.ecg, batch.lead_mask).pooled
    assert not torch.allclose(one, model.encode_ecg(swapped, batch.lead_mask).pooled, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_round_trip(micro: ModelConfig, make_batch: MakeBatch, kind: str) -> None:
    config = kinds(micro)[kind]
    model, batch = open_gates(build_model(config, seed=1)), make_batch(config, 2)
    model.update_latent_statistics([batch])
    copy = build_model(config, seed=2)
    copy.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(sample(model, batch), sample(copy, batch))
    assert torch.equal(
        model.diseases(batch.ecg, batch.lead_mask), copy.diseases(batch.ecg, batch.lead_mask)
    )


@pytest.mark.parametrize("kind", ["default", "paper's generator"])
def test_generation_repeats_and_listens_to_the_ecg(
    micro: ModelConfig, make_batch: MakeBatch, kind: str
) -> None:
    config = kinds(micro)[kind]
    model, batch = open_gates(build_model(config, seed=1)), make_batch(config, 3)
    plain = sample(model, batch)
    assert torch.equal(plain, sample(model, batch))
    assert not torch.equal(plain, sample(model, batch, seed=1))
    assert torch.equal(sample(model, batch, guidance=1.0), sample(model, batch, guidance=1))
    other = replace(batch, ecg=batch.ecg.flip(0))
    assert not torch.equal(plain, sample(model, other))
    assert torch.equal(
        sample(model, batch, conditional=False), sample(model, other, conditional=False)
    )


def test_guidance_of_one_is_conditional_and_more_moves_away(
    micro: ModelConfig, make_batch: MakeBatch
) -> None:
    config = replace(micro, generator=replace(micro.generator, guidance=2.5))
    model, batch = open_gates(build_model(config, seed=1)), make_batch(config, 3)
    conditional, free = sample(model, batch, guidance=1.0), sample(model, batch, conditional=False)
    guided = sample(model, batch)
    assert not torch.equal(guided, conditional)
    # Guidance that goes to 1 goes to the conditional sample, though it takes the doubled batch.
    nearly = sample(model, batch, guidance=1.0 + 1e-6)
    assert torch.allclose(nearly, conditional, atol=1e-4)
    assert not torch.allclose(free, conditional, atol=1e-4)


def test_heads_start_from_the_aligned_encoder(micro: ModelConfig, make_batch: MakeBatch) -> None:
    model, batch = open_gates(build_model(micro, seed=1)), make_batch(micro, 2)
    before = build_model(micro, seed=1).phenotypes(batch.ecg, batch.lead_mask)
    model.start_head("phenotype_head")
    model.start_head("disease_head")
    pooled = model.encode_ecg(batch.ecg, batch.lead_mask).pooled
    assert torch.equal(before, torch.zeros(2, 5))  # starts at the mean prediction
    assert torch.equal(
        model.phenotypes(batch.ecg, batch.lead_mask), model.ecg_projector.phenotypes(pooled)
    )
    with torch.no_grad():  # a copy, not a tie
        for parameter in model.phenotype_head.parameters():
            parameter.zero_()
    assert torch.equal(pooled, model.encode_ecg(batch.ecg, batch.lead_mask).pooled)


@pytest.mark.parametrize("kind", ["default", "paper's generator"])
def test_heads_stay_in_fp32_under_autocast(
    micro: ModelConfig, make_batch: MakeBatch, kind: str
) -> None:
    config = kinds(micro)[kind]
    model, batch = build_model(config, seed=1), make_batch(config, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = model.encode_ecg(batch.ecg, batch.lead_mask)
        assert model.project_ecg(features.pooled).dtype == torch.float32
        assert model.phenotypes(batch.ecg, batch.lead_mask).dtype == torch.float32
        assert torch.isfinite(sample(model, batch)).all()
