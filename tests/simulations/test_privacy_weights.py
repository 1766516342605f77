"""The privacy table measures gradients of whole models, and not of the few weights that start."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cardionets_core.privacy.engines import looped_sum
from simulations.privacy import agreement, figures_sensitivity
from simulations.privacy.figures_parts import STAGES
from simulations.privacy.held import small_plan, virtual_patients

PATIENTS = figures_sensitivity.PATIENTS


@pytest.fixture(scope="module")
def hearts(tmp_path_factory):
    """The patients of both sections, by number and seed; preparing them takes long."""
    plan, folder = small_plan(), tmp_path_factory.mktemp("hearts")
    wanted = [(agreement.PATIENTS, agreement.SEED)]
    wanted += [(figures_sensitivity.PATIENTS, seed) for seed in figures_sensitivity.SEEDS]
    return {
        (n, seed): virtual_patients(folder / str(seed), plan, patients=n, seed=seed, cines=True)
        for n, seed in wanted
    }


@pytest.fixture
def made_once(hearts, monkeypatch, torch_as_it_was):
    """Give both sections the same patients in every test."""
    torch.set_num_threads(1)  # more only wait for each other, over so small a model
    for module in (agreement, figures_sensitivity):
        monkeypatch.setattr(
            module, "virtual_patients", lambda *_, patients, seed, **__: hearts[patients, seed]
        )


def test_engines_are_compared_in_every_trained_tensor(made_once, tmp_path):
    found = agreement.agreement(tmp_path, STAGES)
    assert {n: a.still for n, a in found.items()} == dict.fromkeys(STAGES, ())
    assert all(a.apart < 1e-6 for a in found.values()), found
    assert min(a.tensors for a in found.values()) > 30


def test_at_the_start_weights_most_tensors_have_no_gradient_and_that_is_seen(
    made_once, tmp_path, monkeypatch
):
    monkeypatch.setattr(agreement, "moved", lambda model: model)
    found = agreement.agreement(tmp_path, ("ecg_masked",))["ecg_masked"]
    assert len(found.still) > 0.9 * found.tensors


def test_a_bucket_that_is_clipped_otherwise_is_found(made_once, tmp_path, monkeypatch):
    def each_alone(*given, labels, **options):
        return looped_sum(*given, **options)

    monkeypatch.setattr(agreement, "bucket_sum", each_alone)
    assert agreement.agreement(tmp_path, ("contrastive",))["contrastive"].apart > 0.1


def test_a_patient_alone_in_a_bucket_adds_nothing():
    assert np.unique(agreement.LABELS, return_counts=True)[1].tolist() == [2, 3, 1]


def test_sensitivity_is_measured_in_every_trained_tensor(made_once, tmp_path, monkeypatch):
    monkeypatch.setattr(figures_sensitivity, "_moved", lambda total, row: 0.0)
    rows = figures_sensitivity.sensitivity(tmp_path)
    for row in [next(rows) for _ in figures_sensitivity.STAGE_NAMES]:
        tensors = row.note.split(" of ")
        assert row.met and tensors[0] == tensors[1].split()[0], row
