"""The local loop: what it trains, what it repeats bit for bit, and when it gives up."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from cardionets_core.checkpoint import part_arrays
from cardionets_core.errors import SiteError
from cardionets_core.messages import TrainPlan
from cardionets_core.models.cardionet import PARTS, build_model
from cardionets_core.training.loop import Budget, clip_gradients, measure, train_locally
from cardionets_core.training.objective import Losses, Objective, no_noise
from cardionets_core.training.objectives import make_objective

CPU = torch.device("cpu")


class Rows:
    """A dataset of random patients that notes which rows were asked for."""

    def __init__(self, batch):
        self._batch = batch
        self.asked: list[np.ndarray] = []

    def batch(self, indices, *, rng, crop=0):
        self.asked.append(np.array(indices))
        return self._batch.rows(torch.as_tensor(indices))


@pytest.fixture
def rows(micro, make_batch):
    return Rows(make_batch(micro, 20, seed=2))


@pytest.fixture(scope="module")
def start(micro):
    return build_model(micro, seed=1)


def plan_of(**changes):
    values = {"local_epochs": 2, "batch_size": 8, "lr": 1e-3, "weight_decay": 0.05}
    values |= {"clip_norm": 3.0, "max_steps": 0, "progress": 0.0}
    return TrainPlan(**(values | changes))


def train(
    model,
    rows,
    objective=None,
    *,
    trains=("ecg_encoder", "ecg_decoder"),
    seed=7,
    budget=None,
    **plan,
):
    return train_locally(
        model,
        rows,
        objective or make_objective("ecg_masked", {}, 0.0),
        trains=trains,
        indices=np.arange(20),
        plan=plan_of(**plan),
        seed=seed,
        device=CPU,
        budget=budget,
    )


def same(a, b, part):
    a, b = part_arrays(a, part), part_arrays(b, part)
    return all(np.array_equal(a[n], b[n]) for n in a)


def test_only_the_named_parts_change(start, rows):
    model = copy.deepcopy(start)
    result = train(model, rows)
    changed = {part for part in PARTS if not same(model, start, part)}
    assert changed == {"ecg_encoder", "ecg_decoder"}
    assert result.num_examples == 20 and result.means["loss"] > 0


def test_the_same_seed_gives_the_same_weights_bit_for_bit(start, rows):
    once, again, other = (copy.deepcopy(start) for _ in range(3))
    means = [train(once, rows).means, train(again, rows).means, train(other, rows, seed=8).means]
    assert same(once, again, "ecg_encoder") and means[0] == means[1]
    assert not same(once, other, "ecg_encoder") and means[0] != means[2]


def test_global_random_state_neither_matters_nor_changes(start, rows):
    once, again = copy.deepcopy(start), copy.deepcopy(start)
    torch.manual_seed(1)
    train(once, rows)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    train(again, rows)
    assert same(once, again, "ecg_encoder")
    assert torch.equal(state, torch.get_rng_state())


def test_each_epoch_sees_every_patient_once_in_batches_of_like_size(start, rows):
    result = train(copy.deepcopy(start), rows, batch_size=9)
    assert result.steps == 4  # 20 / 9 rounds to 2 batches, twice
    first, second = np.concatenate(rows.asked[:2]), np.concatenate(rows.asked[2:])
    assert sorted(first) == sorted(second) == list(range(20))
    assert first.tolist() != second.tolist()
    assert [len(r) for r in rows.asked] == [10, 10, 10, 10]


def test_max_steps_ends_a_round_early(start, rows):
    assert train(copy.deepcopy(start), rows, max_steps=3).steps == 3


def test_a_batch_larger_than_the_site_is_the_site(start, rows):
    assert train(copy.deepcopy(start), rows, batch_size=500, local_epochs=1).steps == 1
    assert len(rows.asked[0]) == 20


class Clock:
    """A clock of which every look takes a second."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


@pytest.mark.parametrize(("seconds", "steps"), [(0.0, 4), (0.5, 1), (2.0, 2), (3.5, 4), (99.0, 4)])
def test_a_spent_budget_ends_training_after_the_step_in_hand(start, rows, seconds, steps):
    """Looks are one after each step but the last: at 2, 3 and 4 s, the budget counts from 1 s."""
    model, whole = copy.deepcopy(start), copy.deepcopy(start)
    result = train(model, rows, budget=Budget(seconds, Clock()), partial=True)
    assert (result.steps, result.planned_steps) == (steps, 4)
    assert sum(len(asked) for asked in rows.asked) == 10 * steps
    # The steps that were done are those of the whole plan: time decides nothing but their number.
    train(whole, rows, max_steps=steps)
    assert same(model, whole, "ecg_encoder")


def test_without_partial_work_a_spent_budget_is_a_refusal(start, rows):
    with pytest.raises(SiteError) as refused:
        train(copy.deepcopy(start), rows, budget=Budget(2.0, Clock()))
    assert refused.value.code == "budget" and len(rows.asked) == 2


def test_work_that_was_done_in_the_end_is_no_refusal(start, rows):
    """The last step may end after the budget: the answer is ready, and its reader decides."""
    assert train(copy.deepcopy(start), rows, budget=Budget(3.5, Clock())).steps == 4


def test_the_budget_of_the_plan_counts_where_none_is_given(start, rows):
    with pytest.raises(SiteError, match="budget"):
        train(copy.deepcopy(start), rows, budget_s=1e-9)
    assert train(copy.deepcopy(start), rows, budget_s=1e-9, partial=True).steps == 1


def broken(value_of):
    """An objective whose loss is `value_of` a weight of the phenotype head."""

    def loss(model, batch, noise):
        weight = next(model.phenotype_head.parameters()).flatten()[:1]
        return Losses(value_of(weight).expand(len(batch)), {})

    return Objective("broken", no_noise, loss, per_patient=True)


@pytest.mark.parametrize(
    "value_of",
    [lambda w: w * float("nan"), lambda w: w * float("inf"), lambda w: (w - w.detach()).sqrt()],
    ids=["nan loss", "infinite loss", "finite loss with infinite gradient"],
)
def test_a_loss_or_gradient_that_is_not_finite_stops_before_the_step(start, rows, value_of):
    model = copy.deepcopy(start)
    with pytest.raises(SiteError) as raised:
        train(model, rows, broken(value_of), trains=("phenotype_head",))
    assert raised.value.code == "diverged"
    assert same(model, start, "phenotype_head")


def test_means_weigh_every_patient_alike(start, rows):
    """Batches of 7 and 6: the mean is over patients, not over batches."""

    def loss(model, batch, noise):
        zero = 0.0 * next(model.phenotype_head.parameters()).sum()
        return Losses(batch.covariates[:, 0] + zero, {})

    objective = Objective("covariate", no_noise, loss, per_patient=True)
    result = train(
        copy.deepcopy(start), rows, objective, trains=("phenotype_head",), local_epochs=1
    )
    expected = rows._batch.covariates[:, 0].double().mean().item()
    assert result.means["loss"] == pytest.approx(expected, rel=1e-9)


def test_measuring_changes_nothing_and_repeats(start, rows):
    model, objective = copy.deepcopy(start), make_objective("ecg_masked", {}, 0.0)

    def look():
        return measure(
            model,
            rows,
            objective,
            indices=np.arange(20),
            batch_size=8,
            seed=3,
            device=CPU,
        )

    first = look()
    assert first == look() and first["loss"] > 0
    assert all(same(model, start, part) for part in PARTS)
    assert not any(p.grad is not None for p in model.parameters())


def test_measuring_nobody_gives_no_numbers(start, rows):
    objective = make_objective("ecg_masked", {}, 0.0)
    nobody = np.arange(0)
    assert measure(start, rows, objective, indices=nobody, batch_size=8, seed=3, device=CPU) == {}


@pytest.mark.parametrize(("limit", "expected"), [(1.0, 1.0), (10.0, 5.0), (0.0, 5.0)])
def test_clipping_scales_the_joint_norm(limit, expected):
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    for parameter, gradient in zip(parameters, (3.0, 4.0), strict=True):
        parameter.grad = torch.tensor([gradient])
    assert clip_gradients(parameters, limit).item() == pytest.approx(5.0)
    joint = float(sum(p.grad.square().sum() for p in parameters)) ** 0.5
    assert joint == pytest.approx(expected, rel=1e-4)
