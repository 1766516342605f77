"""FedProx's term in the local loop: its gradient, its pull, and nothing at all where mu is 0."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from cardionets_core.checkpoint import part_arrays
from cardionets_core.messages import TrainPlan
from cardionets_core.models.cardionet import build_model
from cardionets_core.training.loop import clip_gradients, pull_back, train_locally
from cardionets_core.training.objectives import make_objective

CPU = torch.device("cpu")
TRAINS = ("ecg_encoder", "ecg_decoder")
OBJECTIVE = make_objective("ecg_masked", {}, 0.0)
SEED = 7


class Rows:
    """A dataset of random patients."""

    def __init__(self, batch):
        self._batch = batch

    def batch(self, indices, *, rng, crop=0):
        return self._batch.rows(torch.as_tensor(indices))


@pytest.fixture(scope="module")
def rows(micro, make_batch):
    return Rows(make_batch(micro, 20, seed=2))


@pytest.fixture(scope="module")
def start(micro):
    return build_model(micro, seed=1)


def plan_of(**changes):
    values = {"local_epochs": 2, "batch_size": 10, "lr": 1e-2, "weight_decay": 0.05}
    values |= {"clip_norm": 3.0, "max_steps": 0, "progress": 0.0}
    return TrainPlan(**(values | changes))


def trained(start, rows, **plan):
    model = copy.deepcopy(start)
    train_locally(
        model,
        rows,
        OBJECTIVE,
        trains=TRAINS,
        indices=np.arange(20),
        plan=plan_of(**plan),
        seed=SEED,
        device=CPU,
    )
    return model


def by_hand(start, rows, mu, *, clip_norm=3.0):
    """Train with the term inside the loss, left to autograd; its own order of patients."""
    model = copy.deepcopy(start)
    for name, child in model.named_children():
        child.requires_grad_(name in TRAINS)
    parameters = [p for p in model.parameters() if p.requires_grad]
    anchors = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.05)
    order, noise = np.random.default_rng([SEED, 0]), torch.Generator().manual_seed(SEED)
    model.train()
    for _ in range(2):
        for chosen in np.array_split(order.permutation(np.arange(20)), 2):
            batch = rows.batch(chosen, rng=None)
            loss = OBJECTIVE.loss(model, batch, OBJECTIVE.draw(model, batch, noise))
            loss = loss.per_patient.mean()
            if mu:
                gaps = zip(parameters, anchors, strict=True)
                loss = loss + mu / 2 * sum((p - a).square().sum() for p, a in gaps)
            optimizer.zero_grad()
            loss.backward()
            clip_gradients(parameters, clip_norm)
            optimizer.step()
    return model


def differences(a, b):
    for part in TRAINS:
        one, other = part_arrays(a, part), part_arrays(b, part)
        yield from ((one[n], other[n]) for n in one)


def distance(a, b):
    return sum(float(np.square(x - y).sum()) for x, y in differences(a, b)) ** 0.5


@pytest.mark.parametrize("mu", [0.0, -0.0])
def test_without_mu_training_is_bit_for_bit_what_it_was(start, rows, mu):
    model = trained(start, rows, proximal_mu=mu)
    plain = by_hand(start, rows, 0.0)
    assert all(x.tobytes() == y.tobytes() for x, y in differences(model, plain))
    assert distance(model, start) > 0


@pytest.mark.parametrize("mu", [0.1, 30.0])
def test_with_mu_it_is_training_on_the_loss_with_the_term(start, rows, mu):
    model, reference = trained(start, rows, proximal_mu=mu), by_hand(start, rows, mu)
    for ours, theirs in differences(model, reference):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)
    assert distance(model, trained(start, rows)) > 1e-3


def test_the_gradient_is_the_one_of_autograd():
    source = torch.Generator().manual_seed(0)
    parameters = [
        torch.nn.Parameter(torch.randn(s, generator=source, dtype=torch.float64))
        for s in ((3, 2), (4,), ())
    ]
    anchors = [torch.randn(p.shape, generator=source, dtype=torch.float64) for p in parameters]
    gaps = zip(parameters, anchors, strict=True)
    term = 0.7 / 2 * sum((p - a).square().sum() for p, a in gaps)
    expected = torch.autograd.grad(term, parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    pull_back(parameters, anchors, 0.7)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient + 1, rtol=1e-14, atol=1e-14)
        assert not parameter.grad.requires_grad


def test_a_parameter_without_a_gradient_is_left_alone():
    parameter = torch.nn.Parameter(torch.ones(2))
    pull_back([parameter], [torch.zeros(2)], 1.0)
    assert parameter.grad is None


def test_more_mu_stays_nearer_to_the_global_weights(start, rows):
    """Over enough steps: the first ones of AdamW have the same length whatever the gradient."""
    plan = {"local_epochs": 8, "weight_decay": 0.0, "clip_norm": 0.0}
    near, far = (distance(trained(start, rows, proximal_mu=m, **plan), start) for m in (10.0, 0.0))
    assert 0 < near < 0.8 * far
