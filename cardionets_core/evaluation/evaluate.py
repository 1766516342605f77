"""Evaluation of a run in two federated rounds, and what comes of it.

    fit    fit_sums at every site -> merge -> solve_probes
    score  score_sums at every site, on its own held-out patients -> merge -> summarise

Everything that a site sends is a sum over at least `minimum_patients` of its patients; none is an
embedding, a prediction or an image of one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

from cardionets_core.evaluation.fit import Probes, enough, fit_sums, logit, solve_probes
from cardionets_core.evaluation.forward import (
    cmr_embedding,
    evaluating,
    patient_weights,
    read_batches,
    read_ecg,
    read_labels,
)
from cardionets_core.evaluation.generation import PAIRED, generation_sums
from cardionets_core.evaluation.metrics import binary_sums, regression_sums
from cardionets_core.evaluation.probes import covariate_design, fuse
from cardionets_core.evaluation.retrieval import retrieval_sums
from cardionets_core.evaluation.summary import summarise
from cardionets_core.evaluation.sums import Floats, Sums, merge, under
from cardionets_core.runtime import derive_seed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from cardionets_core.data.dataset import SiteDataset
    from cardionets_core.evaluation.forward import EcgReading, LabelKind, Labels
    from cardionets_core.evaluation.options import EvaluationOptions
    from cardionets_core.models.cardionet import CardioNet

__all__ = ["Probes", "Sums", "fit_sums", "merge", "score_sums", "solve_probes", "summarise"]


def score_sums(
    model: CardioNet,
    dataset: SiteDataset,
    probes: Mapping[str, Floats],
    options: EvaluationOptions,
    *,
    seed: int,
) -> Sums:
    """Return a site's sums over its test split; sections that it cannot serve are left out.

    Args:
        model: the final global model.
        dataset: the site's studies.
        probes: of `solve_probes`, the same for all sites.
        options: the same for all sites.
        seed: of the run; bootstrap weights, sampled cines and capped subsets follow from it.
    """
    sums: Sums = {}
    seed = derive_seed(seed, dataset.manifest.sha256)
    with evaluating(model):
        heard = read_ecg(model, dataset, "test", size=options.batch_size)
        if heard is None:
            return sums
        if "phenotypes" in options.sections:
            found = _score_phenotypes(heard, dataset, probes, options, seed)
            sums |= under("phenotypes", found)
        if "diseases" in options.sections:
            sums |= under("diseases", _score_diseases(heard, dataset, probes, options, seed))
        if "retrieval" in options.sections:
            found = _score_retrieval(model, heard, dataset, options, seed)
            sums |= under("retrieval", found)
        if "generation" in options.sections:
            found = generation_sums(model, dataset, probes, options, seed=seed)
            sums |= under("generation", found)
    return sums


@dataclass(frozen=True)
class _HeldOut:
    """Test patients who have an ECG and labels of one kind.

    Attributes:
        rows: their studies, int [N].
        known: what is known of them.
        mask: the labels that are scored, bool [N, K].
        weights: of the bootstrap, [1 + R, N].
    """

    rows: NDArray[np.int64]
    known: Labels
    mask: NDArray[np.bool_]
    weights: Floats


def _held_out(
    kind: LabelKind, dataset: SiteDataset, options: EvaluationOptions, seed: int
) -> _HeldOut | None:
    """Return whom a site scores by labels of one kind; None where there are too few of them."""
    rows = dataset.indices("test", frozenset({"ecg", kind}))
    if len(rows) < options.minimum_patients:
        return None
    known = read_labels(dataset, rows, size=options.batch_size)
    mask = enough(known.of(kind)[1], options.minimum_patients)
    weights = patient_weights(dataset, rows, replicates=options.replicates, seed=seed)
    return _HeldOut(rows, known, mask, weights)


def _score_phenotypes(
    heard: EcgReading,
    dataset: SiteDataset,
    probes: Mapping[str, Floats],
    options: EvaluationOptions,
    seed: int,
) -> Sums:
    held_out = _held_out("phenotypes", dataset, options, seed)
    if held_out is None:
        return {}
    known = held_out.known
    guess = heard.of(held_out.rows).phenotypes
    design = covariate_design(known.covariates, known.covariate_mask)
    predictions = {"mean": np.zeros_like(guess), "ecg": guess}
    if "covariates_phenotypes" in probes:
        predictions["covariates"] = design @ probes["covariates_phenotypes"].T
    if "fusion" in probes:
        predictions["ecg_covariates"] = fuse(design, guess, probes["fusion"])
    return regression_sums(known.phenotypes, held_out.mask, predictions, held_out.weights)


def _score_diseases(
    heard: EcgReading,
    dataset: SiteDataset,
    probes: Mapping[str, Floats],
    options: EvaluationOptions,
    seed: int,
) -> Sums:
    held_out = _held_out("diseases", dataset, options, seed)
    if held_out is None:
        return {}
    known, mask, weights = held_out.known, held_out.mask, held_out.weights
    bins = (options.score_bins, options.replicate_bins, options.calibration_bins)
    probability = heard.of(held_out.rows).probability
    rank = _spread(logit(probability), probes, "ecg")
    found = binary_sums(known.diseases, mask, probability, rank, weights, bins=bins)
    sums = under("ecg", found)
    if "covariates_diseases" in probes:
        design = covariate_design(known.covariates, known.covariate_mask)
        linear = design @ probes["covariates_diseases"].T
        rank = _spread(linear, probes, "covariates")
        share = np.clip(linear, 0.0, 1.0)
        found = binary_sums(known.diseases, mask, share, rank, weights, bins=bins)
        sums |= under("covariates", found)
    return sums


def _score_retrieval(
    model: CardioNet,
    heard: EcgReading,
    dataset: SiteDataset,
    options: EvaluationOptions,
    seed: int,
) -> Sums:
    rows = _one_per_patient(dataset, dataset.indices("test", PAIRED))
    if len(rows) > options.retrieval_patients:
        rng = np.random.default_rng(derive_seed(seed, "gallery"))
        rows = np.sort(rng.choice(rows, options.retrieval_patients, replace=False))
    if len(rows) < options.minimum_patients:
        return {}
    ecg = heard.of(rows).embedding
    batches = read_batches(dataset, rows, size=options.batch_size, device=model.device)
    cmr = np.concatenate([cmr_embedding(model, b.cine, b.view_mask) for b in batches])
    weights = patient_weights(dataset, rows, replicates=options.replicates, seed=seed)
    return retrieval_sums(ecg, cmr, weights)


def _one_per_patient(dataset: SiteDataset, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each patient's first study: another one of the same patient is no wrong answer."""
    patients = dataset.manifest.table["patient_id"].iloc[rows]
    return rows[~patients.duplicated().to_numpy()]


def _spread(score: Floats, probes: Mapping[str, Floats], name: str) -> Floats:
    """Return the scores as shares of a normal distribution, which fills the bins evenly."""
    centre = probes.get(f"{name}_location", np.zeros(score.shape[1]))
    scale = probes.get(f"{name}_scale", np.ones(score.shape[1]))
    return np.asarray(ndtr((score - centre) / scale), dtype=np.float64)
