"""What the groups of the public cine data sets, ACDC and M&Ms, say of the project's diseases.

Both sort their patients by one main finding; what a group does not say is unknown, not absent.
"""

from __future__ import annotations

_CARDIOMYOPATHIES = ("dilated_cardiomyopathy", "hypertrophic_cardiomyopathy", "cardiomyopathy")
_COMMON: dict[str, dict[str, float]] = {
    "NOR": dict.fromkeys((*_CARDIOMYOPATHIES, "myocardial_infarction"), 0.0),
    "MINF": {"myocardial_infarction": 1.0, "coronary_artery_disease": 1.0},
    "DCM": {"dilated_cardiomyopathy": 1.0, "cardiomyopathy": 1.0},
    "HCM": {"hypertrophic_cardiomyopathy": 1.0, "cardiomyopathy": 1.0},
}

ACDC_GROUPS: dict[str, dict[str, float]] = _COMMON
"""RV (abnormal right ventricle) has no name in the vocabulary."""

MNMS_PATHOLOGIES: dict[str, dict[str, float]] = {
    **_COMMON,
    "IHD": {"coronary_artery_disease": 1.0},
}
"""ARV (abnormal right ventricle), LVNC (non-compaction), HHD (hypertension) have no name in it."""
