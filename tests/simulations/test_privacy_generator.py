"""Copies of a small generator: both halves are judged alike, and training is that of a site."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cardionets_core.models.cardionet import build_model
from cardionets_core.privacy.rng import PrivacyRandom
from simulations.privacy import figures_generator
from simulations.privacy.figures_generator import (
    HALF,
    NO_NOISE,
    cines_of,
    drawn_after,
    ordinarily,
    privately,
    with_generated_view,
)
from simulations.privacy.held import empty_batch, small_plan

ASKED = 10


class Drawing:
    """Stands for a model: draws what its training has left in `memory`, in turns."""

    memory = torch.zeros(1, 4, 16, 16)

    def eval(self):
        return self

    def generate(self, ecg, lead_mask, *, generator):
        return self.memory[torch.arange(len(ecg)) % len(self.memory)]


@pytest.fixture(scope="module")
def plan():
    return small_plan()


@pytest.fixture(scope="module")
def hearts(plan):
    patients, source = 2 * HALF + ASKED, torch.Generator().manual_seed(3)
    ecg, cine = plan.model.ecg, plan.model.cine
    image = (patients, len(cine.views), cine.phases, cine.size_px, cine.size_px)
    return replace(
        empty_batch(patients),
        ecg=torch.randn(patients, 12, ecg.crop_samples, generator=source),
        cine=torch.randn(image, generator=source).clamp(-1.0, 1.0),
        view_mask=torch.ones(patients, len(cine.views), dtype=torch.bool),
    )


@pytest.fixture
def drawing(monkeypatch):
    monkeypatch.setattr(figures_generator, "build_model", lambda *_, **__: Drawing())


def test_a_generator_that_copies_is_found_on_both_halves(drawing, plan, hearts):
    def learn_by_heart(model, batch, rows):
        model.memory = cines_of(batch, plan)[rows]

    found = drawn_after(learn_by_heart, plan, hearts)
    assert found.shares == (1.0, 1.0) and found.copies.found
    assert found.to_training.max() < 1e-3 and len(found.to_training) == 2 * ASKED


def test_one_blur_for_everybody_is_no_copy_though_one_half_is_always_nearer(drawing, plan, hearts):
    def learn_nothing(model, batch, rows):
        model.memory = cines_of(batch, plan)[:1] * 0.5

    found = drawn_after(learn_nothing, plan, hearts)
    assert sorted(found.shares) == [0.0, 1.0]
    assert found.copies.nearer_training == 0.5 and not found.copies.found


@pytest.mark.parametrize("train", [ordinarily, privately(NO_NOISE), privately(2.0)])
def test_tokenizer_and_generator_are_trained_and_latents_measured(
    train, plan, hearts, monkeypatch, torch_as_it_was
):
    torch.set_num_threads(1)
    monkeypatch.setattr(figures_generator, "STEPS", {"tokenizer": 1, "generative": 1})
    model = build_model(plan.model, seed=1)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    train(model, hearts, np.arange(HALF))
    changed = {n.split(".")[0] for n, v in model.state_dict().items() if not v.equal(before[n])}
    assert changed == {"tokenizer", "generator"}
    assert not model.tokenizer.latent_square.equal(before["tokenizer.latent_square"])


def test_private_training_takes_noise_of_the_operating_system(plan, hearts, monkeypatch):
    seen = []
    monkeypatch.setattr(
        figures_generator,
        "train_privately",
        lambda *_, mechanism, rng, **__: seen.append((mechanism, rng)),
    )
    monkeypatch.setattr(figures_generator, "release_latent_statistics", lambda *_, **__: None)
    privately(2.0)(None, hearts, np.arange(HALF))
    assert [m.noise for m, _ in seen] == [2.0, 2.0]
    assert all(isinstance(rng, PrivacyRandom) for _, rng in seen)
    assert [m.steps for m, _ in seen] == list(figures_generator.STEPS.values())


def test_hearts_without_the_generated_view_are_left_out(plan, hearts):
    mask = hearts.view_mask.clone()
    mask[:, plan.model.cine.views.index(plan.model.generator.view)] = torch.arange(len(hearts)) < 5
    assert len(with_generated_view(replace(hearts, view_mask=mask), plan)) == 5
