"""Aligning ECG and CMR: InfoNCE with weighted negatives, or distillation from a CMR teacher."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from cardionets_core.models.blocks import masked_mean
from cardionets_core.training.objective import (
    Losses,
    Noise,
    Objective,
    ObjectiveKind,
    make_losses,
    no_noise,
)

if TYPE_CHECKING:
    from cardionets_core.batch import Batch
    from cardionets_core.models.cardionet import CardioNet

PARTS = ("ecg_encoder", "ecg_projector", "cmr_encoder", "cmr_projector")
NEEDS = frozenset({"ecg", "cine"})


@dataclass(frozen=True)
class Pairs:
    """Both sides of B patients, encoded.

    Attributes:
        ecg: pooled features of the ECG encoder [B, W].
        cmr: descriptors of the CMR encoder [B, W].
        known: who has both sides, bool [B].
    """

    ecg: Tensor
    cmr: Tensor
    known: Tensor


def contrastive_loss(
    model: CardioNet, batch: Batch, noise: Noise, *, options: dict[str, float]
) -> Losses:
    """Symmetric InfoNCE over the batch, plus the regression of phenotypes from both sides.

    The loss of a patient depends on the whole batch: on K sites the mean over sites is not the
    loss of the pooled batch, because negatives come from the own site only.
    """
    pairs = encode_pairs(model, batch, freeze_cmr=bool(options["freeze_cmr"]))
    if options["descriptor_phenotypes"]:
        distance = phenotype_distance(batch.phenotypes, batch.phenotype_mask)
    else:
        distance = descriptor_distance(pairs.cmr.detach().float(), pairs.known)
    weights = negative_weights(distance, options["sigma"]) * pairs.known
    alignment = info_nce(
        model.project_ecg(pairs.ecg),
        model.project_cmr(pairs.cmr),
        weights,
        temperature=options["temperature"],
    )
    return pair_losses(model, batch, pairs, alignment, weight=options["phenotype_weight"])


def encode_pairs(model: CardioNet, batch: Batch, *, freeze_cmr: bool) -> Pairs:
    """Return what the encoders make of both sides of every patient.

    Args:
        model: its two encoders are read.
        batch: B patients.
        freeze_cmr: no gradient reaches the CMR encoder.
    """
    ecg = model.encode_ecg(batch.ecg, batch.lead_mask).pooled
    with torch.set_grad_enabled(torch.is_grad_enabled() and not freeze_cmr):
        cmr = model.encode_cmr(batch.cine, batch.view_mask)
    return Pairs(ecg, cmr, known=batch.lead_mask.any(1) & batch.view_mask.any(1))


def pair_losses(
    model: CardioNet, batch: Batch, pairs: Pairs, alignment: Tensor, *, weight: float
) -> Losses:
    """Return the alignment of the pairs plus the regression of phenotypes from both sides.

    Args:
        model: its two projectors are read.
        batch: the patients of `pairs`.
        pairs: of `encode_pairs`.
        alignment: [B]; it counts for those who have both sides.
        weight: of the regression.
    """
    alignment = alignment * pairs.known
    regression_ecg = phenotype_error(model.ecg_projector.phenotypes(pairs.ecg), batch)
    regression_cmr = phenotype_error(model.cmr_projector.phenotypes(pairs.cmr), batch)
    regression = regression_ecg + regression_cmr
    return make_losses(
        alignment + weight * regression * pairs.known,
        alignment=alignment,
        regression_ecg=regression_ecg,
        regression_cmr=regression_cmr,
    )


def info_nce(ecg: Tensor, cmr: Tensor, weights: Tensor, *, temperature: float) -> Tensor:
    """Return the symmetric InfoNCE of each pair, [B]: the mean of both directions.

    A pair's own similarity counts fully in its denominator, that of negative j by weights[i, j]:
    -log(e^{s_ii} / (e^{s_ii} + sum_{j != i} w_ij e^{s_ij})), s = cosine / temperature.

    Args:
        ecg: unit vectors [B, E].
        cmr: unit vectors [B, E].
        weights: [B, B] in [0, 1]; the diagonal is not read. All ones is plain InfoNCE.
        temperature: above 0.
    """
    logits = ecg.float() @ cmr.float().T / temperature
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    floor = torch.finfo(logits.dtype).tiny
    log_weights = torch.where(own, torch.ones_like(weights), weights).clamp(min=floor).log()
    positive = logits.diagonal()
    forwards = (logits + log_weights).logsumexp(1) - positive
    backwards = (logits.T + log_weights).logsumexp(1) - positive
    return 0.5 * (forwards + backwards)


def negative_weights(distance_squared: Tensor, sigma: float) -> Tensor:
    """Return 1 - exp(-d^2 / sigma^2) of squared distances [B, B]; all ones for sigma = 0."""
    if sigma == 0.0:
        return torch.ones_like(distance_squared)
    return -torch.expm1(-distance_squared / sigma**2)


def descriptor_distance(descriptor: Tensor, known: Tensor) -> Tensor:
    """Return squared distances [B, B] between CMR descriptors [B, W] of `known` [B] patients.

    Descriptors are centred and scaled over the batch so that two random patients are 2 apart, as
    two z-scored phenotypes are on average: one sigma then means the same for both kinds of
    distance.
    """
    weight = known.to(descriptor.dtype)[:, None]
    count = weight.sum().clamp(min=1.0)
    centred = (descriptor - (descriptor * weight).sum(0) / count) * weight
    energy = centred.square().sum() / count
    centred = centred / energy.clamp(min=1e-12).sqrt()
    return (centred[:, None] - centred[None]).square().sum(-1)


def phenotype_distance(phenotypes: Tensor, mask: Tensor) -> Tensor:
    """Return mean squared distances [B, B] over the phenotypes that both patients have.

    Infinite where they share none: an unknown distance leaves the negative at full weight.
    """
    known = mask.to(phenotypes.dtype)
    value = phenotypes * known
    square = value.square() @ known.T
    total = square + square.T - 2.0 * value @ value.T
    shared = known @ known.T
    mean = total.clamp(min=0.0) / shared.clamp(min=1.0)
    return torch.where(shared > 0, mean, torch.full_like(mean, torch.inf))


def phenotype_error(prediction: Tensor, batch: Batch) -> Tensor:
    """Return the masked SmoothL1 of z-scored phenotypes, the mean within each patient, [B]."""
    if not batch.phenotypes.shape[1]:
        return prediction.new_zeros(len(batch))
    error = F.smooth_l1_loss(prediction, batch.phenotypes, reduction="none")
    return masked_mean(error, batch.phenotype_mask)


def distill_loss(
    model: CardioNet, batch: Batch, noise: Noise, *, options: dict[str, float]
) -> Losses:
    """1 - cosine to the frozen CMR teacher, plus the regression of phenotypes from the ECG.

    Per patient, so clean under per-patient clipping and independent of the batch size.
    """
    paired = batch.lead_mask.any(1) & batch.view_mask.any(1)
    ecg = model.encode_ecg(batch.ecg, batch.lead_mask).pooled
    with torch.no_grad():
        teacher = model.project_cmr(model.encode_cmr(batch.cine, batch.view_mask))
    alignment = (1.0 - (model.project_ecg(ecg) * teacher).sum(-1)) * paired
    regression = phenotype_error(model.ecg_projector.phenotypes(ecg), batch)
    total = alignment + options["phenotype_weight"] * regression * paired
    return make_losses(total, alignment=alignment, regression_ecg=regression)


def _make_contrastive(options: dict[str, float], progress: float) -> Objective:
    loss = partial(contrastive_loss, options=options)
    return Objective("contrastive", no_noise, loss, per_patient=False)


def _make_distill(options: dict[str, float], progress: float) -> Objective:
    loss = partial(distill_loss, options=options)
    return Objective("distill", no_noise, loss, per_patient=True)


CONTRASTIVE = ObjectiveKind(
    "contrastive",
    NEEDS,
    PARTS,
    {
        "temperature": 0.05,
        "sigma": 0.5,
        "phenotype_weight": 1.0,
        "descriptor_phenotypes": 0.0,
        "freeze_cmr": 0.0,
    },
    _make_contrastive,
)
DISTILL = ObjectiveKind(
    "distill", NEEDS, ("ecg_encoder", "ecg_projector"), {"phenotype_weight": 1.0}, _make_distill
)
