"""SCAFFOLD against its paper, step by step, on losses whose optimum is known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from cardionets_core.errors import ConfigError
from cardionets_core.messages import TrainPlan, Update
from cardionets_core.model_config import ModelConfig
from cardionets_core.run_config import RunConfig, StageConfig
from cardionets_core.strategy_config import StrategyConfig
from cardionets_core.training.control import correction, next_control
from cardionets_core.training.loop import planned_steps, train_locally
from cardionets_core.training.stages import check_plan
from server.aggregation import ExactMean
from server.strategies.scaffold import (
    begun,
    control_groups,
    control_heads,
    scaffold_step,
    start_control,
    steps_fit,
    with_moves,
)
from tests.task_header import task_header

CPU = torch.device("cpu")
LEARNED = {"part": {"w"}}
LOCAL_LR, K, ROUNDS = 0.05, 10, 20


class Model(nn.Module):
    """One part with one parameter of three numbers and a statistic."""

    def __init__(self, start):
        super().__init__()
        self.part = nn.Module()
        self.part.w = nn.Parameter(torch.tensor(start))


@dataclass(frozen=True)
class Hospital:
    """Loss of a patient: half the squared distance to its target, scaled per coordinate."""

    curvature: np.ndarray
    targets: np.ndarray

    def gradient(self, w):
        return (self.curvature * (w - self.targets)).mean(axis=0)

    def batch(self, rows, rng):
        return _Batch(torch.tensor(self.targets[rows]))


class _Batch(SimpleNamespace):
    def __init__(self, targets):
        super().__init__(targets=targets)

    def to(self, device):
        return self


def objective_of(hospital):
    curvature = torch.tensor(hospital.curvature)

    def loss(model, batch, noise):
        error = curvature * (model.part.w - batch.targets).square() / 2
        return SimpleNamespace(per_patient=error.sum(dim=1), terms={})

    return SimpleNamespace(draw=lambda model, batch, source: {}, loss=loss)


@pytest.fixture(scope="module")
def hospitals():
    rng = np.random.default_rng(11)
    return [
        Hospital(rng.uniform(0.2, 4.0, 3), rng.normal(centre, 0.1, (size, 3)))
        for centre, size in ((-2.0, 4), (0.5, 9), (3.0, 6))
    ]


@pytest.fixture(scope="module")
def optimum(hospitals):
    """The minimum of the loss over all patients of all hospitals."""
    sizes = np.array([len(h.targets) for h in hospitals])[:, None]
    curvature = np.array([h.curvature for h in hospitals])
    means = np.array([h.targets.mean(axis=0) for h in hospitals])
    return (sizes * curvature * means).sum(axis=0) / (sizes * curvature).sum(axis=0)


def plan_of(steps, **changes):
    """Full batches: one step per epoch."""
    plan = TrainPlan(steps, 1000, LOCAL_LR, 0.0, 0.0, max_steps=0, progress=0.0, optimizer="sgd")
    return replace(plan, **changes)


def train(hospital, weights, plan, steer=None):
    """Run the project's own local loop; return the update."""
    model = Model(weights["part"]["w"])
    result = train_locally(
        model,
        hospital,
        objective_of(hospital),
        trains=("part",),
        indices=np.arange(len(hospital.targets)),
        plan=plan,
        seed=1,
        device=CPU,
        correction={f"part.{n}": torch.tensor(a) for n, a in (steer or {}).get("part", {}).items()},
    )
    after = model.part.w.detach().numpy()
    return {"part": {"w": after - weights["part"]["w"]}}, result.steps


def ours(hospitals, schedule, *, steps=K, lr=1.0):
    """Run the project's SCAFFOLD; return the weights after every round."""
    weights = {"part": {"w": np.zeros(3)}}
    control = start_control(weights, LEARNED)
    own = [{} for _ in hospitals]
    path = []
    for there in schedule:
        mean = ExactMean()
        for i in there:
            steer = correction(control, own[i])
            delta, taken = train(hospitals[i], weights, plan_of(steps), steer)
            own[i] = next_control(own[i], control, delta, steps=taken, lr=LOCAL_LR)
            studies = {"part": len(hospitals[i].targets)}
            mean.fold(*with_moves(delta, studies, steps=taken, learned=LEARNED))
        weights, control = scaffold_step(
            weights,
            control,
            mean.mean(),
            lr=lr,
            local_lr=LOCAL_LR,
            shares={"part": len(there) / len(hospitals)},
        )
        path.append(weights["part"]["w"])
    return np.array(path)


def paper(hospitals, schedule, *, steps=K, lr=1.0):
    """Algorithm 1 of arXiv 1910.06378, option II, in NumPy; sites weighted by their patients."""
    x, c = np.zeros(3), np.zeros(3)
    c_i = [np.zeros(3) for _ in hospitals]
    path = []
    for there in schedule:
        total = sum(len(hospitals[i].targets) for i in there)
        dx, dc = np.zeros(3), np.zeros(3)
        for i in there:
            y = x.copy()
            for _ in range(steps):
                y = y - LOCAL_LR * (hospitals[i].gradient(y) - c_i[i] + c)
            new = c_i[i] - c + (x - y) / (steps * LOCAL_LR)
            share = len(hospitals[i].targets) / total
            dx, dc = dx + share * (y - x), dc + share * (new - c_i[i])
            c_i[i] = new
        x, c = x + lr * dx, c + len(there) / len(hospitals) * dc
        path.append(x)
    return np.array(path)


def fedavg(hospitals, rounds):
    weights = {"part": {"w": np.zeros(3)}}
    for _ in range(rounds):
        mean = ExactMean()
        for hospital in hospitals:
            mean.fold(train(hospital, weights, plan_of(K))[0], len(hospital.targets))
        weights = {"part": {"w": weights["part"]["w"] + mean.mean()["part"]["w"]}}
    return weights["part"]["w"]


EVERYBODY = [(0, 1, 2)] * 8
SOME = [(0, 1, 2), (0, 2), (1,), (0, 1), (2,), (0, 1, 2), (1, 2), (0,)]


@pytest.mark.parametrize("schedule", [EVERYBODY, SOME], ids=["everybody", "some"])
@pytest.mark.parametrize("lr", [1.0, 0.5])
def test_every_round_is_that_of_the_paper(hospitals, schedule, lr):
    got, want = ours(hospitals, schedule, lr=lr), paper(hospitals, schedule, lr=lr)
    assert np.abs(got - want).max() < 1e-8
    assert np.abs(want[-1]).max() > 0.1


def test_it_finds_the_optimum_of_all_patients_where_fedavg_does_not(hospitals, optimum):
    found = ours(hospitals, [(0, 1, 2)] * ROUNDS)[-1]
    biased = fedavg(hospitals, ROUNDS)
    assert np.abs(found - optimum).max() < 1e-6
    assert np.abs(biased - optimum).max() > 0.05


def test_one_local_step_is_one_step_on_everybodys_patients(hospitals):
    total = sum(len(h.targets) for h in hospitals)
    x = np.zeros(3)
    for got in ours(hospitals, EVERYBODY, steps=1):
        x = x - LOCAL_LR * sum(len(h.targets) * h.gradient(x) for h in hospitals) / total
        assert np.abs(got - x).max() < 1e-8


def test_gradients_are_clipped_before_they_are_corrected(hospitals):
    """So that c_i is the mean of the gradients that the site would have taken by itself."""
    hospital, clip = hospitals[2], 0.5
    weights = {"part": {"w": np.zeros(3)}}
    control = {"part": {"w": np.array([3.0, -2.0, 1.0])}}
    own = {"part": {"w": np.array([-1.0, 0.5, 2.0])}}
    delta, steps = train(hospital, weights, plan_of(K, clip_norm=clip), correction(control, own))
    after = next_control(own, control, delta, steps=steps, lr=LOCAL_LR)
    y, taken = np.zeros(3), []
    for _ in range(K):
        gradient = hospital.gradient(y)
        taken.append(gradient * min(1.0, clip / np.linalg.norm(gradient)))
        y = y - LOCAL_LR * (taken[-1] + control["part"]["w"] - own["part"]["w"])
    # torch divides by the norm + 1e-6
    assert np.abs(after["part"]["w"] - np.mean(taken, axis=0)).max() < 1e-5
    assert np.linalg.norm(after["part"]["w"]) <= clip


def test_what_no_optimizer_moves_takes_the_mean_and_has_no_control_variate():
    weights = {"part": {"w": np.ones(2), "count": np.array([3]), "mean": np.ones(2)}}
    control = start_control(weights, LEARNED)
    assert set(control["part"]) == {"w"}
    delta = {"part": {"w": np.ones(2), "count": np.array([1]), "mean": np.full(2, 0.5)}}
    folded, studies = with_moves(delta, {"part": 4}, steps=2, learned=LEARNED)
    assert studies == {"part": 4, "control.part": 4} and set(folded["control.part"]) == {"w"}
    mean = ExactMean()
    mean.fold(folded, studies)
    after, moved = scaffold_step(
        weights, control, mean.mean(), lr=0.5, local_lr=0.1, shares={"part": 1.0}
    )
    assert np.allclose(after["part"]["w"], 1.5) and np.allclose(after["part"]["mean"], 1.5)
    assert after["part"]["count"] == 3 and np.allclose(moved["part"]["w"], -5.0)


def test_a_part_that_did_not_come_back_stays_with_its_control_variate():
    weights = {"part": {"w": np.ones(2)}}
    control = {"part": {"w": np.full(2, 0.25)}}
    after, kept = scaffold_step(weights, control, {}, lr=1.0, local_lr=0.1, shares={"part": 0.0})
    assert np.array_equal(after["part"]["w"], np.ones(2))
    assert np.array_equal(kept["part"]["w"], np.full(2, 0.25))


# -- who keeps what --------------------------------------------------------------------------------


def a_record(number, accepted, refused=(), stage="ecg_masked", **more):
    return {
        "stage": stage,
        "round": number,
        "accepted": list(accepted),
        "refused": dict.fromkeys(refused, "late"),
        **more,
    }


def modes(history, sites):
    first = begun(history, "ecg_masked", sites)
    heads = control_heads(dict.fromkeys(sites, task_header(train=plan_of(1))), history, first=first)
    return {site: head.train.control for site, head in heads.items()}


def test_a_site_keeps_its_control_variate_from_its_first_used_update_on():
    history = [a_record(1, "ab", stage="contrastive"), a_record(1, "a", "b")]
    assert modes(history[:1], "ab") == {"a": "start", "b": "start"}
    assert modes(history, "ab") == {"a": "keep", "b": "start"}
    assert modes([*history, a_record(2, "b", "a")], "ab") == {"a": "keep", "b": "keep"}


@pytest.mark.parametrize(
    ("second", "sites"),
    [
        (a_record(2, "ab", memory_lost=["b"]), "ab"),
        (a_record(2, "ab"), "abc"),
    ],
    ids=["one lost its own", "one joins"],
)
def test_after_a_loss_everybody_begins_anew(second, sites):
    history = [a_record(1, "ab"), second]
    assert begun(history, "ecg_masked", sites) == 3
    assert set(modes(history, sites).values()) == {"start"}
    later = [*history, a_record(3, sites)]
    assert begun(later, "ecg_masked", sites) == 3
    assert set(modes(later, sites).values()) == {"keep"}


def test_zeros_do_not_travel():
    assert control_groups({"part": {"w": np.zeros(3)}}) == {}
    assert set(control_groups({"part": {"w": np.ones(3)}})) == {"control.part"}


@pytest.mark.parametrize(
    ("steps", "partial", "fits"),
    [(6, False, True), (5, False, False), (7, False, False), (0, True, False), (5, True, True)],
)
def test_steps_that_the_studies_do_not_take_are_seen(steps, partial, fits):
    plan = plan_of(2, batch_size=10)
    assert planned_steps(30, plan) == 6
    update = Update("a", "r", "ecg_masked", 1, num_examples=30, steps=steps)
    assert steps_fit(update, plan, partial=partial) is fits


def test_a_stage_whose_members_take_steps_of_their_own_is_refused_before_the_run():
    config = RunConfig(
        name="r",
        seed=1,
        model=ModelConfig(),
        stages=("handshake", "masked"),
        stage={"masked": StageConfig()},
        strategy=StrategyConfig("scaffold"),
    )
    with pytest.raises(ConfigError, match=r"scaffold.* Plan ecg_masked, cmr_masked instead"):
        check_plan(config)
