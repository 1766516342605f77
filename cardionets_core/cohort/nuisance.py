"""What shapes the ECG but never the CMR: this is why an ECG alone cannot know the heart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cardionets_core.cohort.geometry import Floats
from cardionets_core.cohort.heart import Heart


@dataclass(frozen=True)
class Nuisance:
    """ECG-only variation of one patient.

    Attributes:
        gain: factor on every voltage (conductivity of the body).
        electrode_mm: shifts of V1..V6 along the chest and upwards [6, 2].
        electrode_height_mm: common shift of the chest electrodes.
        lead_tilt: error of the limb lead field [2, 3].
        speed: factors on endocardial, epicardial, transmural and blocked conduction [4].
        repolarisation: spread of action potentials: mean ms, coupling, transmural, apico-basal [4].
        root_shift: height and angle of the Purkinje roots [6, 2].
        root_delay_ms: start times of the roots [6].
        pr_ms: atrial to ventricular activation.
        p_duration: factor on the length of the P wave.
        p_amplitude: factor on its height.
        rate_variability: relative beat-to-beat variation in sinus rhythm.
        irregularity: shape of the gamma law of beats in fibrillation (smaller is wilder).
        premature_share: share of premature atrial beats in sinus rhythm.
    """

    gain: float
    electrode_mm: Floats
    electrode_height_mm: float
    lead_tilt: Floats
    speed: Floats
    repolarisation: Floats
    root_shift: Floats
    root_delay_ms: Floats
    pr_ms: float
    p_duration: float
    p_amplitude: float
    rate_variability: float
    irregularity: float
    premature_share: float


def draw_nuisance(rng: np.random.Generator, heart: Heart) -> Nuisance:
    """Draw the ECG-only variation; conduction slows with age and weight and follows LVEF.

    Conduction velocity: Qian et al. 2025 (UK Biobank): alike in both sexes, falls with age and BMI.
    With age P and PR lengthen, and the pulse loses its variability.
    """
    person, decades = heart.person, heart.person.decades_past_60
    common_speed = 0.035 * heart.contractility - 0.02 * decades - 0.010 * (person.bmi - 26) / 4
    pr = rng.normal(158 + 6 * decades, 20)
    return Nuisance(
        gain=float(np.exp(rng.normal(0, 0.20))),
        electrode_mm=rng.normal(0, 11.0, (6, 2)) + rng.normal(0, 7.7, (1, 2)),
        electrode_height_mm=rng.normal(0, 8.0),
        lead_tilt=rng.normal(0, 0.10, (2, 3)),
        speed=np.exp(rng.normal(0, 0.135, 4) + common_speed),
        repolarisation=rng.normal(0, 13.0, 4),
        root_shift=rng.normal(0, 0.16, (6, 2)),
        root_delay_ms=np.abs(rng.normal(0, 3.5, 6)),
        pr_ms=float(np.clip(pr, 110, 260)),
        p_duration=float(np.exp(rng.normal(0.03 * decades, 0.085))),
        p_amplitude=float(np.exp(rng.normal(0, 0.40))),
        rate_variability=float(np.exp(rng.normal(np.log(0.028) - 0.30 * decades, 0.40))),
        irregularity=float(np.exp(rng.normal(np.log(26), 0.5))),
        premature_share=rng.uniform(0.05, 0.35) if rng.random() < 0.08 else 0.0,
    )
