"""What a patient's loss draws for itself: ECG crop, masks, diffusion times and noise.

These numbers hide nothing, so they may be repeated: they come from the task's seed. But the seed is
known to the coordinator. Were they drawn one patient after the other from one stream, one patient
more would change the draws of all who follow, and by that each of their clipped gradients: the sum
would move by far more than C. So every patient has a stream of their own, named by seed, step and
patient; who else is sampled does not touch it.
"""

from __future__ import annotations

import copy
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

MOVE = 0.02
"""How far `moved` moves a weight at most: less than what most of them start with."""


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
    seeds = [derive_seed(seed, index.patient_of(row)) for row in rows.tolist()]
    alone = [
        dataset.batch(np.array([row]), rng=np.random.default_rng(own))
        for row, own in zip(rows.tolist(), seeds, strict=True)
    ]
    batch = Batch(**{f.name: torch.cat([getattr(b, f.name) for b in alone]) for f in fields(Batch)})
    drawn = [
        objective.draw(model, one, torch.Generator().manual_seed(own))
        for one, own in zip(alone, seeds, strict=True)
    ]
    return batch, {k: torch.cat([d[k] for d in drawn]) for k in drawn[0]}


def moved(model: CardioNet) -> CardioNet:
    """Return a copy whose weights are moved a little, each by a number of its own.

    Readouts and the last layers of blocks start at zero, and no gradient passes a layer of zeros:
    at its start weights nine tenths of a model have none. Whoever compares or bounds gradients
    there looks at readouts alone.
    """
    found = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in found.parameters():
            wave = torch.arange(parameter.numel(), device=parameter.device).sin()
            parameter.add_(wave.view_as(parameter).to(parameter.dtype), alpha=MOVE)
    return found


def made_up_patients(
    model: CardioNet, objective: Objective, *, seed: int = 0
) -> tuple[Batch, Noise]:
    """Return three patients who do not exist, one of them without half the leads and one view.

    They have what every objective needs, in the model's precision and on its device.

    Args:
        seed: of what the objective draws for them.
    """
    config, weight = model.config, next(model.parameters())
    cine, views = config.cine, len(config.cine.views)

    def wave(*shape: int, step: float) -> torch.Tensor:
        count = 3 * int(np.prod(shape, dtype=np.int64))
        return torch.arange(count).mul(step).sin().view(3, *shape).to(weight.dtype)

    def known(count: int) -> torch.Tensor:
        mask = torch.ones(3, count, dtype=torch.bool)
        mask[1, (count + 1) // 2 :] = False
        return mask

    lead_mask, view_mask = known(12), known(views)
    batch = Batch(
        ecg=wave(12, config.ecg.crop_samples, step=0.37) * lead_mask[..., None],
        lead_mask=lead_mask,
        cine=wave(views, cine.phases, cine.size_px, cine.size_px, step=0.73)
        * view_mask[:, :, None, None, None],
        view_mask=view_mask,
        covariates=wave(4, step=1.1),
        covariate_mask=known(4),
        phenotypes=wave(config.num_phenotypes, step=1.3),
        phenotype_mask=known(config.num_phenotypes),
        diseases=(wave(config.num_diseases, step=1.7) > 0).to(weight.dtype),
        disease_mask=known(config.num_diseases),
    )
    noise = objective.draw(model, batch, torch.Generator().manual_seed(seed))
    return batch.to(weight.device), {
        k: v.to(weight.device, weight.dtype if v.is_floating_point() else v.dtype)
        for k, v in noise.items()
    }
