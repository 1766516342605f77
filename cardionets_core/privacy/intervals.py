"""Intervals of a private evaluation: what noise may have done to a metric, put into its interval.

The noise has a known size, so it can be added again to what was released: post-processing, at no
cost. The intervals of an evaluation without privacy say how far other patients would have given
other numbers; both parts are added as independent errors.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cardionets_core.evaluation.metrics import auroc, r_squared
from cardionets_core.evaluation.sums import ratio, section
from cardionets_core.privacy.evaluation import ERRORS, score_bounds
from cardionets_core.privacy.metrics import noise_of, to_total

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cardionets_core.evaluation.options import EvaluationOptions
    from cardionets_core.evaluation.sums import Floats, Sums

AGAIN = 200
"""Times that noise is added again; the error of the sd is 5 %."""

Z = 1.959964
"""Standard normal quantile of a 95 % interval."""

NOTES = {
    "noise": "Sums were noised at each site (docs/privacy.md), and so are numbers of patients. "
    "Whether the noise has left a metric any use: `privacy.warnings` of the summary.",
    "interval": "95 %: of AUROC by Hanley and McNeil, with this noise counted in; of R2 and MAE "
    "what the noise alone may have done. Nothing else has one.",
}
"""What a private report says in place of the usual notes (evaluation/summary.py), and first."""

Report = dict[str, Any]


def with_noise(
    report: Mapping[str, Any],
    per_site: Mapping[str, Sums],
    pooled: Sums,
    options: EvaluationOptions,
    *,
    noise: float,
) -> Report:
    """Return a report of `summarise` whose intervals count in the noise of private sums.

    Args:
        report: of these sums.
        per_site: site name -> sums of `private_score_sums`.
        pooled: their sum.
        options: of `private_options`.
        noise: the multiplier that every site's release had.
    """
    told: Report = copy.deepcopy(dict(report))
    told["notes"] = NOTES | {k: v for k, v in told["notes"].items() if k not in NOTES}
    _widen(told["pooled"], pooled, options, noise=noise, sites=sum(map(bool, per_site.values())))
    for name, sums in per_site.items():
        _widen(told["sites"][name], sums, options, noise=noise, sites=1)
    return told


def noise_sd(
    sums: Sums, options: EvaluationOptions, *, noise: float, sites: int
) -> dict[str, Floats]:
    """Return the sd that noise gives `r2` and `mae_sd` [P] and `auroc` [D]; without a section none.

    Args:
        sums: of one release, or the sum of several sites' releases.
        options: of `private_options`.
        noise: the multiplier.
        sites: releases in the sum.
    """
    phenotypes, diseases = section(sums, "phenotypes"), section(sums, "diseases/ecg")
    count = phenotypes["n"].shape[1] if phenotypes else 0
    kinds = diseases["n"].shape[1] if diseases else 0
    bounds = score_bounds(options, phenotypes=count, diseases=kinds)
    std = {k: v * np.sqrt(sites) for k, v in noise_of(bounds, noise).items()}
    found: dict[str, Floats] = {}
    if phenotypes:
        # Each square is released less half of the count, which adds a noise of the same size.
        square = ERRORS.reach**2 * np.sqrt(2) * std["phenotypes/ecg/squared_error"]
        scatter = phenotypes["square"] - ratio(phenotypes["sum"] ** 2, phenotypes["n"])
        worse = np.hypot(1.0, 1.0 - r_squared(phenotypes, "ecg"))
        found["r2"] = (worse * ratio(np.full_like(scatter, square), scatter))[0]
        absolute = ERRORS.reach * np.sqrt(2) * std["phenotypes/ecg/absolute"]
        found["mae_sd"] = ratio(np.full_like(scatter, absolute), phenotypes["n"])[0]
    if diseases:
        bins, classes = std["diseases/histogram"], std["diseases/classes"]
        found["auroc"] = _area_sd(diseases["histogram"], bins=bins, classes=classes)
    return found


def _area_sd(histogram: Floats, *, bins: float, classes: float) -> Floats:
    """Return the sd of the AUROC [D] under noise on the bins [2, D, B] and on their classes."""
    source = np.random.default_rng(0)  # of a figure for readers; it hides nothing
    areas = []
    for _ in range(AGAIN):
        total = histogram.sum(-1) + source.normal(0.0, classes, histogram.shape[:-1])
        noised = histogram + source.normal(0.0, bins, histogram.shape)
        area = auroc(to_total(noised, np.maximum(total, 0.0)))[0]
        areas.append(np.where(np.isfinite(area), area, 0.5))
    return np.asarray(np.std(areas, axis=0))


def _widen(
    part: Report, sums: Sums, options: EvaluationOptions, *, noise: float, sites: int
) -> None:
    sd = noise_sd(sums, options, noise=noise, sites=sites)
    phenotypes, diseases = section(sums, "phenotypes"), section(sums, "diseases/ecg")
    rows = part["phenotypes"].get("by_phenotype", {})
    for place, row in _in_order(rows, phenotypes.get("n")):
        own = row["ecg"]
        if "mae" in own and own["mae_sd"]["value"]:
            unit = own["mae"]["value"] / own["mae_sd"]["value"]
            _wider(own["mae"], unit * sd["mae_sd"][place])
        _wider(own["mae_sd"], sd["mae_sd"][place])
        _wider(own["r2"], sd["r2"][place])
    rows = part["diseases"].get("by_disease", {})
    for place, row in _in_order(rows, diseases.get("n")):
        _wider(row["ecg"]["auroc"], sd["auroc"][place], within=(0.0, 1.0))


def _in_order(rows: Mapping[str, Report], n: Floats | None) -> list[tuple[int, Report]]:
    """Return the rows of a table with their columns: those with patients, in the order of names."""
    if n is None:
        return []
    return list(zip(np.flatnonzero(n[0] > 0).tolist(), rows.values(), strict=True))


def _wider(
    estimate: Report, sd: float, *, within: tuple[float, float] = (-math.inf, math.inf)
) -> None:
    """Add an error to the interval of one estimate, in place; one without value has none."""
    value = estimate["value"]
    if value is None or not math.isfinite(sd):
        return
    for end, sign in (("low", -1.0), ("high", 1.0)):
        known = estimate[end]
        half = math.hypot(0.0 if known is None else value - known, Z * sd)
        estimate[end] = float(f"{min(max(value + sign * half, within[0]), within[1]):.6g}")
