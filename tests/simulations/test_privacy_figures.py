"""The sections of the privacy table go through the real code, and their controls can be told."""

from __future__ import annotations

import numpy as np
import pytest

from cardionets_core.privacy.mechanism import Mechanism
from simulations.privacy import figures_attacks, figures_audit, figures_noise, figures_sensitivity
from simulations.privacy.naive import opacus_on_contrastive


@pytest.fixture
def few_canaries(monkeypatch):
    monkeypatch.setattr(figures_audit, "CANARIES", 60)


def test_canaries_that_are_in_stand_out_and_others_are_untouched(few_canaries):
    steps, clip = 6, 1.0
    mechanism = Mechanism(1e-9, 0.5, clip, "patient", 30.0, steps)
    scores, included = figures_audit.trained(mechanism)
    assert np.abs(scores[~included]).max() < 1e-6
    times = scores[included] / clip
    assert np.allclose(times, times.round(), atol=1e-6) and times.max() <= steps
    assert abs(times.mean() - steps * 0.5) < 5 * np.sqrt(steps * 0.25 / included.sum())


def test_noise_that_is_used_again_is_found(few_canaries, monkeypatch):
    monkeypatch.setattr(figures_audit.step, "require_production", lambda rng: None)
    regime = figures_audit.Regime(1.0, 0.3, 12)
    row = figures_audit._control(
        "same", regime, regime.mechanism(), rng=figures_audit._SameNoise(60)
    )
    assert row.control and row.met, row


def test_linear_losses_reach_the_bounds_and_chunks_break_them(monkeypatch):
    monkeypatch.setattr(figures_sensitivity, "TRIALS", 80)
    alone, bucketed, chunked = (
        figures_sensitivity._worst_linear(way)
        for way in (
            lambda rows, labels: None,
            lambda rows, labels: labels[rows],
            lambda rows, labels: np.arange(len(rows)) // 4,
        )
    )
    assert 0.99 < alone <= 1.0 and 1.9 < bucketed <= 2.0
    assert chunked > 2.2


def test_opacus_on_a_contrastive_loss_is_not_private():
    assert opacus_on_contrastive(seed=0, clip=0.05, trials=4) > 1.5


def test_a_step_over_nobody_releases_noise_of_the_declared_size(monkeypatch):
    monkeypatch.setattr(figures_noise, "SIZE", 20_000)
    for grouping, factor in (("patient", 1), ("bucket", 2)):
        wanted = figures_noise.NOISE * factor * figures_noise.CLIP
        assert abs(figures_noise.released(grouping).std() / wanted - 1) < 0.035
    assert figures_noise._no_copy().met


def test_every_patient_is_in_half_of_the_shadow_models():
    members = figures_attacks._memberships(np.random.default_rng(0), 20, 50)
    assert (members[: figures_attacks.SHADOWS].sum(0) == figures_attacks.SHADOWS // 2).all()
    assert len(members) == 20
