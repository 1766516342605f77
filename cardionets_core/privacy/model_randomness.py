"""What a patient's loss draws for itself: ECG crop, masks, diffusion times and noise.

These numbers hide nothing, so they may be repeated: they come from the task's seed. But the seed is
known to the coordinator. Were they drawn one patient after the other from one stream, one patient
more would change the draws of all who follow, and by that each of their clipped gradients: the sum
would move by far more than C. So every patient has a stream of their own, named by seed, step and
patient; who else is sampled does not touch it.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np
import torch

from cardionets_core.batch import Batch
from cardionets_core.runtime import derive_seed

if TYPE_CHECKING:
    from cardionets_core.data.dataset import SiteDataset
    from cardionets_core.models.cardionet import CardioNet
    from cardionets_core.privacy.units import PatientIndex
    from cardionets_core.training.objective import Noise, Objective


def batch_and_noise(
    model: CardioNet,
    dataset: SiteDataset,
    objective: Objective,
    *,
    index: PatientIndex,
    rows: np.ndarray,
    seed: int,
) -> tuple[Batch, Noise]:
    """Return the studies at `rows`, one per patient, with what the objective draws for each.

    Args:
        index: knows whose study a row is.
        rows: at least one.
        seed: of this step.
    """
    batches, noises = [], []
    for row in rows.tolist():
        own = derive_seed(seed, index.patient_of(row))
        batches.append(dataset.batch(np.array([row]), rng=np.random.default_rng(own)))
        noises.append(objective.draw(model, batches[-1], torch.Generator().manual_seed(own)))
    batch = {f.name: torch.cat([getattr(b, f.name) for b in batches]) for f in fields(Batch)}
    return Batch(**batch), {k: torch.cat([n[k] for n in noises]) for k in noises[0]}
