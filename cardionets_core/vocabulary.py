"""The words that data, cohort, models and reports share: leads, views, phenotypes, diseases.

Phenotypes are UK Biobank fields 24100-24181 in their order (Petersen et al. 2017; Bai et al. 2020),
under the short names that the field uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
"""The order of the leads in every tensor."""

VIEWS = ("4ch", "sax")
"""Cine views: four-chamber long axis, mid-ventricular short axis."""

COVARIATES = ("age", "sex", "height_cm", "weight_kg")
"""Columns of the manifest that are never shown to an encoder. sex: 1 male, 0 female."""

COHORT_DISCLAIMER = (
    "Virtual hearts: computed, not measured. For demonstration, tests and method comparison; "
    "never for clinical claims."
)


@dataclass(frozen=True)
class Phenotype:
    """One CMR phenotype: `name` (manifest column), `title`, `unit` and its UK Biobank `field`."""

    name: str
    title: str
    unit: str
    field: int


def _phenotypes() -> tuple[Phenotype, ...]:
    rows: list[tuple[str, str, str]] = []
    for chamber, size in (("lv", "Left ventricular"), ("rv", "Right ventricular")):
        rows += [
            (f"{chamber}_edv", f"{size} end-diastolic volume", "mL"),
            (f"{chamber}_esv", f"{size} end-systolic volume", "mL"),
            (f"{chamber}_sv", f"{size} stroke volume", "mL"),
            (f"{chamber}_ef", f"{size} ejection fraction", "%"),
        ]
        if chamber == "lv":
            rows += [
                ("lv_co", "Left ventricular cardiac output", "L/min"),
                ("lv_mass", "Left ventricular mass", "g"),
            ]
    for chamber, size in (("la", "Left atrial"), ("ra", "Right atrial")):
        rows += [
            (f"{chamber}_max", f"{size} maximum volume", "mL"),
            (f"{chamber}_min", f"{size} minimum volume", "mL"),
            (f"{chamber}_sv", f"{size} stroke volume", "mL"),
            (f"{chamber}_ef", f"{size} ejection fraction", "%"),
        ]
    for vessel, title in (("aao", "Ascending aorta"), ("dao", "Descending aorta")):
        rows += [
            (f"{vessel}_max_area", f"{title} maximum area", "mm2"),
            (f"{vessel}_min_area", f"{title} minimum area", "mm2"),
            (f"{vessel}_distensibility", f"{title} distensibility", "1e-3/mmHg"),
        ]
    for short, title, unit, segments in (
        ("wt", "Myocardial wall thickness", "mm", 16),
        ("ecc", "Circumferential strain", "%", 16),
        ("err", "Radial strain", "%", 16),
        ("ell", "Longitudinal strain", "%", 6),
    ):
        place = "AHA segment" if segments == 16 else "segment"
        rows += [(f"{short}_{i}", f"{title}, {place} {i}", unit) for i in range(1, segments + 1)]
        rows += [(f"{short}_global", f"{title}, global", unit)]
    return tuple(Phenotype(n, t, u, 24100 + i) for i, (n, t, u) in enumerate(rows))


PHENOTYPES = _phenotypes()
"""The 82 phenotypes, in UK Biobank order."""

PHENOTYPE_NAMES = tuple(p.name for p in PHENOTYPES)
PHENOTYPE_BY_NAME = {p.name: p for p in PHENOTYPES}

MAIN_PHENOTYPES = (
    "lv_edv", "lv_esv", "lv_ef", "lv_mass", "rv_edv", "rv_ef", "la_max", "ra_max", "wt_global",
)  # fmt: skip
"""The ones that a table for people shows first."""

DISEASES: dict[str, str] = {
    "coronary_artery_disease": "Coronary artery disease",
    "heart_failure": "Heart failure",
    "cardiomyopathy": "Cardiomyopathy",
    "dilated_cardiomyopathy": "Dilated cardiomyopathy",
    "hypertrophic_cardiomyopathy": "Hypertrophic cardiomyopathy",
    "restrictive_cardiomyopathy": "Restrictive cardiomyopathy",
    "pericarditis": "Pericarditis",
    "pulmonary_hypertension": "Pulmonary hypertension",
    "myocardial_infarction": "Myocardial infarction",
    "left_ventricular_hypertrophy": "Left ventricular hypertrophy",
    "atrial_fibrillation": "Atrial fibrillation",
    "left_bundle_branch_block": "Left bundle branch block",
    "right_bundle_branch_block": "Right bundle branch block",
    "conduction_disturbance": "Conduction disturbance",
    "hypertrophy": "Hypertrophy",
    "st_t_change": "ST/T change",
    "normal_ecg": "Normal ECG",
}
"""Disease column of the manifest (1 present, 0 absent, empty unknown) -> title for people."""

StageName = Literal[
    "handshake",
    "ecg_masked",
    "cmr_masked",
    "masked",
    "tokenizer",
    "contrastive",
    "distill",
    "generative",
    "phenotypes",
    "diseases",
    "evaluate",
]
"""The stages of a run; training/stages.py says what each one does."""
