"""Do all engines compute the same sum, on the real objectives of a small CardioNet?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from cardionets_core.models.cardionet import build_model
from cardionets_core.privacy.engines import Sums, bucket_sum, clipped_sum, looped_sum
from cardionets_core.privacy.ghost import ghost_sum
from cardionets_core.privacy.model_randomness import moved
from cardionets_core.training.loop import freeze_all_but
from cardionets_core.training.objectives import make_objective
from cardionets_core.training.stages import STAGES
from simulations.privacy.held import OPTIONS, small_plan, virtual_patients

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cardionets_core.batch import Batch
    from cardionets_core.models.cardionet import CardioNet
    from cardionets_core.training.objective import Noise, Objective

CLIP, PATIENTS, SEED = 0.05, 6, 3
LABELS = (0, 1, 0, 1, 1, 2)
"""Buckets of the patients; the last one is alone, and its bucket must add nothing."""

UNUSED = 2.0**-13
"""Share of C that the engines leave unused in float32, as room for rounding."""


@dataclass(frozen=True)
class Agreement:
    """How the engines agree on one stage.

    Attributes:
        apart: largest distance of an engine's sum from the reference, in C.
        tensors: trained ones.
        still: those in which the reference is 0 everywhere: nothing was compared there.
    """

    apart: float
    tensors: int
    still: tuple[str, ...]


def agreement(work: Path, stages: Sequence[str]) -> dict[str, Agreement]:
    """Return stage -> how its engines agree, on weights that are moved from their start.

    Per patient the reference is one patient at a time, beside vmap in chunks and ghost clipping; in
    buckets it is the plain gradient of a bucket's mean loss, clipped here.
    """
    plan = small_plan()
    batch = virtual_patients(work, plan, patients=PATIENTS, seed=SEED, cines=True)
    model = moved(build_model(plan.model, seed=0))
    found = {}
    for name in stages:
        objective = make_objective(name, OPTIONS.get(name, {}), 0.0)
        freeze_all_but(model, STAGES[name].trains)
        noise = objective.draw(model, batch, torch.Generator().manual_seed(SEED))
        compare = _per_patient if objective.per_patient else _in_buckets
        found[name] = compare(model, batch, noise, objective)
    return found


def still_in(sums: Sums) -> tuple[str, ...]:
    """Return the tensors of a sum of gradients that are 0 everywhere."""
    return tuple(name for name, values in sums.items() if not values.any())


def _per_patient(model: CardioNet, batch: Batch, noise: Noise, objective: Objective) -> Agreement:
    given, trains = (model, batch, noise, objective), STAGES[objective.name].trains
    reference = looped_sum(*given, trains=trains, clip=CLIP)
    others = (
        clipped_sum(*given, trains=trains, clip=CLIP, chunk=4),
        ghost_sum(*given, trains=trains, clip=CLIP, chunk=4),
    )
    return _compared(reference, others)


def _in_buckets(model: CardioNet, batch: Batch, noise: Noise, objective: Objective) -> Agreement:
    given, trains = (model, batch, noise, objective), STAGES[objective.name].trains
    labels = np.array(LABELS)
    engine = bucket_sum(*given, trains=trains, clip=CLIP, labels=labels)
    return _compared(_by_hand(*given, trains=trains), (engine,))


def _by_hand(
    model: CardioNet, batch: Batch, noise: Noise, objective: Objective, *, trains: Sequence[str]
) -> Sums:
    """Return the sum over buckets by an ordinary backward pass and one long vector for each."""
    named = {n: p for n, p in model.named_parameters() if n.split(".")[0] in trains}
    total = torch.zeros(sum(p.numel() for p in named.values()), dtype=torch.float64)
    for label in set(LABELS):
        rows = torch.tensor([i for i, own in enumerate(LABELS) if own == label])
        if len(rows) == 1:
            continue
        model.zero_grad(set_to_none=False)
        drawn = {k: v[rows] for k, v in noise.items()}
        objective.loss(model, batch.rows(rows), drawn).per_patient.mean().backward()  # type: ignore[no-untyped-call]
        gradient = torch.cat([_gradient(p).flatten().double() for p in named.values()])
        total += gradient * min(1.0, CLIP * (1.0 - UNUSED) / float(gradient.norm()))
    pieces = torch.split(total, [p.numel() for p in named.values()])
    return {n: v.view(p.shape) for (n, p), v in zip(named.items(), pieces, strict=True)}


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _compared(reference: Sums, others: Sequence[Sums]) -> Agreement:
    apart = max(float((_flat(o) - _flat(reference)).norm()) / CLIP for o in others)
    return Agreement(apart, len(reference), still_in(reference))


def _flat(sums: Sums) -> torch.Tensor:
    return torch.cat([v.flatten() for v in sums.values()])
