"""Linear probes from normal equations that add up across sites.

One round sums X'X and X'y over all sites' training patients; the solution is the one of pooled
ridge regression. Used for the covariates-only reference, for the probe that measures phenotypes on
cines, and for the late fusion of the ECG's prediction with covariates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cardionets_core.evaluation.sums import Floats, Sums

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

COVARIATE_CENTRE = np.array([60.0, 0.5, 170.0, 75.0])
COVARIATE_SCALE = np.array([15.0, 0.5, 10.0, 15.0])
"""Round numbers near the mean and sd of adult cohorts (years, sex, cm, kg): they only condition the
equations; an indicator per covariate makes the value put in for a missing one irrelevant."""

COVARIATE_TERMS = 9
"""Columns of the covariate design: one, four covariates, four indicators of a missing one."""


def covariate_design(covariates: Floats, mask: NDArray[np.bool_]) -> Floats:
    """Return the design [N, 9]: 1, scaled covariates (0 where missing), missing indicators.

    Args:
        covariates: [N, 4] raw units, in the order of vocabulary.COVARIATES.
        mask: [N, 4], True where known.
    """
    scaled = np.where(mask, (covariates - COVARIATE_CENTRE) / COVARIATE_SCALE, 0.0)
    return np.concatenate([np.ones((len(scaled), 1)), scaled, ~mask], axis=1)


def with_intercept(features: Floats) -> Floats:
    """Return [N, 1 + F]: a column of ones before the features."""
    return np.concatenate([np.ones((len(features), 1)), features], axis=1)


def normal_equations(design: Floats, truth: Floats, mask: NDArray[np.bool_]) -> Sums:
    """Sum the normal equations of each column of `truth` over the rows where it is known.

    Args:
        design: [N, C].
        truth: [N, P].
        mask: [N, P].

    Returns:
        `n` [P], `gram` [P, C, C], `moment` [P, C].
    """
    known = mask.astype(np.float64)
    return {
        "n": known.sum(axis=0),
        "gram": np.einsum("np,nc,nd->pcd", known, design, design, optimize=True),
        "moment": (known * np.where(mask, truth, 0.0)).T @ design,
    }


def solve(equations: Mapping[str, Floats], *, ridge: float) -> Floats:
    """Return ridge coefficients [P, C]; zeros for a column that no patient has.

    The intercept (first column) is not shrunk; the ridge is `ridge` times the mean diagonal of the
    other columns, so it does not depend on the number of patients or the scale of the features.
    """
    gram, moment = equations["gram"], equations["moment"]
    coefficients = np.zeros_like(moment)
    for column in range(len(gram)):
        if equations["n"][column] > 0:
            coefficients[column] = _solve_one(gram[column], moment[column], ridge)
    return coefficients


def fusion_equations(
    design: Floats, prediction: Floats, truth: Floats, mask: NDArray[np.bool_]
) -> Sums:
    """Sum the equations of truth - prediction on (design, prediction), on the validation split.

    The residual is what is fitted, so that the ridge shrinks towards the ECG's own prediction.

    Args:
        design: [N, C] of the covariates.
        prediction: [N, P] of the ECG.
        truth: [N, P].
        mask: [N, P].
    """
    parts = []
    for column in range(truth.shape[1]):
        table = np.concatenate([design, prediction[:, column : column + 1]], axis=1)
        left = (truth - prediction)[:, column : column + 1]
        parts.append(normal_equations(table, left, mask[:, column : column + 1]))
    return {key: np.concatenate([part[key] for part in parts]) for key in ("n", "gram", "moment")}


def solve_fusion(equations: Mapping[str, Floats], covariates: Floats, *, ridge: float) -> Floats:
    """Return late-fusion coefficients [P, C + 1] for `fuse`.

    Three numbers per phenotype are learnt (intercept, weight of the covariates' own prediction,
    change of the ECG's weight): a small validation split cannot carry ten. They follow from the
    same sums, because both predictions are linear in the columns that were summed.

    Args:
        equations: of `fusion_equations`.
        covariates: [P, C] coefficients of the covariates-only probe, from training patients.
        ridge: shrinks towards the ECG's own prediction.
    """
    phenotypes, terms = covariates.shape
    basis = np.zeros((phenotypes, terms + 1, 3))
    basis[:, 0, 0] = 1.0
    basis[:, :terms, 1] = covariates
    basis[:, terms, 2] = 1.0
    small = {
        "n": equations["n"],
        "gram": np.einsum("pci,pcd,pdj->pij", basis, equations["gram"], basis),
        "moment": np.einsum("pci,pc->pi", basis, equations["moment"]),
    }
    return np.asarray(np.einsum("pci,pi->pc", basis, solve(small, ridge=ridge)))


def fuse(design: Floats, prediction: Floats, coefficients: Floats) -> Floats:
    """Return the late fusion [N, P] with the coefficients [P, C + 1] of `fusion_equations`."""
    correction = design @ coefficients[:, :-1].T + prediction * coefficients[:, -1]
    return prediction + correction


def _solve_one(gram: Floats, moment: Floats, ridge: float) -> Floats:
    size = len(gram)
    strength = ridge * max(float(np.trace(gram[1:, 1:])) / max(size - 1, 1), 1e-12)
    penalty = np.full(size, strength)
    penalty[0] = 0.0
    return np.asarray(np.linalg.solve(gram + np.diag(penalty), moment), dtype=np.float64)
