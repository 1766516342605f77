"""Forward passes over a site's patients: what the model says of each, as NumPy arrays.

Test-time crops are averaged here, for evaluation and for `cardionets predict` alike: phenotypes and
embeddings as they are, diseases as probabilities.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

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
    from cardionets_core.data.manifest import Split
    from cardionets_core.evaluation.sums import Floats
    from cardionets_core.models.cardionet import CardioNet

LabelKind = Literal["phenotypes", "diseases"]


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
class EcgReading:
    """The ECG side's outputs for a split, computed once and shared by the sections.

    Attributes:
        rows: the studies, ascending.
        outputs: theirs, in that order.
    """

    rows: NDArray[np.int64]
    outputs: EcgOutputs

    def of(self, rows: NDArray[np.int64]) -> EcgOutputs:
        """Return the outputs of some of the studies."""
        place = np.searchsorted(self.rows, rows)
        return EcgOutputs(**{n: getattr(self.outputs, n)[place] for n in _OUTPUTS})


_OUTPUTS = ("phenotypes", "crop_spread", "probability", "embedding")


@dataclass(frozen=True)
class Labels:
    """What is known of N patients; fields as in Batch."""

    covariates: Floats
    covariate_mask: NDArray[np.bool_]
    phenotypes: Floats
    phenotype_mask: NDArray[np.bool_]
    diseases: NDArray[np.bool_]
    disease_mask: NDArray[np.bool_]

    def of(self, kind: LabelKind) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the labels of one kind, float64 [N, K], and which of them are known."""
        if kind == "phenotypes":
            return self.phenotypes, self.phenotype_mask
        return self.diseases.astype(np.float64), self.disease_mask


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
    phenotypes, probability = [], []
    with autocast(lead_mask.device):
        for crop in crops:
            phenotypes.append(to_numpy(model.phenotypes(crop, lead_mask)))
            probability.append(to_numpy(torch.sigmoid(model.diseases(crop, lead_mask).float())))
    return EcgOutputs(
        phenotypes=np.mean(phenotypes, axis=0),
        crop_spread=np.std(phenotypes, axis=0, ddof=1 if len(phenotypes) > 1 else 0),
        probability=np.mean(probability, axis=0),
        embedding=ecg_embedding(model, crops, lead_mask),
    )


def ecg_embedding(model: CardioNet, crops: Sequence[Tensor], lead_mask: Tensor) -> Floats:
    """Return unit vectors [B, E]: the mean over the crops, projected back to length one."""
    with autocast(lead_mask.device):
        pooled = [model.encode_ecg(crop, lead_mask).pooled for crop in crops]
        mean = np.mean([to_numpy(model.project_ecg(p)) for p in pooled], axis=0)
    return np.asarray(mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12))


def read_ecg(
    model: CardioNet, dataset: SiteDataset, split: Split, *, size: int
) -> EcgReading | None:
    """Return the ECG side's outputs for every study of the split that has an ECG."""
    rows = dataset.indices(split, frozenset({"ecg"}))
    if not len(rows):
        return None
    parts = [ecg_outputs(model, *crops) for crops in _crops(model, dataset, rows, size)]
    gathered = {n: np.concatenate([getattr(p, n) for p in parts]) for n in _OUTPUTS}
    return EcgReading(rows, EcgOutputs(**gathered))


def read_embedding(
    model: CardioNet, dataset: SiteDataset, rows: NDArray[np.int64], *, size: int
) -> Floats:
    """Return the unit vectors [N, E] of the studies `rows`, which must have an ECG."""
    parts = [ecg_embedding(model, *crops) for crops in _crops(model, dataset, rows, size)]
    return np.concatenate(parts)


def _crops(
    model: CardioNet, dataset: SiteDataset, rows: NDArray[np.int64], size: int
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Yield (test-time crops, lead mask) of the studies, at most `size` at a time."""
    for start in range(0, len(rows), size):
        chosen = rows[start : start + size]
        batches = [
            dataset.batch(chosen, rng=None, crop=crop)
            for crop in range(model.config.ecg.test_crops)
        ]
        crops = [b.ecg.to(model.device) for b in batches]
        yield crops, batches[0].lead_mask.to(model.device)


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
