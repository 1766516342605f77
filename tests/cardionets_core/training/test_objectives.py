"""Every objective: independence of patients, missing data, gradients, options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from cardionets_core.batch import Batch
from cardionets_core.errors import ConfigError
from cardionets_core.model_config import ModelConfig
from cardionets_core.models.cardionet import PARTS, CardioNet, build_model
from cardionets_core.models.masking import choose_visible
from cardionets_core.training.generative import one_view
from cardionets_core.training.objectives import (
    KINDS,
    NEEDS,
    TRAINED_PARTS,
    Losses,
    make_objective,
)

MakeBatch = Callable[..., Batch]
PER_PATIENT = [n for n in KINDS if make_objective(n, {}, 0.5).per_patient]
SIZE = 5


def run(model: CardioNet, batch: Batch, name: str, *, seed: int = 0, **options: float) -> Losses:
    objective = make_objective(name, options, progress=0.5)
    noise = objective.draw(model, batch, torch.Generator().manual_seed(seed))
    return objective.loss(model, batch, noise)


@pytest.fixture(scope="module")
def model(micro: ModelConfig) -> CardioNet:
    net = build_model(micro, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # what starts at zero would hide what reaches it
        for parameter in net.parameters():
            if not parameter.any():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return net


@pytest.fixture
def batch(micro: ModelConfig, make_batch: MakeBatch) -> Batch:
    return make_batch(micro, SIZE)


def test_only_infonce_mixes_patients() -> None:
    assert set(KINDS) - set(PER_PATIENT) == {"contrastive"}


@pytest.mark.parametrize("name", KINDS)
def test_loss_is_finite_repeats_and_needs_its_noise(
    model: CardioNet, batch: Batch, name: str
) -> None:
    losses = run(model, batch, name)
    assert losses.per_patient.shape == (SIZE,)
    assert losses.per_patient.dtype == torch.float32
    assert torch.isfinite(losses.per_patient).all()
    assert (losses.per_patient > 0).all()
    assert all(t.shape == (SIZE,) and not t.requires_grad for t in losses.terms.values())
    assert torch.equal(losses.per_patient, run(model, batch, name).per_patient)
    objective = make_objective(name, {}, 0.5)
    noise = objective.draw(model, batch, torch.Generator().manual_seed(0))
    assert all(len(t) == SIZE for t in noise.values())
    other = run(model, batch, name, seed=1).per_patient
    assert torch.equal(losses.per_patient, other) == (not noise)


@pytest.mark.parametrize("name", KINDS)
def test_no_objective_touches_global_randomness(model: CardioNet, batch: Batch, name: str) -> None:
    before = torch.get_rng_state()
    run(model, batch, name)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", PER_PATIENT)
def test_a_patient_has_no_influence_on_the_loss_of_another(
    model: CardioNet, batch: Batch, make_batch: MakeBatch, micro: ModelConfig, name: str
) -> None:
    stranger = make_batch(micro, SIZE, seed=9)
    stranger.lead_mask[2, 4:] = False
    stranger.view_mask[2, 1] = False
    stranger.phenotype_mask[2, :3] = False
    keep = torch.arange(SIZE) != 2
    changed = Batch(
        **{
            f.name: torch.where(
                keep.view(-1, *[1] * (getattr(batch, f.name).dim() - 1)),
                getattr(batch, f.name),
                getattr(stranger, f.name),
            )
            for f in fields(Batch)
        }
    )
    objective = make_objective(name, {}, 0.5)
    noise = objective.draw(model, batch, torch.Generator().manual_seed(0))
    strange = objective.draw(model, batch, torch.Generator().manual_seed(1))
    mixed = {
        k: torch.where(keep.view(-1, *[1] * (v.dim() - 1)), v, strange[k]) for k, v in noise.items()
    }
    before = objective.loss(model, batch, noise).per_patient
    after = objective.loss(model, changed, mixed).per_patient
    assert torch.equal(before[keep], after[keep])
    assert not torch.equal(before[2], after[2])


@pytest.mark.parametrize("name", PER_PATIENT)
def test_a_slice_of_batch_and_noise_has_the_same_loss(
    model: CardioNet, batch: Batch, name: str
) -> None:
    objective = make_objective(name, {}, 0.5)
    noise = objective.draw(model, batch, torch.Generator().manual_seed(0))
    whole = objective.loss(model, batch, noise).per_patient
    part = objective.loss(model, batch.rows(slice(1, 3)), {k: v[1:3] for k, v in noise.items()})
    assert torch.allclose(whole[1:3], part.per_patient, atol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_masked_values_do_not_matter(model: CardioNet, batch: Batch, name: str) -> None:
    batch.lead_mask[0, 5:] = False
    batch.view_mask[1, 1] = False
    batch.phenotype_mask[2, 1:] = False
    batch.disease_mask[3, 0] = False
    junk = Batch(**{f.name: getattr(batch, f.name).clone() for f in fields(Batch)})
    junk.ecg[~batch.lead_mask] = 1e6
    junk.cine[~batch.view_mask] = -1e6
    junk.phenotypes[~batch.phenotype_mask] = 1e6
    junk.diseases[~batch.disease_mask] = 1.0
    assert torch.equal(run(model, batch, name).per_patient, run(model, junk, name).per_patient)


@pytest.mark.parametrize("name", KINDS)
def test_a_patient_who_has_nothing_gives_exactly_zero(
    model: CardioNet, batch: Batch, name: str
) -> None:
    for mask in (batch.lead_mask, batch.view_mask, batch.phenotype_mask, batch.disease_mask):
        mask[1] = False
    loss = run(model, batch, name).per_patient
    assert loss[1].item() == 0.0
    assert (loss[[0, 2, 3, 4]] > 0).all()
    loss.mean().backward()  # zeros must not turn into NaN on the way back
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in grads)
    model.zero_grad()


@pytest.mark.parametrize("name", KINDS)
def test_gradients_reach_all_trained_parts_and_no_frozen_one(
    micro: ModelConfig, batch: Batch, name: str
) -> None:
    net = build_model(micro, seed=4)
    for part in PARTS:
        net.get_submodule(part).requires_grad_(part in TRAINED_PARTS[name])
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    options = {"null_probability": 0.5} if name == "generative" else {}
    for seed in range(3):  # closed gates hold gradients back in the first steps
        optimizer.zero_grad()
        run(net, batch, name, seed=seed, **options).per_patient.mean().backward()
        optimizer.step()
    for part in PARTS:
        missing = {n for n, p in net.get_submodule(part).named_parameters() if p.grad is None}
        if part in TRAINED_PARTS[name]:
            assert missing == set(), part
            grads = [p.grad for p in net.get_submodule(part).parameters()]
            assert all(g is not None and bool((g != 0).any()) for g in grads), part
        else:
            assert len(missing) == len(list(net.get_submodule(part).parameters())), part


@pytest.mark.parametrize("name", KINDS)
def test_training_lowers_the_loss(micro: ModelConfig, batch: Batch, name: str) -> None:
    net = build_model(micro, seed=4)
    for part in PARTS:
        net.get_submodule(part).requires_grad_(part in TRAINED_PARTS[name])
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(30):
        loss = run(net, batch, name, seed=step % 2).per_patient.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-4:]) < 0.97 * np.mean(losses[:4])


def test_visible_ecg_is_all_that_the_encoder_sees(model: CardioNet, batch: Batch) -> None:
    """Changing hidden patches changes the target, never the prediction."""
    objective = make_objective("ecg_masked", {"mask_ratio": 0.5}, 0.0)
    noise = objective.draw(model, batch, torch.Generator().manual_seed(0))
    present = torch.ones(SIZE, 24, dtype=torch.bool)
    visible = choose_visible(noise["patches"], present, 0.5)
    changed = batch.ecg.reshape(SIZE, 24, 25).clone()
    changed[visible.hidden] += 5.0
    one = model.ecg_encoder.forward_visible(batch.ecg, batch.lead_mask, visible)
    two = model.ecg_encoder.forward_visible(changed.view_as(batch.ecg), batch.lead_mask, visible)
    assert torch.equal(one, two)


def test_unpaired_patients_are_no_negatives(model: CardioNet, batch: Batch) -> None:
    batch.view_mask[4] = False
    whole = run(model, batch, "contrastive", sigma=0.0).terms["alignment"]
    without = run(model, batch.rows(slice(0, 4)), "contrastive", sigma=0.0).terms["alignment"]
    assert torch.allclose(whole[:4], without, atol=1e-5)


@pytest.mark.parametrize("options", [{"freeze_cmr": 1.0}, {"descriptor_phenotypes": 1.0}])
def test_contrastive_options(micro: ModelConfig, batch: Batch, options: dict[str, float]) -> None:
    net = build_model(micro, seed=4)
    run(net, batch, "contrastive", **options).per_patient.mean().backward()
    frozen = all(p.grad is None for p in net.cmr_encoder.parameters())
    assert frozen == bool(options.get("freeze_cmr"))


def test_kl_is_off_for_the_first_fifth(model: CardioNet, batch: Batch) -> None:
    losses = {}
    for progress in (0.0, 0.19, 0.2, 0.9):
        objective = make_objective("tokenizer", {"kl_weight": 1.0}, progress)
        noise = objective.draw(model, batch, torch.Generator().manual_seed(0))
        losses[progress] = objective.loss(model, batch, noise)
    assert torch.equal(losses[0.0].per_patient, losses[0.0].terms["reconstruction"])
    assert torch.equal(losses[0.0].per_patient, losses[0.19].per_patient)
    added = losses[0.2].per_patient - losses[0.0].per_patient
    assert torch.allclose(added, losses[0.2].terms["divergence"], atol=1e-5)
    assert torch.equal(losses[0.9].per_patient, losses[0.2].per_patient)


def test_tokenizer_takes_the_generators_view_or_the_one_there_is(
    model: CardioNet, batch: Batch
) -> None:
    batch.view_mask[1] = torch.tensor([False, True])
    batch.view_mask[2] = False
    cine, known = one_view(model, batch)
    assert torch.equal(cine[0], batch.cine[0, 0])
    assert torch.equal(cine[1], batch.cine[1, 1])
    assert known.tolist() == [True, True, False, True, True]


def test_supervised_losses_against_their_formulas(model: CardioNet, batch: Batch) -> None:
    batch.phenotype_mask[0, 2:] = False
    batch.disease_mask[0, 1] = False
    predicted = model.phenotypes(batch.ecg, batch.lead_mask)
    expected = (predicted[0, :2] - batch.phenotypes[0, :2]).square().mean()
    assert torch.allclose(run(model, batch, "phenotypes").per_patient[0], expected)
    probability = model.diseases(batch.ecg, batch.lead_mask).sigmoid()[0, [0, 2]]
    label = batch.diseases[0, [0, 2]]
    expected = -(label * probability.log() + (1 - label) * (1 - probability).log()).mean()
    assert torch.allclose(run(model, batch, "diseases").per_patient[0], expected, atol=1e-5)


def test_state_space_encoder_and_pixel_tokenizer_train_too(
    micro: ModelConfig, batch: Batch
) -> None:
    config = replace(
        micro,
        ecg_encoder=replace(micro.ecg_encoder, kind="s4d", state_size=4),
        tokenizer=replace(micro.tokenizer, kind="pixel"),
        generator=replace(micro.generator, condition="vector", head="ddpm"),
    )
    net = build_model(config, seed=1)
    for name in ("ecg_masked", "contrastive", "generative", "phenotypes"):
        run(net, batch, name).per_patient.mean().backward()
    grads = [p.grad for p in net.ecg_encoder.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in grads)


def test_needs_and_parts_are_words_that_others_know() -> None:
    assert set().union(*NEEDS.values()) <= {"ecg", "cine", "phenotypes", "diseases"}
    assert set().union(*map(set, TRAINED_PARTS.values())) <= set(PARTS)


@pytest.mark.parametrize(
    ("name", "options", "progress", "message"),
    [
        ("contrastiv", {}, 0.0, "did you mean 'contrastive'"),
        ("contrastive", {"temprature": 0.1}, 0.0, "did you mean 'temperature'"),
        ("phenotypes", {"huber": 1.0}, 0.0, "Known options: none"),
        ("tokenizer", {}, 1.0, r"not in \[0, 1\)"),
    ],
)
def test_wrong_requests_are_refused(
    name: str, options: dict[str, float], progress: float, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_objective(name, options, progress)
