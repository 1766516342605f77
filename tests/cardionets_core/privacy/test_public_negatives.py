"""Contrastive alignment against public negatives: the loss by hand, and the bank of a step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cardionets_core.messages import TrainPlan
from cardionets_core.models.cardionet import build_model
from cardionets_core.privacy.bank import Negatives, bank_of
from cardionets_core.privacy.engines import clipped_sum, looped_sum
from cardionets_core.privacy.ghost import ghost_sum
from cardionets_core.privacy.mechanism import mechanism_for
from cardionets_core.privacy.objectives import bank_nce, private_objective
from cardionets_core.privacy.rng import PrivacyRandom
from cardionets_core.privacy.step import train_privately
from cardionets_core.privacy_config import PrivateTask
from cardionets_core.training.alignment import NEEDS, PARTS, info_nce
from cardionets_core.training.loop import freeze_all_but, make_optimizer
from tests.cardionets_core.privacy.paired_site import paired_site

OPTIONS = {"temperature": 0.1, "phenotype_weight": 0.0, "sigma": 0.0}
PUBLIC = PrivateTask(noise=1.0, rate=0.5, clip=0.05, steps=1, contrastive="public_negatives")


@pytest.fixture(scope="module")
def model(micro):
    torch.set_num_threads(1)
    return build_model(micro, seed=1)


@pytest.fixture(scope="module")
def patients(micro, make_batch):
    return make_batch(micro, 8, seed=3)


@pytest.fixture(scope="module")
def bank(micro):
    return bank_of(paired_site(micro, 12, seed=4, prefix="public"), own=paired_site(micro, 3))


def against(bank, **options):
    return private_objective("contrastive", OPTIONS | options, 0.0, task=PUBLIC, bank=bank)


def drawn(objective, model, batch):
    return objective.draw(model, batch, torch.Generator().manual_seed(0))


def test_rows_depend_on_their_own_patient_only(model, patients, bank):
    objective = against(bank, phenotype_weight=1.0, sigma=0.5)
    noise = drawn(objective, model, patients)
    alone = patients.rows(slice(3, 4))
    whole = objective.loss(model, patients, noise).per_patient[3]
    single = objective.loss(model, alone, drawn(objective, model, alone)).per_patient[0]
    torch.testing.assert_close(whole, single, rtol=1e-5, atol=1e-6)
    assert objective.per_patient


def test_engines_agree(model, patients, bank):
    objective = against(bank, phenotype_weight=1.0, sigma=0.5)
    freeze_all_but(model, PARTS)
    few = patients.rows(slice(0, 6))
    noise = drawn(objective, model, few)
    vmap = clipped_sum(model, few, noise, objective, trains=PARTS, clip=1.0, chunk=4)
    loop = looped_sum(model, few, noise, objective, trains=PARTS, clip=1.0)
    ghost = ghost_sum(model, few, noise, objective, trains=PARTS, clip=1.0, chunk=4)
    for name in loop:
        torch.testing.assert_close(vmap[name], loop[name], rtol=0, atol=1e-5)
        torch.testing.assert_close(ghost[name], loop[name], rtol=0, atol=1e-5)


def test_with_the_other_patient_as_bank_it_is_info_nce():
    unit = torch.nn.functional.normalize
    generator = torch.Generator().manual_seed(0)
    ecg, cmr = (unit(torch.randn(2, 6, generator=generator), dim=1) for _ in range(2))
    weights = torch.tensor([[1.0, 0.3], [0.7, 1.0]])
    other = weights.flip(1).diagonal()[:, None]
    nothing = torch.zeros(2, 1)
    negatives = Negatives(
        ecg.flip(0)[:, None], cmr.flip(0)[:, None], nothing, nothing, *[nothing] * 4
    )
    found = bank_nce(ecg, cmr, negatives, to_ecg=other, to_cmr=other, temperature=0.2)
    torch.testing.assert_close(found, info_nce(ecg, cmr, weights, temperature=0.2))


def test_one_patient_by_hand():
    """One ECG at 0 degrees, own CMR at 60, a public CMR at 90 and a public ECG at 0 degrees."""
    ecg, cmr = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.75**0.5]])
    nothing = torch.zeros(1, 1)
    negatives = Negatives(
        torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]]), nothing, nothing, *[nothing] * 4
    )
    ones = torch.ones(1, 1)
    found = bank_nce(ecg, cmr, negatives, to_ecg=ones, to_cmr=0.5 * ones, temperature=0.5)
    forwards = np.log(1 + 0.5 * np.exp((0.0 - 0.5) / 0.5))
    backwards = np.log(1 + np.exp((0.5 - 0.5) / 0.5))
    assert found.item() == pytest.approx((forwards + backwards) / 2, rel=1e-6)


@pytest.mark.parametrize("by_phenotypes", [0.0, 1.0])
def test_a_negative_like_the_patient_does_not_count(model, patients, bank, by_phenotypes):
    """The bank's first CMR is made the patient's double: where it lies is of no account then."""
    objective = against(bank, sigma=0.5, descriptor_phenotypes=by_phenotypes)
    one = patients.rows(slice(0, 1))
    noise = {k: v.clone() for k, v in drawn(objective, model, one).items()}
    noise["descriptor"][:, 0] = model.encode_cmr(one.cine, one.view_mask).detach()
    noise["cmr_phenotypes"][:, 0] = one.phenotypes

    def loss(away):
        """Return the loss with one CMR of the bank put opposite to where it is."""
        cmr = noise["cmr"].clone()
        cmr[:, away] *= -1
        return objective.loss(model, one, noise | {"cmr": cmr}).per_patient.item()

    plain = objective.loss(model, one, noise).per_patient.item()
    assert loss(0) == pytest.approx(plain, rel=1e-6)
    assert loss(1) != pytest.approx(plain, rel=1e-3)


def test_an_unknown_distance_leaves_a_negative_at_full_weight(model, patients, bank):
    weighted = against(bank, sigma=0.5, descriptor_phenotypes=1.0)
    noise = drawn(weighted, model, patients)
    unknown = {k: torch.zeros_like(v) if k.endswith("_known") else v for k, v in noise.items()}
    found = weighted.loss(model, patients, unknown).per_patient
    torch.testing.assert_close(found, against(bank).loss(model, patients, noise).per_patient)


# ---------------------------------------------------------------------- a step's bank


def test_the_bank_is_embedded_once_a_step_without_gradient(micro, patients, bank):
    model = build_model(micro, seed=2)
    freeze_all_but(model, PARTS)
    objective = against(bank)
    first = drawn(objective, model, patients.rows(slice(0, 1)))
    again = objective.draw(model, patients.rows(slice(0, 5)), torch.Generator().manual_seed(8))
    assert again["ecg"].data_ptr() == first["ecg"].data_ptr()  # not once per patient
    assert len(again["ecg"]) == 5
    assert not any(t.requires_grad for t in again.values())
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    make_optimizer(trained, plan()).step()
    after = drawn(objective, model, patients.rows(slice(0, 1)))
    assert not torch.allclose(after["ecg"], first["ecg"])


def test_private_training_against_a_bank_runs_and_moves_the_parts(micro, bank):
    site, trained = paired_site(micro, 12), build_model(micro, seed=2)
    before = {n: p.detach().clone() for n, p in trained.named_parameters()}
    task = replace(PUBLIC, steps=2)
    train_privately(
        trained,
        site,
        against(bank, phenotype_weight=1.0),
        trains=PARTS,
        needs=NEEDS,
        plan=plan(),
        mechanism=mechanism_for(task, stage="contrastive", patients=12),
        rng=PrivacyRandom(),
        seed=3,
        device=torch.device("cpu"),
    )
    after = dict(trained.named_parameters())
    changed = {n.split(".")[0] for n in before if not torch.equal(before[n], after[n])}
    assert changed == set(PARTS)


def plan():
    return TrainPlan(
        local_epochs=1,
        batch_size=8,
        lr=1e-3,
        weight_decay=0.0,
        clip_norm=0.0,
        max_steps=2,
        progress=0.0,
    )
