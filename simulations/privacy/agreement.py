"""Do all engines compute the same sum, on the real objectives of a small CardioNet?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cardionets_core.models.cardionet import build_model
from cardionets_core.privacy.engines import Sums, clipped_sum, looped_sum
from cardionets_core.privacy.ghost import ghost_sum
from cardionets_core.training.loop import freeze_all_but
from cardionets_core.training.objectives import make_objective
from cardionets_core.training.stages import STAGES
from simulations.privacy.held import small_plan, virtual_patients

if TYPE_CHECKING:
    from pathlib import Path

CLIP, PATIENTS, SEED = 0.05, 6, 3


def differences(work: Path, stages: tuple[str, ...]) -> dict[str, float]:
    """Return stage -> the largest distance of an engine's sum from the reference, in C.

    The reference takes one patient at a time; vmap in chunks and ghost clipping are compared.
    """
    plan = small_plan()
    batch = virtual_patients(work, plan, patients=PATIENTS, seed=SEED, cines=True)
    model = build_model(plan.model, seed=0)
    found = {}
    for name in stages:
        objective, trains = make_objective(name, {}, 0.0), STAGES[name].trains
        freeze_all_but(model, trains)
        noise = objective.draw(model, batch, torch.Generator().manual_seed(SEED))
        given = (model, batch, noise, objective)
        reference = _flat(looped_sum(*given, trains=trains, clip=CLIP))
        others = (
            clipped_sum(*given, trains=trains, clip=CLIP, chunk=4),
            ghost_sum(*given, trains=trains, clip=CLIP),
        )
        found[name] = max(float((_flat(o) - reference).norm()) / CLIP for o in others)
    return found


def _flat(sums: Sums) -> torch.Tensor:
    return torch.cat([v.flatten() for v in sums.values()])
