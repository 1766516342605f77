"""What a real hospital's table lacks: whole scans, single cells, a fallen electrode, torn files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cardionets_core.cohort.sites import Missing
from cardionets_core.vocabulary import LEADS, PHENOTYPE_NAMES, VIEWS

DISEASE_COLUMNS = (
    "hypertrophic_cardiomyopathy",
    "dilated_cardiomyopathy",
    "left_ventricular_hypertrophy",
    "myocardial_infarction",
    "pulmonary_hypertension",
    "atrial_fibrillation",
    "left_bundle_branch_block",
    "right_bundle_branch_block",
    "conduction_disturbance",
    "hypertrophy",
)
"""Diseases that a virtual hospital codes."""


@dataclass(frozen=True)
class Gaps:
    """What one patient lacks.

    Attributes:
        cmr: no cine at all, and so no phenotypes.
        view: the one view that is missing.
        lead: index of a flat lead.
        cells: empty cells of the manifest.
        broken: the ECG file is torn.
    """

    cmr: bool
    view: str | None
    lead: int | None
    cells: frozenset[str]
    broken: bool


def draw_gaps(missing: Missing, rng: np.random.Generator) -> Gaps:
    """Draw the gaps of one patient."""
    chance = rng.random(4)
    view, lead = VIEWS[rng.integers(len(VIEWS))], int(rng.integers(len(LEADS)))
    names = (*PHENOTYPE_NAMES, *DISEASE_COLUMNS)
    lost = rng.random(len(names)) < missing.label
    return Gaps(
        cmr=bool(chance[0] < missing.cmr),
        view=view if chance[1] < missing.view else None,
        lead=lead if chance[2] < missing.lead else None,
        cells=frozenset(name for name, gone in zip(names, lost, strict=True) if gone),
        broken=bool(chance[3] < missing.broken),
    )
