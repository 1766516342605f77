"""One full-batch step on three unequal sites, averaged exactly, is one step on all patients."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from cardionets_core.batch import Batch
from cardionets_core.checkpoint import part_arrays
from cardionets_core.models.cardionet import build_model
from cardionets_core.training.loop import freeze_all_but
from cardionets_core.training.objectives import make_objective
from cardionets_core.training.stages import HEADS, STAGES
from server.aggregation import ExactMean
from server.strategies.averaging import fedavg

SITES = (slice(0, 3), slice(3, 10), slice(10, 15))
PATIENTS = 15
LEARNING_RATE = 0.4
PER_PATIENT = ("ecg_masked", "cmr_masked", "tokenizer", "generative", "phenotypes", "diseases")


@pytest.fixture(scope="module")
def patients(micro, make_batch):
    """Fifteen patients, some of whom lack leads, a view, phenotypes or labels."""
    batch = make_batch(micro, PATIENTS, seed=5)
    batch.lead_mask[1, 6:] = False
    batch.view_mask[4, 1] = False
    batch.phenotype_mask[7, :3] = False
    batch.disease_mask[11, 0] = False
    for values, mask in (
        (batch.ecg, batch.lead_mask),
        (batch.cine, batch.view_mask),
        (batch.phenotypes, batch.phenotype_mask),
        (batch.diseases, batch.disease_mask),
    ):
        values[~mask] = 0.0
    return batch


@pytest.fixture(scope="module")
def model(micro):
    model = build_model(micro, seed=3)
    for part in HEADS.values():
        model.start_head(part)
    return model


def weights_of(model, parts):
    return {part: part_arrays(model, part) for part in parts}


def one_step(model, stage, objective, batch: Batch, noise):
    """Return how one step of plain gradient descent over a whole batch changes the weights."""
    model = copy.deepcopy(model)
    freeze_all_but(model, stage.trains)
    before = weights_of(model, stage.trains)
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE
    )
    objective.loss(model, batch, noise).per_patient.mean().backward()
    optimizer.step()
    after = weights_of(model, stage.trains)
    return {p: {n: after[p][n] - before[p][n] for n in before[p]} for p in before}


def federated_and_pooled(model, name, batch):
    """Return the weights after one step both ways and the largest change of the pooled one."""
    stage = STAGES[name]
    # Beyond the first fifth of the stage, so that the tokenizer's KL term counts.
    objective = make_objective(name, {}, progress=0.5)
    noise = objective.draw(model, batch, torch.Generator().manual_seed(11))
    before = weights_of(model, stage.trains)
    mean = ExactMean()
    for rows in SITES:
        part, its_noise = batch.rows(rows), {k: v[rows] for k, v in noise.items()}
        mean.fold(one_step(model, stage, objective, part, its_noise), len(part))
    step = one_step(model, stage, objective, batch, noise)
    pooled = {p: {n: before[p][n] + d for n, d in arrays.items()} for p, arrays in step.items()}
    moved = max(float(np.abs(d).max()) for arrays in step.values() for d in arrays.values())
    return fedavg(before, mean.mean()), pooled, moved


def largest_difference(a, b):
    return max(float(np.abs(a[p][n] - b[p][n]).max()) for p in b for n in b[p])


@pytest.mark.parametrize("name", PER_PATIENT)
def test_federated_equals_pooled(model, patients, name):
    assert make_objective(name, {}, progress=0.5).per_patient
    federated, pooled, moved = federated_and_pooled(model, name, patients)
    assert moved > 1e-3, "the step is too small for the comparison to mean anything"
    assert largest_difference(federated, pooled) < 1e-6


def test_the_weights_of_the_mean_matter(model, patients):
    """The test above would see a mean over sites in place of one over patients."""
    stage, objective = STAGES["phenotypes"], make_objective("phenotypes", {}, progress=0.5)
    before, mean = weights_of(model, stage.trains), ExactMean()
    for rows in SITES:
        mean.fold(one_step(model, stage, objective, patients.rows(rows), {}), 1)
    _, pooled, _ = federated_and_pooled(model, "phenotypes", patients)
    assert largest_difference(fedavg(before, mean.mean()), pooled) > 1e-5


def test_contrastive_is_not_the_pooled_step(model, patients):
    """Negatives come from the own site only: K sites and one pool are different objectives."""
    assert not make_objective("contrastive", {}, progress=0.5).per_patient
    federated, pooled, moved = federated_and_pooled(model, "contrastive", patients)
    assert largest_difference(federated, pooled) > 0.01 * moved


def test_latent_statistics_of_sites_average_to_the_pooled_ones(model, patients):
    """E[x] and E[x^2] of the tokenizer's latents are buffers that FedAvg may average."""

    def measured(batch):
        own = copy.deepcopy(model)
        before = part_arrays(own, "tokenizer")
        own.update_latent_statistics([batch])
        after = part_arrays(own, "tokenizer")
        return {n: after[n] - before[n] for n in before if n.startswith("latent_")}

    mean = ExactMean()
    for rows in SITES:
        mean.fold({"tokenizer": measured(patients.rows(rows))}, len(patients.rows(rows)))
    pooled = measured(patients)
    assert set(pooled) == {"latent_mean", "latent_square"}
    for name, step in mean.mean()["tokenizer"].items():
        np.testing.assert_allclose(step, pooled[name], atol=1e-6)
        assert np.abs(pooled[name]).max() > 1e-3
