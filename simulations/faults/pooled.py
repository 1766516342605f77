"""One full-batch step of a federation beside one of all patients in one place (figure 24).

The sites do what they always do: client/local_training.py, the wire, the firewall, the exact mean.
The pooled step is plain PyTorch on the patients of all sites together, with the crops and the noise
that the sites drew, so that both see the same numbers.

It holds for every objective whose loss is a mean over patients. Contrastive alignment compares a
patient with the others of the batch: K sites and one pool have different objectives there, and no
way of averaging makes them equal.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cardionets_core.batch import Batch
from cardionets_core.checkpoint import part_arrays
from cardionets_core.data.dataset import Scaler
from cardionets_core.evaluation.sums import merge
from cardionets_core.messages import (
    Task,
    TaskHeader,
    TrainPlan,
    Update,
    update_from_records,
    update_to_records,
)
from cardionets_core.models.cardionet import CardioNet, build_model
from cardionets_core.packing import Groups, fingerprint
from cardionets_core.runtime import derive_seed
from cardionets_core.site_config import load_site_config
from cardionets_core.training.loop import freeze_all_but
from cardionets_core.training.objective import Noise
from cardionets_core.training.objectives import make_objective
from cardionets_core.training.stages import HEADS, STAGES, Stage, configured
from client.local_training import serve
from client.site import Site
from server.aggregation import ExactMean
from server.norms import learned_names
from server.screening import screen
from server.strategies.averaging import fedavg
from simulations.faults.flower_average import average, flat, reply
from simulations.faults.small import NANO, plan, write_hospital

SEED, PROGRESS = 24, 0.5
"""Progress beyond a stage's first fifth, so that the tokenizer's KL term counts."""

PATIENTS = {"north": 12, "river": 18, "hill": 15}
"""Three unequal hospitals with pairs of ECG and CMR."""

STEP = TrainPlan(
    local_epochs=1,
    batch_size=1000,
    lr=0.4,
    weight_decay=0.0,
    clip_norm=0.0,
    max_steps=0,
    progress=PROGRESS,
    optimizer="sgd",
)
"""One step of plain gradient descent over all of a site's patients."""

COUPLED = "contrastive"
"""The stage whose loss compares patients with each other."""

Step = Callable[[list[Site], Task, Groups], Groups]
"""Takes one round: (sites, task, weights before) -> weights after."""


@dataclass(frozen=True)
class Comparison:
    """How far one step of the federation is from the pooled one.

    Attributes:
        stage: its name.
        relative: L2 norm of the difference over that of the pooled weights.
        of_step: L2 norm of the difference over that of the pooled step.
    """

    stage: str
    relative: float
    of_step: float


class Federation:
    """Three virtual hospitals and a model before its first round.

    Args:
        folder: their data are written there.
    """

    def __init__(self, folder: Path) -> None:
        self.sites = [
            Site(load_site_config(write_hospital(folder, name, preset, patients=count)))
            for (name, count), preset in zip(PATIENTS.items(), "ABC", strict=True)
        ]
        self._config = plan("pooled", [*NANO, "min_patients=1"], sites=len(PATIENTS))
        self.model = build_model(self._config.sized_model(), seed=SEED)
        for part in HEADS.values():
            self.model.start_head(part)
        self._scaler = Scaler.from_statistics(
            merge(
                site.dataset(self._header(STAGES["phenotypes"])).statistics() for site in self.sites
            )
        )

    def compare(self, name: str, step: Step | None = None) -> Comparison:
        """Take one step of a stage both ways.

        Args:
            name: of the stage.
            step: how the federation takes it; as our server does, if nothing else is given.
        """
        stage = configured(name, {}, self._config.sized_model())
        task = self._task(stage)
        before = {p: task.weights[p] for p in stage.trains}
        learned = learned_names(task.header.model, stage.trains)
        federated = (step or our_step)(self.sites, task, before)
        pooled = pooled_weights(self.sites, task.header, self.model, stage)
        gap = _norm(federated, pooled, learned)
        size = _norm(
            pooled, {p: {n: 0 * a for n, a in g.items()} for p, g in pooled.items()}, learned
        )
        return Comparison(name, gap / size, gap / _norm(pooled, before, learned))

    def _task(self, stage: Stage) -> Task:
        weights = {part: part_arrays(self.model, part) for part in stage.parts}
        head = self._header(stage)
        scaler = self._scaler
        head = dataclasses.replace(
            head,
            parts={part: fingerprint(arrays) for part, arrays in weights.items()},
            scaler_mean=tuple(map(float, scaler.mean)),
            scaler_sd=tuple(map(float, scaler.sd)),
        )
        return Task(head, weights)

    def _header(self, stage: Stage) -> TaskHeader:
        config = self._config
        return TaskHeader(
            run=config.name,
            config_hash="",
            stage=stage.name,
            action="train",
            round=1,
            seed=derive_seed(SEED, stage.name),
            threads=config.threads,
            model=config.sized_model(),
            phenotypes=config.phenotypes,
            diseases=config.diseases,
            trains=stage.trains,
            train=STEP,
        )


def our_step(sites: list[Site], task: Task, before: Groups) -> Groups:
    """Return the weights after one round."""
    return fedavg(before, federated_step(sites, task, before))


def flowers_step(sites: list[Site], task: Task, before: Groups) -> Groups:
    """Return the weights after one round of Flower's FedAvg, which averages weights."""
    replies = []
    for number, site in enumerate(sites):
        update = serve(task, site)
        moved = {p: {n: a + update.delta[p][n] for n, a in g.items()} for p, g in before.items()}
        named = flat(dataclasses.replace(update, delta=moved))
        replies.append(reply(named, update.num_examples, node=2 + number))
    mean = average(replies) or {}
    return {p: {n: mean[f"{p}.{n}"] for n in g} for p, g in before.items()}


def federated_step(sites: list[Site], task: Task, before: Groups) -> Groups:
    """Return the mean update of one round, through the wire and the firewall."""
    mean = ExactMean()
    for site in sites:
        update = over_the_wire(serve(task, site))
        reason = screen(update, expected=before, max_examples=1000, sites=len(sites))
        if reason is not None:
            raise RuntimeError(f"the firewall refused {site.name}: {reason}")
        mean.fold(update.delta, update.num_examples)
    return mean.mean()


def over_the_wire(update: Update) -> Update:
    """Return an update as the server reads it."""
    return update_from_records(update_to_records(update))


def pooled_weights(sites: list[Site], header: TaskHeader, model: CardioNet, stage: Stage) -> Groups:
    """Return the weights after one step over the patients of all sites in one batch."""
    model = copy.deepcopy(model)
    freeze_all_but(model, stage.trains)
    model.train()
    objective = make_objective(stage.name, {}, PROGRESS)
    drawn = [_drawn(site, header, model, stage) for site in sites]
    batch = _joined([b for b, _ in drawn])
    noise = {k: torch.cat([n[k] for _, n in drawn]) for k in drawn[0][1]}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=STEP.lr)
    loss = objective.loss(model, batch, noise).per_patient.mean()
    torch.autograd.backward(loss)
    optimizer.step()
    return {part: part_arrays(model, part) for part in stage.trains}


def _drawn(site: Site, header: TaskHeader, model: CardioNet, stage: Stage) -> tuple[Batch, Noise]:
    """Return a site's patients with the crops and the noise that its own training draws."""
    dataset, seed = site.dataset(header), derive_seed(header.seed, site.name)
    rows = np.random.default_rng([seed, 0]).permutation(dataset.indices("train", stage.needs))
    batch = dataset.batch(rows, rng=np.random.default_rng([seed, 1]))
    objective = make_objective(stage.name, {}, PROGRESS)
    return batch, objective.draw(model, batch, torch.Generator().manual_seed(seed))


def _joined(batches: list[Batch]) -> Batch:
    names = [field.name for field in dataclasses.fields(Batch)]
    return Batch(**{name: torch.cat([getattr(b, name) for b in batches]) for name in names})


def _norm(a: Groups, b: Groups, learned: dict[str, frozenset[str]]) -> float:
    """Return the L2 norm of a - b over the arrays that an optimizer moves."""
    squares = [
        float(np.square(a[part][name].astype(np.float64) - b[part][name]).sum())
        for part, names in learned.items()
        for name in names
    ]
    return float(np.sqrt(sum(squares)))
