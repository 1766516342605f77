"""Contrastive alignment under privacy: what one patient can move, and controls that must fail.

The attack in all of them: add one patient with an extreme ECG and measure how far the sum of
clipped gradients moves, in units of C, on the model and the loss that sites train with.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from cardionets_core.batch import Batch
from cardionets_core.errors import ConfigError
from cardionets_core.models.cardionet import build_model
from cardionets_core.privacy.bank import bank_of
from cardionets_core.privacy.engines import bucket_sum, clipped_sum
from cardionets_core.privacy.ghost import ghost_sum
from cardionets_core.privacy.objectives import (
    is_decomposable,
    private_objective,
)
from cardionets_core.privacy_config import PrivateTask
from cardionets_core.training import objectives as registry
from cardionets_core.training.alignment import CONTRASTIVE, PARTS, info_nce
from cardionets_core.training.loop import freeze_all_but
from cardionets_core.training.objective import Objective, no_noise
from cardionets_core.training.objectives import make_objective
from tests.cardionets_core.privacy.paired_site import paired_site

C = 0.05
"""Small against the gradients, so that every one of them is clipped."""

OPTIONS = {"temperature": 0.1, "phenotype_weight": 0.0, "sigma": 0.0}
BUCKET = PrivateTask(noise=1.0, rate=0.5, clip=C, steps=1)
PUBLIC = replace(BUCKET, contrastive="public_negatives")


@pytest.fixture(scope="module")
def aligned(micro, make_batch):
    """A model that has been aligned a little: gradients of a fresh one hardly depend on others."""
    torch.set_num_threads(1)
    model = build_model(micro, seed=1)
    freeze_all_but(model, PARTS)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 3e-3)
    batch = make_batch(micro, 24, seed=3)
    for _ in range(20):
        optimizer.zero_grad()
        contrastive().loss(model, batch, {}).per_patient.mean().backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def patients(micro, make_batch):
    return make_batch(micro, 24, seed=3)


@pytest.fixture(scope="module")
def outliers(micro, make_batch):
    batch = make_batch(micro, 8, seed=9)
    return replace(batch, ecg=30 * batch.ecg)


@pytest.fixture(scope="module")
def bank(micro):
    return bank_of(paired_site(micro, 12, seed=4, prefix="public"), own=paired_site(micro, 3))


def contrastive(**options):
    return make_objective("contrastive", OPTIONS | options, 0.0)


def against(bank, **options):
    return private_objective("contrastive", OPTIONS | options, 0.0, task=PUBLIC, bank=bank)


def joined(one, other):
    both = {f.name: torch.cat([getattr(one, f.name), getattr(other, f.name)]) for f in fields(one)}
    return Batch(**both)


def drawn(objective, model, batch):
    return objective.draw(model, batch, torch.Generator().manual_seed(0))


def moved(one, other):
    """Return the distance of two sums in units of C."""
    return torch.cat([(one[n] - other[n]).flatten() for n in one]).norm().item() / C


# ------------------------------------------------------------------- what holds


def test_against_public_negatives_one_patient_moves_the_sum_by_c(aligned, patients, outliers, bank):
    objective = against(bank)

    def engine(batch):
        noise = drawn(objective, aligned, batch)
        return clipped_sum(aligned, batch, noise, objective, trains=PARTS, clip=C, chunk=8)

    base = engine(patients)
    moves = [moved(engine(joined(outliers.rows(slice(i, i + 1)), patients)), base) for i in (0, 5)]
    assert 0.99 < max(moves) <= 1.0


def test_in_buckets_one_patient_moves_the_sum_by_more_than_c_and_at_most_2c(
    aligned, patients, outliers
):
    objective = private_objective("contrastive", OPTIONS, 0.0, task=BUCKET)
    labels = np.random.default_rng(0).integers(0, 5, 25)

    def engine(batch, own):
        return bucket_sum(aligned, batch, {}, objective, trains=PARTS, clip=C, labels=own)

    base = engine(patients, labels[:24])
    moves = [
        moved(engine(joined(patients, outliers.rows(slice(i, i + 1))), labels), base)
        for i in range(8)
    ]
    assert 1.2 < max(moves) <= 2.0  # above C: noise for C alone would be too little


def test_the_whole_loss_of_a_bucket_stays_in_it(aligned, patients):
    """Weights of negatives and regression included: other buckets do not notice a patient."""
    objective = contrastive(phenotype_weight=1.0, sigma=0.5)
    labels = np.arange(24) % 6
    keep = torch.from_numpy(np.flatnonzero(np.arange(24) != 7))

    def of(batch, own, label):
        rows = torch.from_numpy(np.flatnonzero(own == label))
        zeros = np.zeros(len(rows), dtype=np.int64)
        return bucket_sum(
            aligned, batch.rows(rows), {}, objective, trains=PARTS, clip=C, labels=zeros
        )

    for label in range(6):
        change = moved(of(patients, labels, label), of(patients.rows(keep), labels[keep], label))
        assert (change > 0.01) == (label == 7 % 6)


def test_alone_in_a_bucket_adds_exactly_nothing(aligned, patients):
    options = {"phenotype_weight": 1.0}
    objective = private_objective("contrastive", options, 0.0, task=BUCKET)
    labels = np.array([0, 1, 2])
    found = bucket_sum(
        aligned, patients.rows(slice(0, 3)), {}, objective, trains=PARTS, clip=C, labels=labels
    )
    assert all(not v.any() for v in found.values())


# -------------------------------------------------------- controls that must fail


def test_control_opacus_and_infonce_break_the_bound(aligned, patients, outliers):
    """Opacus' rules give each patient a gradient of the mixed loss; clipping it bounds nothing."""
    objective = contrastive()
    freeze_all_but(aligned, PARTS)

    def engine(batch):
        given = (aligned, batch, {}, objective)
        return ghost_sum(*given, trains=PARTS, clip=C, chunk=len(batch))

    base = engine(patients)
    assert moved(engine(joined(patients, outliers.rows(slice(0, 1)))), base) > 4
    # Nor is it the outlier alone: an ordinary patient who leaves moves it by more than C too.
    assert max(moved(engine(patients.rows(others(i))), base) for i in range(6)) > 1.5


@pytest.mark.filterwarnings("ignore:Full backward hook")  # Opacus' hooks, on a tower's inputs
def test_control_plain_opacus_as_people_use_it_breaks_the_bound():
    """GradSampleModule and DPOptimizer, two linear towers, our InfoNCE."""
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    class Towers(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.ecg, self.cmr = torch.nn.Linear(16, 8), torch.nn.Linear(16, 8)

        def forward(self, ecg, cmr):
            unit = torch.nn.functional.normalize
            return unit(self.ecg(ecg), dim=1), unit(self.cmr(cmr), dim=1)

    def loss(towers, rows):
        ones = torch.ones(len(rows), len(rows))
        return info_nce(*towers(ecg[rows], cmr[rows]), ones, temperature=0.1).sum()

    torch.manual_seed(0)
    heart, strange = torch.randn(48, 16), 30 * torch.randn(6, 16)
    ecg = torch.cat([heart, strange])
    cmr = torch.cat([heart.flip(1) + 0.3 * torch.randn(48, 16), 30 * torch.randn(6, 16)])
    towers, everyone = Towers(), torch.arange(48)
    optimizer = torch.optim.Adam(towers.parameters(), 3e-2)
    for _ in range(30):
        optimizer.zero_grad()
        loss(towers, everyone).backward()
        optimizer.step()
    sampled = GradSampleModule(towers, loss_reduction="sum")

    def clipped(rows):
        inner = torch.optim.SGD(sampled.parameters(), lr=0.0)
        private = DPOptimizer(
            inner,
            noise_multiplier=0.0,
            max_grad_norm=C,
            expected_batch_size=1,
            loss_reduction="sum",
        )
        private.zero_grad()
        loss(sampled, rows).backward()
        private.clip_and_accumulate()
        total = {str(i): p.summed_grad.double() for i, p in enumerate(private.params)}
        private.zero_grad()
        return total

    base = clipped(everyone)
    moves = [moved(clipped(torch.cat([everyone, torch.tensor([48 + k])])), base) for k in range(6)]
    assert max(moves) > 1.5


def test_control_chunks_in_order_break_the_bound(aligned, micro, make_batch, outliers):
    """A patient who comes first moves everybody behind into another chunk."""
    objective, many = contrastive(), make_batch(micro, 96, seed=5)

    def engine(batch):
        chunks = np.arange(len(batch)) // 3
        return bucket_sum(aligned, batch, {}, objective, trains=PARTS, clip=C, labels=chunks)

    assert moved(engine(joined(outliers.rows(slice(0, 1)), many)), engine(many)) > 3


def others(patient, count=24):
    return torch.from_numpy(np.flatnonzero(np.arange(count) != patient))


# ------------------------------------------------------------------------- refusals


def test_only_contrastive_mixes_patients():
    assert [name for name in registry.KINDS if not is_decomposable(name)] == ["contrastive"]


@pytest.mark.parametrize("name", [n for n in registry.KINDS if n != "contrastive"])
def test_sums_over_patients_stay_as_they_are(name):
    assert private_objective(name, {}, 0.0, task=BUCKET).per_patient


def test_public_negatives_without_a_bank_are_refused():
    with pytest.raises(ConfigError, match=r"privacy\.bank.*contrastive=bucket"):
        private_objective("contrastive", {}, 0.0, task=PUBLIC)


def test_a_mixing_loss_without_a_private_form_is_refused(monkeypatch):
    def make(options, progress):
        return Objective("huddle", no_noise, contrastive().loss, per_patient=False)

    kind = replace(CONTRASTIVE, name="huddle", make=make)
    monkeypatch.setitem(registry.KINDS, "huddle", kind)
    with pytest.raises(ConfigError, match=r"clipping per patient bounds nothing.*no private form"):
        private_objective("huddle", {}, 0.0, task=BUCKET)


def test_an_unknown_way_is_refused_with_what_to_choose():
    with pytest.raises(ConfigError, match=r"choose public_negatives .* or bucket"):
        private_objective("contrastive", {}, 0.0, task=replace(BUCKET, contrastive="none"))
