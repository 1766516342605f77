"""From sums to the report: plain numbers for summary.json, per site and pooled.

Undefined numbers (one class only, no patient) are None, never NaN, so that the JSON is valid.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cardionets_core.evaluation.fidelity import SHRINKAGE, frechet_distance
from cardionets_core.evaluation.metrics import (
    Estimate,
    auroc,
    auroc_estimate,
    average_precision,
    average_precision_estimate,
    brier,
    calibration_curve,
    calibration_error,
    estimate,
    mean_absolute_error,
    pearson,
    pearson_estimate,
    r_squared,
)
from cardionets_core.evaluation.retrieval import summarise_retrieval
from cardionets_core.evaluation.sums import mean_known, ratio, section
from cardionets_core.vocabulary import PHENOTYPE_BY_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cardionets_core.evaluation.fit import Probes
    from cardionets_core.evaluation.sums import Floats, Sums

PREDICTORS = ("mean", "covariates", "ecg", "ecg_covariates")
"""Rows of the phenotype table, in order."""

MEASURED = (
    "real",
    "conditional",
    "conditional_mean",
    "neighbour",
    "unconditional",
    "mean_image",
)
"""Cines on which phenotypes are measured; `conditional_mean` averages over a patient's samples."""

KINDS = ("conditional", "neighbour", "unconditional", "mean_image")

NOTES = {
    "split": "All numbers are of held-out test patients; split by patient.",
    "interval": "95 %: Hanley and McNeil (AUROC), Fisher (r), Wilson (recall); no replicate of a "
    "bootstrap leaves a site, so R2 has none.",
    "r2": "1 - SSE / SST about the mean of the scored patients (as scikit-learn).",
    "mean": "Predicts the federation's training mean for everyone; R2 is 0 or a little below.",
    "covariates": "Linear in age, sex, height, weight (with missing indicators), fitted on all "
    "sites' training patients. For diseases: a linear probability.",
    "ecg": "The phenotype or disease head on the ECG alone; test-time crops averaged.",
    "ecg_covariates": "Late fusion: an intercept and weights for the predictions of the ECG and "
    "of the covariates, solved on validation patients.",
    "auroc": "From binned scores; `bin_error` is the most that binning can have changed.",
    "recall": "Share of held-out patients whose own CMR (ECG) is among the k most alike of the "
    "site's held-out patients; a tie counts as a miss.",
    "frechet": "Between Gaussians of CMR features (generated view only) of held-out real cines and "
    f"the others; {SHRINKAGE:g} of the real mean variance added to both diagonals. Lower is "
    "better; depends on the number of patients. `real_train` is what real cines of other patients "
    "score.",
    "fidelity": "Phenotypes measured on a cine by a linear probe fitted on real training cines, "
    "against the patient's true phenotypes. `real` is the probe's ceiling.",
    "ssim_psnr": "A blurry mean image can win both; never rank a generator by them alone.",
    "memory": "Distance from a generated cine to the site's nearest training cine over the same "
    "for real held-out cines; far below 1 means that training cines are repeated.",
}
"""What the numbers are, for people."""


def summarise(
    per_site: Mapping[str, Sums],
    merged: Sums,
    phenotypes: Sequence[str],
    diseases: Sequence[str],
    *,
    phenotype_sd: Sequence[float] | None = None,
    probes: Probes | None = None,
) -> dict[str, Any]:
    """Return the evaluation as plain numbers.

    Args:
        per_site: site name -> sums of `score_sums`.
        merged: their sum.
        phenotypes: names in the order of the model's outputs.
        diseases: likewise.
        phenotype_sd: the scaler's sd; with it errors are also given in the phenotype's unit.
        probes: of `solve_probes`; adds real training cines to the Frechet distances.
    """

    def describe(sums: Sums) -> dict[str, Any]:
        return {
            "phenotypes": _phenotypes(section(sums, "phenotypes"), phenotypes, phenotype_sd),
            "diseases": _diseases(section(sums, "diseases"), diseases),
            "retrieval": summarise_retrieval(section(sums, "retrieval")),
            "generation": _generation(section(sums, "generation"), phenotypes, probes or {}),
        }

    report = {
        "notes": NOTES,
        "pooled": describe(merged),
        "sites": {name: describe(sums) for name, sums in per_site.items()},
    }
    plain: dict[str, Any] = _plain(report)
    return plain


def residual_sd(probes: Mapping[str, Floats], count: int) -> tuple[float, ...]:
    """Return the checkpoint's residual sd per phenotype, in z units; 0 where it is not known."""
    values = probes.get("residual_sd", np.zeros(count))
    return tuple(float(v) for v in values)


# --------------------------------------------------------------------------------------- sections


def _phenotypes(
    sums: Mapping[str, Floats], names: Sequence[str], sd: Sequence[float] | None
) -> dict[str, Any]:
    if not sums:
        return {}
    rows = [p for p in PREDICTORS if f"{p}/cross" in sums]
    each = {p: _regression(sums, p, names, sd) for p in rows}
    table = {
        name: {
            "patients": int(sums["n"][0, i]),
            "unit": PHENOTYPE_BY_NAME[name].unit if name in PHENOTYPE_BY_NAME else "",
            **{p: each[p][i] for p in rows},
        }
        for i, name in enumerate(names)
        if sums["n"][0, i] > 0
    }
    return {
        "average": {p: {"r2": _average(r_squared(sums, p))} for p in rows},
        "by_phenotype": table,
    }


def _regression(
    sums: Mapping[str, Floats], predictor: str, names: Sequence[str], sd: Sequence[float] | None
) -> list[dict[str, Any]]:
    r2, r = estimate(r_squared(sums, predictor)), pearson_estimate(sums, predictor)
    mae = estimate(mean_absolute_error(sums, predictor))
    rows: list[dict[str, Any]] = []
    for i in range(len(names)):
        row = {"r2": _value(r2, i), "r": _value(r, i), "mae_sd": _value(mae, i)}
        if sd is not None:
            row["mae"] = {k: v * sd[i] for k, v in _value(mae, i).items()}
        rows.append(row)
    return rows


def _diseases(sums: Mapping[str, Floats], names: Sequence[str]) -> dict[str, Any]:
    if not sums:
        return {}
    groups = {p: section(sums, p) for p in ("ecg", "covariates") if section(sums, p)}
    each = {p: _scores(group, len(names)) for p, group in groups.items()}
    n, present = groups["ecg"]["n"][0], groups["ecg"]["present"][0]
    table = {
        name: {
            "patients": int(n[i]),
            "present": int(present[i]),
            "prevalence": float(present[i] / n[i]),
            **{p: each[p][i] for p in groups},
        }
        for i, name in enumerate(names)
        if n[i] > 0
    }
    average = {p: {"auroc": _mean_of(auroc_estimate(g))} for p, g in groups.items()}
    return {"average": average, "by_disease": table}


def _scores(sums: Mapping[str, Floats], count: int) -> list[dict[str, Any]]:
    area, precision = auroc_estimate(sums), average_precision_estimate(sums)
    area_error = auroc(sums["histogram"])[1]
    precision_error = average_precision(sums["histogram"])[1]
    squared, ece = estimate(brier(sums)), calibration_error(sums)
    predicted, observed, patients = calibration_curve(sums)
    return [
        {
            "auroc": {**_value(area, i), "bin_error": float(area_error[i])},
            "auprc": {**_value(precision, i), "bin_error": float(precision_error[i])},
            "brier": _value(squared, i),
            "ece": float(ece[i]),
            "calibration": {
                "probability": predicted[i].tolist(),
                "frequency": observed[i].tolist(),
                "patients": patients[i].tolist(),
            },
        }
        for i in range(count)
    ]


def _generation(
    sums: Mapping[str, Floats], names: Sequence[str], probes: Mapping[str, Floats]
) -> dict[str, Any]:
    if not sums:
        return {}
    real = section(sums, "features/real")
    frechet = {k: frechet_distance(real, section(sums, f"features/{k}")) for k in KINDS}
    frechet["real_train"] = frechet_distance(real, section(probes, "train_features"))
    n = sums["patients"]
    return {
        "patients": int(n[0]),
        "frechet": frechet,
        "fidelity": _fidelity(section(sums, "fidelity"), names),
        **{m: _per_patient(sums, m, n) for m in ("ssim", "psnr", "diversity")},
        "memory": _memory(section(sums, "memory")),
    }


def _fidelity(sums: Mapping[str, Floats], names: Sequence[str]) -> dict[str, Any]:
    kinds = [k for k in MEASURED if f"{k}/cross" in sums]
    r2 = {k: r_squared(sums, k) for k in kinds}
    r = {k: pearson(sums, k) for k in kinds}
    each = {k: (estimate(r2[k]), pearson_estimate(sums, k)) for k in kinds}
    return {
        "average": {k: {"r2": _average(r2[k]), "r": _average(r[k])} for k in kinds},
        "by_phenotype": {
            name: {
                k: {"r2": _value(each[k][0], i), "r": _value(each[k][1], i)}
                for k in kinds
            }
            for i, name in enumerate(names)
            if sums["n"][0, i] > 0
        },
    }  # fmt: skip


def _memory(sums: Mapping[str, Floats]) -> dict[str, Any]:
    if not sums:
        return {}
    n = sums["patients"]
    near = {k: _value(estimate(ratio(sums[k], n))) for k in ("real", "conditional")}
    return {**near, "ratio": _value(estimate(ratio(sums["conditional"], sums["real"])))}


def _per_patient(sums: Mapping[str, Floats], metric: str, n: Floats) -> dict[str, Any]:
    return {k: _value(estimate(ratio(total, n))) for k, total in section(sums, metric).items()}


# ---------------------------------------------------------------------------------------- numbers


def _average(replicated: Floats) -> dict[str, float]:
    """Return the mean over the defined columns with its interval."""
    defined = np.isfinite(replicated[0])
    return _value(estimate(mean_known(np.where(defined, replicated, np.nan))))


def _mean_of(values: Estimate) -> dict[str, float]:
    """Return the mean over columns alone: intervals of columns do not average."""
    return {"value": float(mean_known(values.value))}


def _value(values: Estimate, place: int | None = None) -> dict[str, float]:
    names = ("value", "low", "high")
    picked = (getattr(values, n) for n in names)
    return {n: float(v if place is None else v[place]) for n, v in zip(names, picked, strict=True)}


def _plain(value: Any) -> Any:
    """Return the value with NaN and infinity as None and rounded to six significant digits."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
