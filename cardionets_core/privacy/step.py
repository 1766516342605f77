"""A private task at a site: a fixed number of noisy steps, and nothing said about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from cardionets_core.errors import SiteError
from cardionets_core.faults import fault_point
from cardionets_core.privacy.clippable import require_clippable
from cardionets_core.privacy.engines import (
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

    from torch import nn

    from cardionets_core.batch import Batch
    from cardionets_core.data.dataset import SiteDataset
    from cardionets_core.messages import TrainPlan
    from cardionets_core.models.cardionet import CardioNet
    from cardionets_core.privacy.mechanism import Mechanism
    from cardionets_core.privacy.rng import RandomSource
    from cardionets_core.training.objective import Noise, Objective

Engine = Literal["vmap", "loop", "ghost"]

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
    the tokenizer's latent statistics are left as they are (measuring them would be a release).

    Args:
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
    require_clippable(model, objective, trains=trains, grouping=mechanism.grouping, engine=engine)
    index = PatientIndex(dataset, needs)
    freeze_all_but(model, trains)
    parameters = parameters_of(model, trains)
    optimizer = make_optimizer(list(parameters.values()), plan)
    anchors = [p.detach().clone() for p in parameters.values()]
    model.train()
    for step in range(mechanism.steps):
        rows = index.sample(mechanism.rate, rng)
        pieces = _loaded(
            _groups(rows, mechanism, rng),
            model=model,
            dataset=dataset,
            objective=objective,
            index=index,
            seed=derive_seed(seed, step),
            device=device,
        )
        total = zeros_for(model, trains)
        for batch, noise in pieces:
            found = _sum(
                model, batch, noise, objective, trains=trains, mechanism=mechanism, engine=engine
            )
            for name, values in found.items():
                total[name] += values
        set_noisy_mean(parameters, total, mechanism, rng)
        if plan.proximal_mu:
            pull_back(list(parameters.values()), anchors, plan.proximal_mu)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        fault_point("mid_epoch")
    if not all(bool(p.isfinite().all()) for p in parameters.values()):
        raise SiteError("diverged")  # of the noisy weights: it tells no more than they would


@torch.no_grad()
def set_noisy_mean(
    parameters: Mapping[str, nn.Parameter], total: Sums, mechanism: Mechanism, rng: RandomSource
) -> None:
    """Set every gradient to (sum + noise) / groups: added in float64, rounded once."""
    for name, parameter in parameters.items():
        drawn = torch.from_numpy(rng.normal(tuple(parameter.shape), mechanism.noise_std))
        noisy = (total[name] + drawn.to(parameter.device)) / mechanism.groups
        parameter.grad = noisy.to(parameter.dtype)


def _groups(rows: np.ndarray, mechanism: Mechanism, rng: RandomSource) -> list[np.ndarray]:
    """Return the rows that are loaded together: the members of a bucket, or some patients."""
    if mechanism.grouping == "patient":
        return [rows[i : i + LOADED] for i in range(0, len(rows), LOADED)]
    labels = rng.integers(len(rows), int(mechanism.groups))
    return [rows[labels == k] for k in sorted(set(labels.tolist()))]


def _loaded(
    groups: Sequence[np.ndarray],
    *,
    model: CardioNet,
    dataset: SiteDataset,
    objective: Objective,
    index: PatientIndex,
    seed: int,
    device: torch.device,
) -> Iterator[tuple[Batch, Noise]]:
    for rows in groups:
        batch, noise = batch_and_noise(model, dataset, objective, index=index, rows=rows, seed=seed)
        yield batch.to(device), {k: v.to(device) for k, v in noise.items()}


def _sum(
    model: CardioNet,
    batch: Batch,
    noise: Noise,
    objective: Objective,
    *,
    trains: Sequence[str],
    mechanism: Mechanism,
    engine: Engine,
) -> Sums:
    clip = mechanism.clip
    if mechanism.grouping == "bucket":
        one = np.zeros(len(batch), dtype=np.int64)  # `_groups` has loaded one bucket
        return bucket_sum(model, batch, noise, objective, trains=trains, clip=clip, labels=one)
    if engine == "loop":
        return looped_sum(model, batch, noise, objective, trains=trains, clip=clip)
    if engine == "ghost":
        # Opacus takes seconds to import, and most sites never use it.
        from cardionets_core.privacy.ghost import ghost_sum

        return ghost_sum(model, batch, noise, objective, trains=trains, clip=clip)
    return clipped_sum(model, batch, noise, objective, trains=trains, clip=clip, chunk=CHUNK)
