"""A private task at a site: a fixed number of noisy steps, and nothing said about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from cardionets_core.errors import SiteError
from cardionets_core.faults import fault_point
from cardionets_core.privacy.clippable import require_clippable
from cardionets_core.privacy.engines import (
    Engine,
    Sums,
    bucket_sum,
    clipped_sum,
    looped_sum,
    parameters_of,
    zeros_for,
)
from cardionets_core.privacy.model_randomness import batch_and_noise
from cardionets_core.privacy.rng import require_production
from cardionets_core.privacy.units import PatientIndex
from cardionets_core.runtime import derive_seed
from cardionets_core.training.loop import freeze_all_but, make_optimizer, pull_back

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from types import ModuleType

    from torch import nn

    from cardionets_core.batch import Batch
    from cardionets_core.data.dataset import SiteDataset
    from cardionets_core.messages import TrainPlan
    from cardionets_core.models.cardionet import CardioNet
    from cardionets_core.privacy.mechanism import Mechanism
    from cardionets_core.privacy.rng import RandomSource
    from cardionets_core.training.objective import Noise, Objective

CHUNK = 8
"""Patients whose gradients `vmap` holds at a time: benchmarks/privacy/engines.py."""

LOADED = 64
"""Patients whose records are in memory at a time; a Poisson sample has no largest size."""


def train_privately(
    model: CardioNet,
    dataset: SiteDataset,
    objective: Objective,
    *,
    trains: Sequence[str],
    needs: Collection[str],
    plan: TrainPlan,
    mechanism: Mechanism,
    rng: RandomSource,
    seed: int,
    device: torch.device,
    engine: Engine = "vmap",
) -> None:
    """Train the parts `trains` of `model` in place with DP-SGD (Abadi et al. 2016) per patient.

    It takes `mechanism.steps` steps whatever the data are: a step in which nobody is sampled is
    taken too. Nothing about the data is returned or logged; the weights are all there is. The
    ledger is charged before it is called. Of the plan only optimizer, learning rate, weight decay
    and proximal term count: `clip_norm`, `batch_size`, epochs and budget have no meaning here, and
    the tokenizer's latent statistics are left as they are (measuring them is a release of its own:
    privacy/latents.py).

    Args:
        objective: in its private form (privacy.objectives).
        needs: what a study must have (words of SiteDataset.indices).
        mechanism: noise, rate, clip and normaliser.
        rng: draws membership, labels and noise.
        seed: fixes crops, masks and all that the objective draws.
        engine: for per-patient clipping; buckets have one of their own.

    Raises:
        TypeError: `rng` is not PrivacyRandom.
        PrivacyError: `privacy_plan`: the objective or a layer cannot be clipped.
        SiteError: `diverged`: the noisy weights are not finite.
    """
    require_production(rng)
    require_trainable(model, objective, trains=trains, mechanism=mechanism, engine=engine)
    freeze_all_but(model, trains)
    parameters = parameters_of(model, trains)
    optimizer = make_optimizer(list(parameters.values()), plan)
    anchors = [p.detach().clone() for p in parameters.values()]
    index = PatientIndex(dataset, needs)
    steps = _Steps(model, dataset, objective, tuple(trains), mechanism, index, engine)
    model.train()
    for step in range(mechanism.steps):
        total = steps.sum(rng, derive_seed(seed, step), device)
        set_noisy_mean(parameters, total, mechanism, rng)
        if plan.proximal_mu:
            pull_back(list(parameters.values()), anchors, plan.proximal_mu)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        fault_point("mid_epoch")
    if not all(bool(p.isfinite().all()) for p in parameters.values()):
        raise SiteError("diverged")  # of the noisy weights: it tells no more than they would


def require_trainable(
    model: CardioNet,
    objective: Objective,
    *,
    trains: Sequence[str],
    mechanism: Mechanism,
    engine: Engine,
) -> None:
    """Refuse what cannot be trained privately, also by trying the ghost engine on made-up patients.

    To be called before the ledger is charged: what is refused then has cost nothing. Training asks
    again, for whoever has not. Nothing here looks at records.

    Raises:
        PrivacyError: `privacy_plan`.
    """
    require_clippable(model, objective, trains=trains, grouping=mechanism.grouping, engine=engine)
    # With a GPU's coarser products ghost and one patient at a time would not agree.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if engine == "ghost" and mechanism.grouping == "patient":
        _ghost().require_agreement(model, objective, trains)


@torch.no_grad()
def set_noisy_mean(
    parameters: Mapping[str, nn.Parameter], total: Sums, mechanism: Mechanism, rng: RandomSource
) -> None:
    """Set every gradient to (sum + noise) / groups: added in float64, rounded once."""
    for name, parameter in parameters.items():
        drawn = torch.from_numpy(rng.normal(tuple(parameter.shape), mechanism.noise_std))
        noisy = (total[name] + drawn.to(parameter.device)) / mechanism.groups
        parameter.grad = noisy.to(parameter.dtype)


@dataclass(frozen=True)
class _Steps:
    """All that the steps of one task have in common."""

    model: CardioNet
    dataset: SiteDataset
    objective: Objective
    trains: tuple[str, ...]
    mechanism: Mechanism
    index: PatientIndex
    engine: Engine

    def sum(self, rng: RandomSource, seed: int, device: torch.device) -> Sums:
        """Sample patients and return the sum of the clipped gradients of their groups."""
        rows = self.index.sample(self.mechanism.rate, rng)
        total = zeros_for(self.model, self.trains)
        for together in self._loaded_together(rows, rng):
            batch, noise = batch_and_noise(
                self.model,
                self.dataset,
                self.objective,
                index=self.index,
                rows=together,
                seed=seed,
            )
            noise = {k: v.to(device) for k, v in noise.items()}
            for name, values in self._clipped(batch.to(device), noise).items():
                total[name] += values
        return total

    def _loaded_together(self, rows: np.ndarray, rng: RandomSource) -> Iterator[np.ndarray]:
        """Yield the members of a bucket, or some patients; nothing where nobody was sampled."""
        if self.mechanism.grouping == "patient":
            yield from (rows[i : i + LOADED] for i in range(0, len(rows), LOADED))
            return
        labels = rng.integers(len(rows), int(self.mechanism.groups))
        yield from (rows[labels == k] for k in np.unique(labels))

    def _clipped(self, batch: Batch, noise: Noise) -> Sums:
        model, objective, trains = self.model, self.objective, self.trains
        clip = self.mechanism.clip
        if self.mechanism.grouping == "bucket":
            one = np.zeros(len(batch), dtype=np.int64)  # one bucket was loaded
            return bucket_sum(model, batch, noise, objective, trains=trains, clip=clip, labels=one)
        if self.engine == "loop":
            return looped_sum(model, batch, noise, objective, trains=trains, clip=clip)
        if self.engine == "ghost":
            found: Sums = _ghost().ghost_sum(
                model, batch, noise, objective, trains=trains, clip=clip, chunk=LOADED
            )
            return found
        return clipped_sum(model, batch, noise, objective, trains=trains, clip=clip, chunk=CHUNK)


def _ghost() -> ModuleType:
    """Return the ghost engine; its libraries take seconds to import, and most never use it."""
    from cardionets_core.privacy import ghost

    return ghost
