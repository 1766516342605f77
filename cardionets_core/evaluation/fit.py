"""Round `fit` of the evaluation: what must be learnt from training and validation patients first.

Training patients give the covariates-only reference, the probe that measures phenotypes on cines
and the mean cine; validation patients give the spread of the ECG model's errors and the late
fusion. Test patients are not touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from cardionets_core.evaluation.fidelity import feature_sums
from cardionets_core.evaluation.forward import (
    evaluating,
    feature_projection,
    read_batches,
    read_ecg,
    read_labels,
    to_numpy,
    view_features,
)
from cardionets_core.evaluation.options import EvaluationOptions
from cardionets_core.evaluation.probes import (
    covariate_design,
    fusion_equations,
    normal_equations,
    solve,
    solve_fusion,
    with_intercept,
)
from cardionets_core.evaluation.sums import Floats, Sums, ratio, section, under

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from cardionets_core.data.dataset import SiteDataset
    from cardionets_core.evaluation.forward import EcgReading, LabelKind
    from cardionets_core.models.cardionet import CardioNet

Probes = dict[str, Floats]
"""What round `fit` learnt, by name; sent to every site for round `score`."""

PROBABILITY_FLOOR = 1e-6
"""Probabilities are kept this far from 0 and 1 where a logit is taken."""


def fit_sums(model: CardioNet, dataset: SiteDataset, options: EvaluationOptions) -> Sums:
    """Return a site's sums for round `fit`; sections that the site cannot serve are left out."""
    sums: Sums = {}
    with evaluating(model):
        heard = read_ecg(model, dataset, "validation", size=options.batch_size)
        if "phenotypes" in options.sections:
            sums |= _phenotype_sums(heard, dataset, options)
        if "diseases" in options.sections:
            sums |= _disease_sums(heard, dataset, options)
        if "generation" in options.sections:
            sums |= _cine_sums(model, dataset, options)
    return sums


def solve_probes(merged: Mapping[str, Floats], options: EvaluationOptions | None = None) -> Probes:
    """Solve the merged sums of all sites.

    Returns:
        `covariates_phenotypes` [P, 9], `fusion` [P, 10], `residual_sd` [P] (0: nobody could measure
        it), `residual_n` [P]; `covariates_diseases` [D, 9] and the `location` and `scale` of both
        disease scores [D]; `cmr_probe` [P, 1 + F], `mean_cine` [K, H, W], `train_features/...`.
        A group is absent where no site could serve it.
    """
    options = options or EvaluationOptions()
    probes: Probes = {}
    for name in ("covariates_phenotypes", "covariates_diseases", "cmr_probe"):
        equations = section(merged, name)
        if equations:
            probes[name] = solve(equations, ridge=options.ridge)
    fusion = section(merged, "fusion")
    if fusion and "covariates_phenotypes" in probes:
        covariates = probes["covariates_phenotypes"]
        probes["fusion"] = solve_fusion(fusion, covariates, ridge=options.fusion_ridge)
    probes |= _residual_spread(section(merged, "residual"))
    probes |= _score_scales(merged, probes)
    cine = section(merged, "mean_cine")
    if cine:
        probes["mean_cine"] = cine["sum"] / cine["n"][0]
        probes |= under("train_features", section(merged, "train_features"))
    return probes


def enough(mask: NDArray[np.bool_], minimum: int) -> NDArray[np.bool_]:
    """Return the mask [N, P] with columns of fewer than `minimum` known patients emptied.

    A sum over one or two patients would be those patients; such a column leaves the site as zeros.
    """
    return np.asarray(mask & (mask.sum(axis=0) >= minimum), dtype=np.bool_)


def logit(probability: Floats) -> Floats:
    """Return log(p / (1 - p)), finite everywhere."""
    p = np.clip(probability, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    return np.log(p / (1 - p))


def _covariate_sums(kind: LabelKind, dataset: SiteDataset, options: EvaluationOptions) -> Sums:
    """Return what the covariates-only reference of one kind of labels is solved from."""
    rows = dataset.indices("train", frozenset({kind}))
    if len(rows) < options.minimum_patients:
        return {}
    labels = read_labels(dataset, rows, size=options.batch_size)
    truth, known = labels.of(kind)
    design = covariate_design(labels.covariates, labels.covariate_mask)
    equations = normal_equations(design, truth, enough(known, options.minimum_patients))
    return under(f"covariates_{kind}", equations)


def _phenotype_sums(
    heard: EcgReading | None, dataset: SiteDataset, options: EvaluationOptions
) -> Sums:
    sums = _covariate_sums("phenotypes", dataset, options)
    rows = dataset.indices("validation", frozenset({"ecg", "phenotypes"}))
    if heard is not None and len(rows) >= options.minimum_patients:
        known = read_labels(dataset, rows, size=options.batch_size)
        mask = enough(known.phenotype_mask, options.minimum_patients)
        design = covariate_design(known.covariates, known.covariate_mask)
        guess = heard.of(rows).phenotypes
        error = np.where(mask, known.phenotypes - guess, 0.0)
        sums |= under("fusion", fusion_equations(design, guess, known.phenotypes, mask))
        sums |= {
            "residual/n": mask.sum(axis=0).astype(np.float64),
            "residual/sum": error.sum(axis=0),
            "residual/square": (error**2).sum(axis=0),
        }
    return sums


def _disease_sums(
    heard: EcgReading | None, dataset: SiteDataset, options: EvaluationOptions
) -> Sums:
    sums = _covariate_sums("diseases", dataset, options)
    rows = dataset.indices("validation", frozenset({"ecg", "diseases"}))
    if heard is not None and len(rows) >= options.minimum_patients:
        scores = logit(heard.of(rows).probability)
        sums |= {
            "ecg_score/n": np.array([float(len(rows))]),
            "ecg_score/sum": scores.sum(axis=0),
            "ecg_score/square": (scores**2).sum(axis=0),
        }
    return sums


def _cine_sums(model: CardioNet, dataset: SiteDataset, options: EvaluationOptions) -> Sums:
    place = model.generated_view
    projection = feature_projection(model.config.cmr_encoder.width, options.feature_dim)
    features, truths, masks, total = [], [], [], 0.0
    rows = dataset.indices("train", frozenset({"cine"}))
    for batch in read_batches(dataset, rows, size=options.batch_size, device=model.device):
        seen = batch.rows(torch.nonzero(batch.view_mask[:, place])[:, 0])
        if not len(seen):
            continue
        cine = seen.cine[:, place]
        features.append(view_features(model, cine, projection))
        truths.append(to_numpy(seen.phenotypes))
        masks.append(seen.phenotype_mask.cpu().numpy())
        total = total + to_numpy(cine).sum(axis=0)
    if sum(len(f) for f in features) < options.minimum_patients:
        return {}
    table = np.concatenate(features)
    mask = enough(np.concatenate(masks), options.minimum_patients)
    equations = normal_equations(with_intercept(table), np.concatenate(truths), mask)
    return {
        "mean_cine/n": np.array([float(len(table))]),
        "mean_cine/sum": np.asarray(total),
        **under("cmr_probe", equations),
        **under("train_features", feature_sums(table)),
    }


def _residual_spread(sums: Mapping[str, Floats]) -> Probes:
    """Return the root-mean-square error on validation patients, its bias included; 0 if unknown."""
    if not sums:
        return {}
    spread = np.sqrt(np.nan_to_num(ratio(sums["square"], sums["n"])))
    return {"residual_sd": spread, "residual_n": sums["n"]}


def _score_scales(merged: Mapping[str, Floats], probes: Mapping[str, Floats]) -> Probes:
    """Return location and scale of the disease scores, which spread them evenly over the bins."""
    scales: Probes = {}
    ecg = section(merged, "ecg_score")
    if ecg:
        mean = ecg["sum"] / ecg["n"][0]
        scales["ecg_location"] = mean
        scales["ecg_scale"] = _sd(ecg["square"] / ecg["n"][0] - mean**2)
    linear = section(merged, "covariates_diseases")
    if linear:
        weights, n = probes["covariates_diseases"], np.maximum(linear["n"], 1.0)
        mean = np.einsum("dc,dc->d", weights, linear["gram"][:, 0]) / n
        square = np.einsum("dc,dce,de->d", weights, linear["gram"], weights) / n
        scales["covariates_location"], scales["covariates_scale"] = mean, _sd(square - mean**2)
    return scales


def _sd(variance: Floats) -> Floats:
    """Return the square root, and 1 where there is no spread."""
    return np.where(variance > 1e-12, np.sqrt(np.maximum(variance, 1e-12)), 1.0)
