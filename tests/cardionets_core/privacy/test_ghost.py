"""The ghost engine says what one patient at a time says, or refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from cardionets_core.errors import PrivacyError
from cardionets_core.privacy.engines import looped_sum
from cardionets_core.privacy.ghost import ghost_sum, require_agreement
from cardionets_core.training.loop import freeze_all_but
from cardionets_core.training.objective import Losses, Objective, no_noise
from cardionets_core.training.objectives import KINDS, make_objective

PER_PATIENT = [name for name in KINDS if make_objective(name, {}, 0.5).per_patient]
OTHERS = ("ecg_masked", "cmr_masked", "tokenizer", "generative")
CASES = [("micro", name) for name in PER_PATIENT] + [("paper", name) for name in OTHERS]
CLIP = 0.05


@pytest.fixture
def config(request, micro):
    if request.param == "paper":
        return replace(
            micro,
            ecg_encoder=replace(micro.ecg_encoder, embed="linear", separators=True),
            cmr_encoder=replace(micro.cmr_encoder, pool="cls"),
            tokenizer=replace(micro.tokenizer, stem=(1, 1, 1), strides=((2, 4, 4),)),
            generator=replace(micro.generator, condition="vector", head="ddpm"),
            alignment=replace(micro.alignment, hidden=16),
            disease_head=replace(micro.disease_head, hidden=8),
        )
    return micro


def prepared(name, model, batch):
    """Return the objective, what it trains and what it draws; some patients lack records."""
    objective, trains = make_objective(name, {}, 0.5), KINDS[name].parts
    batch.lead_mask[1, 6:] = False
    batch.lead_mask[3] = False
    batch.view_mask[2, 1] = False
    batch.view_mask[4] = False
    freeze_all_but(model, trains)
    return objective, trains, objective.draw(model, batch, torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("config", "name"), CASES, indirect=["config"])
def test_ghost_is_one_patient_at_a_time(name, config, moved_model, make_batch, in_float64, length):
    """Views, tokens and draws that a part folds into its rows are clipped with their patient."""
    model, batch = moved_model(config), make_batch(config, 6, seed=5)
    objective, trains, noise = prepared(name, model, batch)
    model, batch, noise = in_float64(model, batch, noise)
    loop = looped_sum(model, batch, noise, objective, trains=trains, clip=CLIP)
    found = ghost_sum(model, batch, noise, objective, trains=trains, clip=CLIP, chunk=4)
    assert length(loop) > CLIP
    assert length(found, loop) < 1e-6 * CLIP


@pytest.mark.parametrize("name", OTHERS)
def test_a_patient_moves_it_by_c_at_most_in_float32(name, micro, moved_model, make_batch, length):
    model, batch = moved_model(), make_batch(micro, 9, seed=5)
    objective, trains = make_objective(name, {}, 0.5), KINDS[name].parts
    freeze_all_but(model, trains)
    noise = objective.draw(model, batch, torch.Generator().manual_seed(1))
    sums = []
    for rows in (slice(0, 9), slice(1, 9)):
        drawn = {k: v[rows] for k, v in noise.items()}
        there = (model, batch.rows(rows), drawn, objective)
        sums.append(ghost_sum(*there, trains=trains, clip=CLIP, chunk=4))
    assert 0.9 * CLIP < length(*sums) <= CLIP


def test_the_hooks_are_gone_afterwards(moved_model, make_batch, micro):
    model, batch = moved_model(), make_batch(micro, 6, seed=5)
    objective, trains, noise = prepared("ecg_masked", model, batch)
    ghost_sum(model, batch, noise, objective, trains=trains, clip=CLIP, chunk=4)
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_linear_losses_reach_c(linear, heavy_tailed, length):
    """Each cohort reaches C: who leaves has the largest gradient, which is clipped."""
    worst = 0.0
    for seed in range(10):
        values = heavy_tailed(seed, patients=12)
        model, batch, objective = linear(values)
        dropped = int(np.linalg.norm(values, axis=1).argmax())
        rows = torch.tensor([i for i in range(12) if i != dropped])
        sums = [
            ghost_sum(model, b, {}, objective, trains=("part",), clip=1.0, chunk=8)
            for b in (batch, batch.rows(rows))
        ]
        worst = max(worst, length(*sums))
    assert 0.99 < worst <= 1.0


def test_a_bad_gradient_adds_exactly_nothing(linear, length):
    values = np.array([[0.3, 0.1], [np.nan, 1.0], [0.2, -0.4]])

    def summed(values):
        model, batch, objective = linear(values)
        return ghost_sum(model, batch, {}, objective, trains=("part",), clip=1.0, chunk=2)

    assert length(summed(values), summed(values[[0, 2]])) < 1e-15
    assert length(summed(values[[1]])) == 0.0
    assert length(summed(np.zeros((0, 2)))) == 0.0


@pytest.mark.parametrize("name", PER_PATIENT)
def test_real_objectives_agree_on_made_up_patients(name, moved_model):
    model, trains = moved_model(), KINDS[name].parts
    freeze_all_but(model, trains)
    before = {n: p.clone() for n, p in model.named_parameters()}
    require_agreement(model, make_objective(name, {}, 0.5), trains)
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())


def test_what_one_mask_hides_is_found_under_another(moved_model):
    """A loss that mixes only where the second draw's mask lies, and not the first's."""
    model = moved_model()
    freeze_all_but(model, ("phenotype_head",))
    draws = []

    def draw(model, batch, generator):
        draws.append(torch.rand(len(batch), generator=generator))
        return {"where": torch.full((len(batch),), float(len(draws) > 1))}

    def loss(model, batch, noise):
        found = model.phenotypes(batch.ecg, batch.lead_mask)
        others = noise["where"][:, None] * found.mean(0)
        return Losses((found - others).square().mean(1), {})

    with pytest.raises(PrivacyError, match="mixes patients"):
        require_agreement(
            model, Objective("masked", draw, loss, per_patient=True), ("phenotype_head",)
        )
    assert not torch.equal(draws[0], draws[1])


class TokensFirst(nn.Module):
    """A head that puts tokens before patients, as some flatten them: rows are not patients."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(25, 4)

    def forward(self, tokens):
        batch, count, values = tokens.shape
        rows = tokens.transpose(0, 1).reshape(count * batch, values)
        return self.head(rows).view(count, batch, -1).transpose(0, 1)


def tokens_first_loss(model, batch, noise):
    patches = batch.ecg.unflatten(2, (-1, 25)).flatten(1, 2)
    return Losses(model.tokens(patches).square().flatten(1).mean(1), {})


def mixing_loss(share):
    def loss(model, batch, noise):
        found = model.phenotypes(batch.ecg, batch.lead_mask)
        return Losses((found - share * found.mean(0)).square().mean(1), {})

    return loss


def test_tokens_folded_into_the_batch_are_found(moved_model):
    """The control: each token would be clipped to C by itself, with shapes that all agree."""
    model = moved_model()
    model.tokens = TokensFirst()
    freeze_all_but(model, ("tokens",))
    objective = Objective("tokens_first", no_noise, tokens_first_loss, per_patient=True)
    with pytest.raises(PrivacyError, match="folds tokens into the batch"):
        require_agreement(model, objective, ("tokens",))


@pytest.mark.parametrize("share", [1.0, 0.02])
def test_a_loss_that_mixes_patients_is_found(moved_model, share):
    """Also where the others are a fiftieth of what a patient is compared with."""
    model = moved_model()
    freeze_all_but(model, ("phenotype_head",))
    objective = Objective("mixing", no_noise, mixing_loss(share), per_patient=True)
    with pytest.raises(PrivacyError, match="mixes patients") as error:
        require_agreement(model, objective, ("phenotype_head",))
    assert error.value.code == "privacy_plan"
