"""What benchmarks/privacy/utility.py measures on held-out patients, without privacy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.metrics import r2_score, roc_auc_score

from cardionets_core.evaluation.retrieval import match_ranks
from cardionets_core.training.loop import measure
from cardionets_core.training.objectives import make_objective
from cardionets_core.training.stages import STAGES
from cardionets_core.vocabulary import MAIN_PHENOTYPES

if TYPE_CHECKING:
    from utility_data import Patients

    from cardionets_core.batch import Batch
    from cardionets_core.models.cardionet import CardioNet

LEAST = 5
"""Test patients of each kind that an AUROC needs."""

GALLERY, DEPTH = 100, 10


@torch.no_grad()
def score(model: CardioNet, stage: str, patients: Patients) -> tuple[str, float]:
    """Return the name of a stage's metric and its value on the test patients."""
    model.eval()
    rows = patients.dataset.indices("test", STAGES[stage].needs)
    if stage not in ("phenotypes", "diseases", "contrastive"):
        losses = measure(
            model,
            patients.dataset,
            make_objective(stage, {}, 0.0),
            indices=rows,
            batch_size=64,
            seed=0,
            device=torch.device("cpu"),
        )
        return "loss (lower: better)", losses["loss"]
    batch = patients.dataset.batch(rows, rng=None)
    if stage == "phenotypes":
        return "mean R2, main phenotypes", _r2(model, batch, patients)
    if stage == "diseases":
        return _auroc(model, batch)
    return _recall(model, batch)


def _r2(model: CardioNet, batch: Batch, patients: Patients) -> float:
    found = model.phenotypes(batch.ecg, batch.lead_mask).numpy()
    truth, known = batch.phenotypes.numpy(), batch.phenotype_mask.numpy()
    columns = [patients.dataset.phenotypes.index(name) for name in MAIN_PHENOTYPES]
    values = [r2_score(truth[known[:, c], c], found[known[:, c], c]) for c in columns]
    return float(np.mean(values))


def _auroc(model: CardioNet, batch: Batch) -> tuple[str, float]:
    found = model.diseases(batch.ecg, batch.lead_mask).numpy()
    truth, known = batch.diseases.numpy(), batch.disease_mask.numpy()
    values = []
    for column in range(truth.shape[1]):
        labels = truth[known[:, column], column]
        if min(labels.sum(), len(labels) - labels.sum()) >= LEAST:
            values.append(roc_auc_score(labels, found[known[:, column], column]))
    return f"mean AUROC, {len(values)} diseases", float(np.mean(values))


def _recall(model: CardioNet, batch: Batch) -> tuple[str, float]:
    """Return how often a patient's own CMR is among the nearest DEPTH of GALLERY."""
    ecg = model.project_ecg(model.encode_ecg(batch.ecg, batch.lead_mask).pooled)
    cmr = model.project_cmr(model.encode_cmr(batch.cine, batch.view_mask))
    hits = []
    for start in range(0, len(batch) - GALLERY + 1, GALLERY):
        part = slice(start, start + GALLERY)
        hits.append(match_ranks((ecg[part] @ cmr[part].T).double().numpy()) <= DEPTH)
    if not hits:
        raise ValueError(f"{len(batch)} test patients are fewer than a gallery of {GALLERY}")
    return f"R@{DEPTH} of {GALLERY}", float(np.concatenate(hits).mean())
