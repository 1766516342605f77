"""One site's local training: the loop that every stage shares."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from cardionets_core.errors import SiteError
from cardionets_core.faults import fault_point
from cardionets_core.lifetime import end_hung
from cardionets_core.runtime import autocast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from cardionets_core.data.dataset import SiteDataset
    from cardionets_core.messages import TrainPlan
    from cardionets_core.models.cardionet import CardioNet
    from cardionets_core.training.objectives import Objective


@dataclass(frozen=True)
class TrainResult:
    """What local training reports.

    Attributes:
        num_examples: training studies that the plan goes over.
        steps: optimizer steps taken.
        means: means of the loss and its terms over the studies of those steps.
        planned_steps: of the whole plan.
    """

    num_examples: int
    steps: int
    means: dict[str, float]
    planned_steps: int = 0


class Budget:
    """The time that training may take, from now on; a client process that hangs then is ended.

    Args:
        seconds: 0 is no limit.
        clock: gives seconds from any fixed moment; one that nobody can set back.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds if seconds > 0 else math.inf
        if seconds > 0:
            end_hung(seconds)

    def spent(self) -> bool:
        """Return whether the time is over."""
        return self._clock() >= self._end


def train_locally(
    model: CardioNet,
    dataset: SiteDataset,
    objective: Objective,
    *,
    trains: Sequence[str],
    indices: np.ndarray,
    plan: TrainPlan,
    seed: int,
    device: torch.device,
    compile_step: bool = False,
    correction: Mapping[str, Tensor] | None = None,
    budget: Budget | None = None,
) -> TrainResult:
    """Train the parts `trains` of `model` in place on the patients `indices`.

    When the budget is spent, it stops after the step in hand where the plan takes partial work.

    Args:
        seed: fixes the order of patients, the ECG crops and every random number of the objective.
        correction: name of a parameter -> what is added to its gradient, after clipping: the
            gradient is the site's own, and SCAFFOLD's c - c_i no part of it.
        budget: the time that it may take; None: the plan's, from now on.

    Raises:
        SiteError: code `diverged`, at the first loss or gradient that is not finite; `budget`,
            when it is spent and the plan does not take partial work: nobody waits any more.
    """
    budget = budget or Budget(plan.budget_s)
    planned = planned_steps(len(indices), plan)
    freeze_all_but(model, trains)
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    parameters = list(named.values())
    corrected = [(named[n], c.to(device)) for n, c in (correction or {}).items()]
    optimizer = make_optimizer(parameters, plan)
    order = np.random.default_rng([seed, 0])
    crops = np.random.default_rng([seed, 1])
    noise_source = torch.Generator().manual_seed(seed)
    anchors = [p.detach().clone() for p in parameters] if plan.proximal_mu else []
    loss_of = torch.compile(objective.loss) if compile_step else objective.loss
    sums: dict[str, float] = {}
    seen = steps = 0
    model.train()
    for rows in _batches(indices, plan, order):
        batch = dataset.batch(rows, rng=crops)
        noise = objective.draw(model, batch, noise_source)
        batch = (batch.pin() if device.type == "cuda" else batch).to(device)
        noise = {k: v.to(device, non_blocking=True) for k, v in noise.items()}
        with autocast(device):
            losses = loss_of(model, batch, noise)
        loss = losses.per_patient.mean()
        _require_finite(loss)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if anchors:
            pull_back(parameters, anchors, plan.proximal_mu)
        norm = clip_gradients(parameters, plan.clip_norm)
        _require_finite(norm)
        for parameter, addend in corrected:
            if parameter.grad is not None:
                parameter.grad.add_(addend)
        optimizer.step()
        terms = {"loss": losses.per_patient, **losses.terms}
        for name, values in terms.items():
            sums[name] = sums.get(name, 0.0) + float(values.detach().double().sum())
        seen += len(rows)
        steps += 1
        fault_point("mid_epoch")
        if steps < planned and budget.spent():
            if not plan.partial:
                raise SiteError("budget")
            break
    means = {k: v / max(seen, 1) for k, v in sums.items()}
    return TrainResult(len(indices), steps, means, planned)


@torch.no_grad()
def measure(
    model: CardioNet,
    dataset: SiteDataset,
    objective: Objective,
    *,
    indices: np.ndarray,
    batch_size: int,
    seed: int,
    device: torch.device,
) -> dict[str, float]:
    """Return the mean loss and its terms over `indices` without training, with fixed randomness."""
    model.eval()
    noise_source = torch.Generator().manual_seed(seed)
    sums: dict[str, float] = {}
    for start in range(0, len(indices), batch_size):
        batch = dataset.batch(indices[start : start + batch_size], rng=None)
        noise = objective.draw(model, batch, noise_source)
        with autocast(device):
            losses = objective.loss(
                model, batch.to(device), {k: v.to(device) for k, v in noise.items()}
            )
        for name, values in {"loss": losses.per_patient, **losses.terms}.items():
            sums[name] = sums.get(name, 0.0) + float(values.double().sum())
    return {k: v / len(indices) for k, v in sums.items()} if len(indices) else {}


def make_optimizer(parameters: Sequence[nn.Parameter], plan: TrainPlan) -> torch.optim.Optimizer:
    """Return the optimizer of a plan's local steps: AdamW, or SGD without momentum."""
    if plan.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=plan.lr, weight_decay=plan.weight_decay)
    return torch.optim.AdamW(parameters, lr=plan.lr, weight_decay=plan.weight_decay)


def freeze_all_but(model: nn.Module, parts: Sequence[str]) -> None:
    """Let gradients reach the named parts and nothing else."""
    for name, child in model.named_children():
        child.requires_grad_(name in parts)


def clip_gradients(parameters: Sequence[nn.Parameter], clip_norm: float) -> Tensor:
    """Scale gradients so that their joint L2 norm is at most `clip_norm` (0: only measure it)."""
    limit = clip_norm if clip_norm > 0 else float("inf")
    return torch.nn.utils.clip_grad_norm_(parameters, limit)


@torch.no_grad()
def pull_back(parameters: Sequence[nn.Parameter], anchors: Sequence[Tensor], mu: float) -> None:
    """Add the gradient of FedProx's term, mu / 2 x ||w - w_global||^2 (Li et al. 2020, eq. 2).

    Args:
        parameters: the trained ones, after `backward`; one without a gradient is left alone, as the
            optimizer leaves it.
        anchors: their values when the round began.
        mu: strength, per unit of squared distance.
    """
    for parameter, anchor in zip(parameters, anchors, strict=True):
        if parameter.grad is not None:
            parameter.grad.add_(parameter - anchor, alpha=mu)


def _batches(
    indices: np.ndarray, plan: TrainPlan, order: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield shuffled batches; a last batch of one patient joins the batch before it."""
    steps = 0
    for _ in range(plan.local_epochs):
        shuffled = order.permutation(indices)
        # Equal batches rather than a small last one: contrastive losses need company.
        count = _batches_per_epoch(len(shuffled), plan)
        for rows in np.array_split(shuffled, count):
            if plan.max_steps and steps >= plan.max_steps:
                return
            yield rows
            steps += 1


def _batches_per_epoch(studies: int, plan: TrainPlan) -> int:
    return max(1, round(studies / plan.batch_size))


def planned_steps(studies: int, plan: TrainPlan) -> int:
    """Return the local steps of a whole round over so many training studies."""
    steps = plan.local_epochs * _batches_per_epoch(studies, plan)
    return min(steps, plan.max_steps) if plan.max_steps else steps


def _require_finite(value: Tensor) -> None:
    if not bool(torch.isfinite(value)):
        raise SiteError("diverged")
