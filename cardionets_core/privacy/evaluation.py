"""Evaluation under privacy: the sums of both rounds that can be noised, in their usual names.

What is available: R2 and MAE of phenotypes, AUROC, AUPRC, Brier score and prevalence of diseases.
What is not, and why: `UNAVAILABLE`. Each round is one release and one charge. After the noise the
sums are made consistent, so that the server judges and adds them as any others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

from cardionets_core.errors import ConfigError, WireError
from cardionets_core.evaluation.fit import logit
from cardionets_core.evaluation.forward import Labels, evaluating, read_ecg, read_labels
from cardionets_core.evaluation.sums import section, under
from cardionets_core.privacy.metrics import (
    Part,
    Prior,
    bounds_of,
    moment_parts,
    moments,
    noise_of,
    released,
    to_total,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from cardionets_core.data.dataset import SiteDataset
    from cardionets_core.data.manifest import Split
    from cardionets_core.evaluation.options import EvaluationOptions
    from cardionets_core.evaluation.sums import Floats, Sums
    from cardionets_core.models.cardionet import CardioNet
    from cardionets_core.privacy.rng import RandomSource

AVAILABLE = ("phenotypes", "diseases")
"""Sections that can be scored under privacy."""

UNAVAILABLE = {
    "retrieval": "whether a patient is found depends on all others of the gallery: one patient "
    "changes everybody's rank, and no bound on the sum is useful",
    "generation": "mean cines and feature covariances have thousands of numbers per patient: noise "
    "that hides one patient drowns them at any cohort of this size",
}
"""Section -> why it is not available under privacy."""

BINS = 8
"""Score bins of a disease: noise goes on every bin, so there are few (benchmarks/privacy/sums.py);
what so few may change in an AUROC, at most, is reported beside it."""

ERRORS = Prior(0.0, 1.0, reach=3.0)
"""z-scores and their errors, in sd of the federation."""

SCORES = Prior(-2.0, 2.0)
"""Disease logits before anybody was counted: most diseases are rare."""

PROBES = ("ecg_location", "ecg_scale")
"""What a private score takes of the server's probes: [D] each."""

ALONE = 1
"""Patients in a batch. A matrix product's last bits change with how many share it, and with them
the score bins of others; and a server that chooses the batch would choose whose."""


def private_options(options: EvaluationOptions) -> EvaluationOptions:
    """Return the options that a private evaluation follows at the server and at every site.

    Raises:
        ConfigError: a section is asked that is not available under privacy.
    """
    for asked in options.sections:
        if asked in UNAVAILABLE:
            raise ConfigError(
                f"evaluation.sections: {asked} is not available under privacy: "
                f"{UNAVAILABLE[asked]}. Set evaluation.sections=[{', '.join(AVAILABLE)}]; judge "
                f"{asked} on public or virtual patients instead."
            )
    # No floor of patients: whether a count reaches it would be told exactly.
    return replace(options, replicates=0, score_bins=BINS, replicate_bins=BINS, minimum_patients=1)


def require_probes(probes: Mapping[str, Floats], *, diseases: int) -> None:
    """Refuse scales of disease scores that are not one number for each disease.

    They come from the server. Arrays of another shape would fit, or not, with the number of
    patients here, and whether an evaluation fails would tell that number exactly.

    Args:
        probes: of the task.
        diseases: D.

    Raises:
        WireError: names the array.
    """
    for name in PROBES:
        found = probes.get(name)
        if found is None:
            continue
        usable = found.shape == (diseases,) and found.dtype.kind == "f"
        if not (usable and np.isfinite(found).all()):
            raise WireError(f"probe {name!r} is not {diseases} finite numbers, one per disease")
    if not (probes.get("ecg_scale", np.ones(1)) > 0).all():
        raise WireError("probe 'ecg_scale' holds a number that is not above 0")


def private_fit_sums(
    model: CardioNet,
    dataset: SiteDataset,
    options: EvaluationOptions,
    *,
    noise: float,
    rng: RandomSource,
) -> Sums:
    """Return a site's sums for round `fit`, of its validation patients.

    The spread of the ECG model's errors, and location and scale of its disease scores. Baselines
    from covariates and probes on cines are not available.

    Args:
        model: the final global model.
        dataset: the site's studies.
        options: of `private_options`.
        noise: the noise multiplier; charge `metrics.release_charge(noise)` before.
        rng: the site's private randomness.

    Raises:
        ConfigError: a section that is not available.
    """
    options = private_options(options)
    parts: dict[str, Part] = {}
    with evaluating(model):
        heard = _hear(model, dataset, "validation")
    if "phenotypes" in options.sections:
        error = np.where(heard.labels.phenotype_mask, heard.labels.phenotypes, np.nan)
        parts |= _under("residual", moment_parts(error - heard.phenotypes, ERRORS))
    if "diseases" in options.sections:
        parts |= _under("ecg_score", moment_parts(logit(heard.probability), SCORES))
    sums = released(parts, noise, rng)
    spread = noise_of(bounds_of(parts), noise)
    found: Sums = {}
    for name, prior in (("residual", ERRORS), ("ecg_score", SCORES)):
        if f"{name}/known" in parts:
            settled = moments(section(sums, name), prior, noise_std=spread[f"{name}/known"])
            found |= under(name, settled.sums)
    if "ecg_score/n" in found:
        # One number in the usual sums: all scores are of the same patients.
        found["ecg_score/n"] = np.maximum(np.rint(found["ecg_score/n"].mean(keepdims=True)), 1.0)
    return found


def private_score_sums(
    model: CardioNet,
    dataset: SiteDataset,
    probes: Mapping[str, Floats],
    options: EvaluationOptions,
    *,
    noise: float,
    rng: RandomSource,
) -> Sums:
    """Return a site's sums for round `score`, of its test patients.

    Names and shapes as of `evaluation.evaluate.score_sums`; calibration curves are empty and
    Pearson's r is undefined (it would need two more noised sums).

    Args:
        model: the final global model.
        dataset: the site's studies.
        probes: of `solve_probes` over `private_fit_sums`; location and scale of disease scores.
        options: of `private_options`.
        noise: the noise multiplier; charge `metrics.release_charge(noise)` before.
        rng: the site's private randomness.

    Raises:
        ConfigError: a section that is not available.
        WireError: probes that are none (`require_probes`).
    """
    options = private_options(options)
    require_probes(probes, diseases=len(dataset.diseases))
    parts: dict[str, Part] = {}
    with evaluating(model):
        heard = _hear(model, dataset, "test")
    if "phenotypes" in options.sections:
        parts |= _under("phenotypes", _phenotype_parts(heard))
    if "diseases" in options.sections:
        parts |= _under("diseases", _disease_parts(heard, probes))
    sums = released(parts, noise, rng)
    found: Sums = {}
    if "phenotypes" in options.sections:
        found |= under("phenotypes", _phenotype_sums(section(sums, "phenotypes")))
    if "diseases" in options.sections:
        found |= under("diseases/ecg", _disease_sums(section(sums, "diseases"), options))
    return found


def score_bounds(options: EvaluationOptions, *, phenotypes: int, diseases: int) -> dict[str, float]:
    """Return the bounds of the groups that `private_score_sums` releases, for P and D columns."""
    nobody = _nobody(phenotypes, diseases)
    parts: dict[str, Part] = {}
    if "phenotypes" in options.sections:
        parts |= _under("phenotypes", _phenotype_parts(nobody))
    if "diseases" in options.sections:
        parts |= _under("diseases", _disease_parts(nobody, {}))
    return bounds_of(parts)


@dataclass(frozen=True)
class _Heard:
    """What the model says of N patients, one study each, beside what is known of them.

    Attributes:
        phenotypes: [N, P] predicted z-scores.
        probability: [N, D].
        labels: of the same studies.
    """

    phenotypes: Floats
    probability: Floats
    labels: Labels


def _hear(model: CardioNet, dataset: SiteDataset, split: Split) -> _Heard:
    """Read the ECG of every patient of the split who has one; nobody gives tables of no rows."""
    heard = read_ecg(model, dataset, split, size=ALONE)
    if heard is None:
        return _nobody(len(dataset.phenotypes), len(dataset.diseases))
    rows = _one_per_patient(dataset, heard.rows)
    told = heard.of(rows)
    return _Heard(told.phenotypes, told.probability, read_labels(dataset, rows, size=ALONE))


def _nobody(phenotypes: int, diseases: int) -> _Heard:
    values, flags = np.zeros((0, phenotypes)), np.zeros((0, diseases), dtype=np.bool_)
    none = Labels(
        covariates=np.zeros((0, 0)),
        covariate_mask=np.zeros((0, 0), dtype=np.bool_),
        phenotypes=values,
        phenotype_mask=values > 0,
        diseases=flags,
        disease_mask=flags,
    )
    return _Heard(values, flags.astype(np.float64), none)


def _one_per_patient(dataset: SiteDataset, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each patient's study with the most labels: a choice that nobody else can change."""
    table = dataset.manifest.table
    labels = table.reindex(columns=[*dataset.phenotypes, *dataset.diseases]).notna().sum(axis=1)
    order = rows[np.argsort(-labels.to_numpy()[rows], kind="stable")]
    patients = table["patient_id"].iloc[order]
    return np.sort(order[~patients.duplicated().to_numpy()])


def _phenotype_parts(heard: _Heard) -> dict[str, Part]:
    """Return what R2 and MAE need: moments of the truth, square and size of the error."""
    mask = heard.labels.phenotype_mask
    truth = np.where(mask, heard.labels.phenotypes, np.nan)
    error = moment_parts(truth - heard.phenotypes, ERRORS)
    root = error["known"].bound
    parts = moment_parts(truth, ERRORS)
    for name, unit in (("mean", parts["value"].table), ("ecg", error["value"].table)):
        parts[f"{name}/absolute"] = Part(np.abs(unit) - 0.5 * mask, 0.5 * root)
    return parts | {"ecg/squared_error": error["square"]}


def _phenotype_sums(sums: Mapping[str, Floats]) -> Sums:
    """Return the sums of `regression_sums` [1, P] that give the same R2 and MAE.

    Only the sum of squared errors is known, not prediction and truth apart: the prediction's own
    sums are zeros and its product with the truth is what leaves that error (so r is undefined).
    """
    count, reach = np.maximum(sums["known"], 0.0), ERRORS.reach

    def raised(name: str, power: int) -> Floats:
        return np.asarray(np.maximum(sums[name] + 0.5 * count, 0.0) * reach**power)

    zero, square = np.zeros_like(count), raised("square", 2)
    found = {"n": np.rint(count), "sum": sums["value"] * reach, "square": square}
    for name, error in (("mean", square), ("ecg", raised("ecg/squared_error", 2))):
        found |= {
            f"{name}/sum": zero,
            f"{name}/square": zero,
            f"{name}/cross": (square - error) / 2,
        }
        found[f"{name}/absolute"] = raised(f"{name}/absolute", 1)
    return {name: value[None] for name, value in found.items()}


def _disease_parts(heard: _Heard, probes: Mapping[str, Floats]) -> dict[str, Part]:
    """Return one bin and one class per patient and known disease, and the squared error."""
    known, truth = heard.labels.disease_mask, heard.labels.diseases
    root = float(np.sqrt(max(1, known.shape[1])))
    centre, scale = (
        probes.get(f"ecg_{n}", p) for n, p in (("location", SCORES.mean), ("scale", SCORES.sd))
    )
    share = ndtr((logit(heard.probability) - centre) / scale)
    place = np.clip((share * BINS).astype(np.int64), 0, BINS - 1)
    classes = np.stack([known & ~truth, known & truth], axis=1).astype(np.float64)
    one_hot = place[:, None, :, None] == np.arange(BINS)
    squared = np.where(known, (heard.probability - truth) ** 2 - 0.5, 0.0)
    return {
        "classes": Part(classes, root),
        "histogram": Part(classes[..., None] * one_hot, root),
        "brier": Part(squared, 0.5 * root),
    }


def _disease_sums(sums: Mapping[str, Floats], options: EvaluationOptions) -> Sums:
    """Return the sums of `binary_sums`: counts are whole, and bins add up to their class."""
    classes = np.maximum(np.rint(sums["classes"]), 0.0)
    n, diseases = classes.sum(axis=0), classes.shape[1]
    return {
        "n": n[None],
        "present": classes[1][None],
        "brier": np.clip(sums["brier"] + 0.5 * n, 0.0, n)[None],
        "histogram": to_total(sums["histogram"], classes),
        "replicates": np.zeros((0, 2, diseases, options.replicate_bins)),
        "calibration": np.zeros((3, diseases, options.calibration_bins)),
    }


def _under(prefix: str, parts: Mapping[str, Part]) -> dict[str, Part]:
    return {f"{prefix}/{name}": part for name, part in parts.items()}
