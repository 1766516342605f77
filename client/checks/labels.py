"""What the numbers of the table look like: units, constants, and persons without age and sex."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cardionets_core.vocabulary import PHENOTYPE_BY_NAME
from client.checks.findings import Finding, error, warning

if TYPE_CHECKING:
    from cardionets_core.data.manifest import Manifest

BELIEVABLE: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("lv_edv", "rv_edv"), (10.0, 800.0)),
    **dict.fromkeys(("lv_esv", "rv_esv"), (3.0, 600.0)),
    **dict.fromkeys(("lv_sv", "rv_sv", "la_sv", "ra_sv"), (3.0, 300.0)),
    **dict.fromkeys(("la_max", "ra_max", "la_min", "ra_min"), (3.0, 500.0)),
    **dict.fromkeys(("lv_ef", "rv_ef", "la_ef", "ra_ef"), (5.0, 95.0)),
    "lv_co": (0.5, 20.0),
    "lv_mass": (8.0, 600.0),
    **dict.fromkeys(("aao_max_area", "aao_min_area"), (60.0, 4000.0)),
    **dict.fromkeys(("dao_max_area", "dao_min_area"), (40.0, 2500.0)),
    **dict.fromkeys(("wt_global", *(f"wt_{i}" for i in range(1, 17))), (2.0, 40.0)),
}
"""Phenotype -> where the median of any hospital, a children's one too, must lie, in its unit.

Wide on purpose: normal adult values (Petersen et al. 2017) lie well inside, a wrong unit (mL and L,
g and kg, mm and cm, mm2 and cm2, percent and fraction) is a factor of ten at least.
"""

FACTORS = (1000.0, 100.0, 10.0, 0.1, 0.01, 0.001)

FEWEST = 5
"""Values below which a column is not judged."""

ALWAYS_ABSENT_FROM = 500
"""A disease that nobody has is rare below so many persons, and suspect above."""


def check_labels(manifest: Manifest) -> list[Finding]:
    """Look at the labels and covariates of the table."""
    found = [f for name in manifest.phenotypes if (f := _phenotype(manifest, name))]
    found += [f for name in manifest.diseases if (f := _disease(manifest, name))]
    known = (*manifest.phenotypes, *manifest.diseases)
    if not any(len(_known(manifest, name)) for name in known):
        found.append(_no_labels())
    return found + _covariates(manifest)


def _no_labels() -> Finding:
    return warning(
        "data",
        "labels_missing",
        "No study has a phenotype or a disease label.",
        cause="The site can pretrain, but neither train the heads nor measure how good they are.",
        next_step="Add columns of the vocabulary to the manifest (`lv_ef`, `atrial_fibrillation`, "
        "...), or give `cardionets prepare` a --table.",
    )


def _known(manifest: Manifest, name: str) -> np.ndarray:
    values = np.asarray(manifest.table[name], dtype=np.float64)
    return np.asarray(values[np.isfinite(values)])


def _phenotype(manifest: Manifest, name: str) -> Finding | None:
    values = _known(manifest, name)
    if len(values) < FEWEST:
        return None
    if np.ptp(values) == 0:
        return _constant(name, float(values[0]), len(values))
    low, high = BELIEVABLE.get(name, (-np.inf, np.inf))
    median = float(np.median(values))
    if low <= median <= high:
        return None
    unit = PHENOTYPE_BY_NAME[name].unit
    factor = next((f for f in FACTORS if low <= median * f <= high), None)
    guess = f"Multiply the column by {factor:g}" if factor else "Correct the column"
    return error(
        "data",
        "phenotype_units",
        f"The median of {name} is {median:.3g} {unit}; hospitals lie between {low:g} and {high:g}.",
        cause=f"The column is probably not in {unit}. One hospital in another unit moves the mean "
        "and the scale of the whole federation.",
        next_step=f"{guess}, if the source's unit confirms it.",
    )


def _disease(manifest: Manifest, name: str) -> Finding | None:
    values = _known(manifest, name)
    if len(values) < FEWEST or np.ptp(values) > 0:
        return None
    if values[0] == 0 and len(values) < ALWAYS_ABSENT_FROM:
        return None
    return _constant(name, float(values[0]), len(values))


def _constant(name: str, value: float, known: int) -> Finding:
    return warning(
        "data",
        "label_constant",
        f"Column {name} is {value:g} in all {known} studies that know it.",
        cause="Nothing can be learned from it; often only the positive cases were filled in, and "
        "an empty cell means unknown, not absent.",
        next_step="Write 0 where the disease was looked for and not found, or drop the column.",
    )


def _covariates(manifest: Manifest) -> list[Finding]:
    absent = [name for name in ("age", "sex") if not len(_known(manifest, name))]
    if not absent:
        return []
    return [
        warning(
            "data",
            "covariates_missing",
            f"No study has {' or '.join(absent)}.",
            cause="The model never sees them, but without them nobody can tell whether it works "
            "alike for the young and the old, for women and men.",
            next_step="Add the columns age (years) and sex (1 male, 0 female) where known.",
        )
    ]
