"""Phenotypes by squared error, diseases by cross-entropy; missing labels are masked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

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


def phenotype_loss(model: CardioNet, batch: Batch, noise: Noise) -> Losses:
    """Squared error of the z-scored phenotypes that a patient has, averaged within the patient."""
    prediction = model.phenotypes(batch.ecg, batch.lead_mask)
    error = (prediction - batch.phenotypes).square()
    loss = masked_mean(error, batch.phenotype_mask & batch.lead_mask.any(1, keepdim=True))
    return make_losses(loss, regression=loss)


def disease_loss(model: CardioNet, batch: Batch, noise: Noise) -> Losses:
    """Binary cross-entropy of the labels that are known, averaged within the patient."""
    logits = model.diseases(batch.ecg, batch.lead_mask)
    error = F.binary_cross_entropy_with_logits(logits, batch.diseases, reduction="none")
    loss = masked_mean(error, batch.disease_mask & batch.lead_mask.any(1, keepdim=True))
    return make_losses(loss, classification=loss)


def _make_phenotypes(options: dict[str, float], progress: float) -> Objective:
    return Objective("phenotypes", no_noise, phenotype_loss, per_patient=True)


def _make_diseases(options: dict[str, float], progress: float) -> Objective:
    return Objective("diseases", no_noise, disease_loss, per_patient=True)


PHENOTYPES = ObjectiveKind(
    "phenotypes", frozenset({"ecg", "phenotypes"}), ("phenotype_head",), {}, _make_phenotypes
)
DISEASES = ObjectiveKind(
    "diseases", frozenset({"ecg", "diseases"}), ("disease_head",), {}, _make_diseases
)
