"""Patients, models and objectives for tests of private training."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from cardionets_core.models.cardionet import build_model
from cardionets_core.privacy.rng import register_fake
from cardionets_core.training.objective import Losses, Objective, no_noise


class FakeRandom:
    """A source that a test can repeat; production refuses it."""

    def __init__(self, seed=0, *, members=None, std=1.0):
        self._numpy = np.random.default_rng(seed)
        self._members, self._std = members, std
        self.drawn: list[np.ndarray] = []

    def bernoulli(self, n, rate):
        if self._members is not None:
            return np.isin(np.arange(n), self._members)
        return self._numpy.random(n) < rate

    def integers(self, n, high):
        return self._numpy.integers(0, high, n)

    def normal(self, shape, std):
        self.drawn.append(self._std * self._numpy.normal(0.0, std, shape))
        return self.drawn[-1]


@pytest.fixture
def fake_random(monkeypatch):
    """Return the class of a source that can be repeated, allowed for this test."""
    monkeypatch.setenv("CARDIONETS_FAKE_RANDOMNESS", "1")
    register_fake(FakeRandom)
    return FakeRandom


@pytest.fixture
def silent(fake_random):
    """Noise of zeros: what is left is the bounded sum itself."""
    return fake_random(std=0.0)


@pytest.fixture(scope="session")
def make_dataset(micro, make_batch):
    """Return (patient ids) -> a dataset of one random study per entry, all for training."""

    def make(names, *, config=micro):
        studies = make_batch(config, len(names), seed=3)
        asked = []

        def batch(rows, *, rng, crop=0):
            asked.extend(np.asarray(rows).tolist())
            return studies.rows(torch.as_tensor(rows))

        return SimpleNamespace(
            indices=lambda split, needs: np.arange(len(names)),
            manifest=SimpleNamespace(table=pd.DataFrame({"patient_id": list(names)})),
            batch=batch,
            asked=asked,
        )

    return make


@pytest.fixture(scope="session")
def moved_model(micro):
    """Return (config) -> a model in which no layer is zero, so that all have a gradient."""

    def make(config=micro):
        model = build_model(config, seed=3)
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
        return model

    return make


@pytest.fixture
def in_float64(monkeypatch):
    """Return (model, batch, noise) -> the same in float64; `.float()` then keeps float64."""
    narrow = torch.Tensor.float

    def keep(tensor):
        return tensor if tensor.dtype == torch.float64 else narrow(tensor)

    def widen(tensor):
        return tensor.double() if tensor.is_floating_point() else tensor

    def convert(model, batch, noise):
        monkeypatch.setattr(torch.Tensor, "float", keep)
        fields = {k: widen(v) for k, v in vars(batch).items()}
        return model.double(), replace(batch, **fields), {k: widen(v) for k, v in noise.items()}

    return convert


class Linear(nn.Module):
    """A model whose gradient for a patient is what stands in their row of `phenotypes`."""

    def __init__(self, width):
        super().__init__()
        self.part = nn.Linear(width, 1, bias=False)


def linear_loss(model, batch, noise):
    return Losses(model.part(batch.phenotypes)[:, 0], {})


@pytest.fixture
def linear(micro, make_batch):
    """Return (values [B, P]) -> model, batch and objective with the rows as gradients.

    The objective's loss is a sum over patients, so it may be clipped per patient or per bucket.
    """

    def make(values):
        values = torch.as_tensor(values)
        config = replace(micro, num_phenotypes=values.shape[1])
        batch = make_batch(config, len(values))
        batch = replace(batch, phenotypes=values)
        model = Linear(values.shape[1]).to(values.dtype)
        return model, batch, Objective("linear", no_noise, linear_loss, per_patient=True)

    return make


def heavy_tailed(seed, patients=24, width=2):
    """Return rows over six orders of magnitude: one patient can reverse the sum of many."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(patients, width)) * 10 ** rng.uniform(-3, 3, (patients, 1))


@pytest.fixture(name="heavy_tailed")
def heavy_tailed_fixture():
    """Return (seed, patients=24, width=2) -> rows of many sizes."""
    return heavy_tailed


def length(sums, other=None):
    """Return the L2 norm of sums by name, or of their difference."""
    found = {n: v if other is None else v - other[n] for n, v in sums.items()}
    return sum(float(v.double().square().sum()) for v in found.values()) ** 0.5


@pytest.fixture(name="length")
def length_fixture():
    """Return (sums, other=None) -> L2 norm of sums, or of their difference."""
    return length
