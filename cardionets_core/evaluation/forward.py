"""Forward passes over a site's patients: what the model says of each, as NumPy arrays.

Test-time crops are averaged here, for evaluation and for `cardionets predict` alike: phenotypes and
embeddings as they are, diseases as probabilities.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from cardionets_core.evaluation.sums import bootstrap_weights
from cardionets_core.runtime import autocast

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from cardionets_core.batch import Batch
    from cardionets_core.data.dataset import SiteDataset
    from cardionets_core.evaluation.sums import Floats
    from cardionets_core.models.cardionet import CardioNet


@dataclass(frozen=True)
class EcgOutputs:
    """What the ECG side says of N patients, averaged over the test-time crops.

    Attributes:
        phenotypes: [N, P] in standard deviations of the federation.
        crop_spread: [N, P] sd between the crops, likewise.
        probability: [N, D].
        embedding: [N, E] unit vectors.
    """

    phenotypes: Floats
    crop_spread: Floats
    probability: Floats
    embedding: Floats


@dataclass(frozen=True)
class Labels:
    """What is known of N patients; fields as in Batch."""

    covariates: Floats
    covariate_mask: NDArray[np.bool_]
    phenotypes: Floats
    phenotype_mask: NDArray[np.bool_]
    diseases: NDArray[np.bool_]
    disease_mask: NDArray[np.bool_]


@contextmanager
def evaluating(model: CardioNet) -> Iterator[None]:
    """Put the model into eval mode without gradients, and back as it was."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def read_batches(
    dataset: SiteDataset, rows: NDArray[np.int64], *, size: int, device: torch.device, crop: int = 0
) -> Iterator[Batch]:
    """Yield the studies `rows` in order, at most `size` at a time."""
    for start in range(0, len(rows), size):
        yield dataset.batch(rows[start : start + size], rng=None, crop=crop).to(device)


def read_labels(dataset: SiteDataset, rows: NDArray[np.int64], *, size: int) -> Labels:
    """Return what is known of the studies `rows`."""
    batches = list(read_batches(dataset, rows, size=size, device=torch.device("cpu")))

    def numbers(name: str) -> Floats:
        return np.concatenate([getattr(b, name).numpy() for b in batches]).astype(np.float64)

    def flags(name: str) -> NDArray[np.bool_]:
        return np.concatenate([getattr(b, name).numpy() for b in batches]).astype(np.bool_)

    return Labels(
        covariates=numbers("covariates"),
        covariate_mask=flags("covariate_mask"),
        phenotypes=numbers("phenotypes"),
        phenotype_mask=flags("phenotype_mask"),
        diseases=flags("diseases"),
        disease_mask=flags("disease_mask"),
    )


def patient_weights(
    dataset: SiteDataset, rows: NDArray[np.int64], *, replicates: int, seed: int
) -> Floats:
    """Return bootstrap weights [1 + R, N] of the studies `rows`, by patient.

    Args:
        dataset: the site's studies.
        rows: studies; those of one patient share their weights.
        replicates: R.
        seed: the site's own, because the same id at two hospitals is not the same patient.
    """
    patients = [str(p) for p in dataset.manifest.table["patient_id"].iloc[rows]]
    return bootstrap_weights(patients, replicates=replicates, seed=seed)


def ecg_outputs(model: CardioNet, crops: Sequence[Tensor], lead_mask: Tensor) -> EcgOutputs:
    """Run the ECG side on several crops of the same patients and average.

    Args:
        model: in eval mode.
        crops: each [B, 12, T].
        lead_mask: [B, 12].
    """
    phenotypes, probability, embedding = [], [], []
    with autocast(lead_mask.device):
        for crop in crops:
            phenotypes.append(to_numpy(model.phenotypes(crop, lead_mask)))
            probability.append(to_numpy(torch.sigmoid(model.diseases(crop, lead_mask).float())))
            pooled = model.encode_ecg(crop, lead_mask).pooled
            embedding.append(to_numpy(model.project_ecg(pooled)))
    mean = np.mean(embedding, axis=0)
    return EcgOutputs(
        phenotypes=np.mean(phenotypes, axis=0),
        crop_spread=np.std(phenotypes, axis=0, ddof=1 if len(phenotypes) > 1 else 0),
        probability=np.mean(probability, axis=0),
        embedding=mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12),
    )


def read_ecg_outputs(
    model: CardioNet, dataset: SiteDataset, rows: NDArray[np.int64], *, size: int
) -> EcgOutputs:
    """Return the ECG side's outputs for the studies `rows`, which must have an ECG."""
    device, parts = model.device, []
    for start in range(0, len(rows), size):
        chosen = rows[start : start + size]
        batches = [
            dataset.batch(chosen, rng=None, crop=crop).to(device)
            for crop in range(model.config.ecg.test_crops)
        ]
        parts.append(ecg_outputs(model, [b.ecg for b in batches], batches[0].lead_mask))
    names = ("phenotypes", "crop_spread", "probability", "embedding")
    return EcgOutputs(**{n: np.concatenate([getattr(p, n) for p in parts]) for n in names})


def cmr_embedding(model: CardioNet, cine: Tensor, view_mask: Tensor) -> Floats:
    """Return unit vectors [B, E] of cines [B, V, K, H, W]."""
    with autocast(cine.device):
        projected = model.project_cmr(model.encode_cmr(cine, view_mask))
    return to_numpy(functional.normalize(projected.float(), dim=-1))


def view_features(model: CardioNet, cine: Tensor, projection: Floats) -> Floats:
    """Return CMR features [B, F] of cines [B, K, H, W] of the generated view, the others absent."""
    views, place = len(model.config.cine.views), model.generated_view
    stacked = cine.new_zeros(len(cine), views, *cine.shape[1:])
    stacked[:, place] = cine
    mask = torch.zeros(len(cine), views, dtype=torch.bool, device=cine.device)
    mask[:, place] = True
    with autocast(cine.device):
        pooled = model.encode_cmr(stacked, mask)
    return to_numpy(pooled) @ projection


def feature_projection(width: int, dim: int) -> Floats:
    """Return a fixed matrix [width, min(width, dim)] with orthonormal columns.

    It keeps the sums that travel small; the same at every site. The identity where dim >= width.
    """
    if dim >= width:
        return np.eye(width)
    table = np.random.default_rng(0).normal(size=(width, dim))
    return np.asarray(np.linalg.qr(table)[0], dtype=np.float64)


def to_numpy(tensor: Tensor) -> Floats:
    """Return the tensor as float64 NumPy."""
    return np.asarray(tensor.detach().float().cpu().numpy(), dtype=np.float64)
