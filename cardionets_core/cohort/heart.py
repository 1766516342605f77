"""Who the virtual patient is: body, disease, and the sizes that heart and vessels shall have.

Means and spreads follow the UK Biobank reference values of Petersen et al., J Cardiovasc Magn
Reson 19:18 (2017) and, for the aorta, Bai et al., Nature Medicine 26:1654 (2020).
Angles in radians: theta from the apex of the left ventricle to its base, phi around its long axis
(0 septum, pi/2 anterior, pi lateral, 3 pi/2 inferior).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cardionets_core.cohort.diagnoses import APPLY, Draft, Region, apply_fibrillation
from cardionets_core.cohort.sites import DIAGNOSES, SitePreset


@dataclass(frozen=True)
class Person:
    """Covariates of the manifest (sex: 1 male, 0 female)."""

    age: float
    sex: int
    height_cm: float
    weight_kg: float

    @property
    def bmi(self) -> float:
        """Body mass index, kg/m2."""
        return self.weight_kg / (self.height_cm / 100) ** 2

    @property
    def bsa(self) -> float:
        """Body surface area after Mosteller, m2."""
        return float(np.sqrt(self.height_cm * self.weight_kg / 3600))

    @property
    def decades_past_60(self) -> float:
        """Age in decades relative to 60 years."""
        return (self.age - 60) / 10


@dataclass(frozen=True)
class Torso:
    """An elliptic chest and how the heart lies in it.

    Attributes:
        half_width_mm: semi-axis from left to right.
        half_depth_mm: semi-axis from front to back.
        fat_mm: subcutaneous fat.
        inclination: tilt of the long axis below the horizontal plane, rad.
        anterior: tilt of the long axis towards the front, rad.
        roll: turn of the heart around its long axis, rad.
    """

    half_width_mm: float
    half_depth_mm: float
    fat_mm: float
    inclination: float
    anterior: float
    roll: float

    @property
    def wall_mm(self) -> float:
        """Skin to inner chest wall."""
        return 17 + self.fat_mm


@dataclass(frozen=True)
class Vessel:
    """A piece of aorta: largest and smallest lumen over the cycle (mm2), 1e-3/mmHg."""

    max_area: float
    min_area: float
    distensibility: float


@dataclass(frozen=True)
class Heart:
    """Everything about the patient that anatomy and motion shall realise.

    Volumes in mL, mass in g, rate in beats per minute, lengths in mm.

    Attributes:
        shortening: share by which the base comes down in systole (longitudinal strain).
        contractility: latent that couples ejection fraction to conduction (Qian et al. 2025).
        repolarisation_strain_ms: longer epicardial action potential over the lateral wall.
    """

    person: Person
    torso: Torso
    diagnosis: str
    af: bool
    lbbb: bool
    rbbb: bool
    lafb: bool
    lv_edv: float
    lv_esv: float
    lv_mass: float
    rv_edv: float
    rv_esv: float
    la_max: float
    la_min: float
    ra_max: float
    ra_min: float
    shortening: float
    elongation: float
    rv_wall_mm: float
    septal_flattening: float
    hypertrophy: Region
    scar: Region
    repolarisation_strain_ms: float
    heart_rate: float
    contractility: float
    ascending_aorta: Vessel
    descending_aorta: Vessel

    @property
    def lv_ef(self) -> float:
        """Left ventricular ejection fraction, %."""
        return 100 * (1 - self.lv_esv / self.lv_edv)

    @property
    def cycle_s(self) -> float:
        """Mean length of a heart beat in seconds."""
        return 60 / self.heart_rate


def draw_heart(rng: np.random.Generator, preset: SitePreset) -> Heart:
    """Draw one patient of a site's case mix."""
    shares = np.array([preset.case_mix.get(name, 0.0) for name in DIAGNOSES])
    diagnosis = str(rng.choice(DIAGNOSES, p=shares / shares.sum()))
    return draw_heart_with(rng, diagnosis)


def draw_heart_with(rng: np.random.Generator, diagnosis: str) -> Heart:
    """Draw one patient with a given main diagnosis (one of `DIAGNOSES`)."""
    person = _draw_person(rng)
    draft = _draw_healthy(rng, person)
    APPLY[diagnosis](draft, rng)
    _draw_rhythm_and_conduction(draft, rng, diagnosis, person)
    return _finish(draft, rng, diagnosis, person)


def _draw_person(rng: np.random.Generator) -> Person:
    male = int(rng.random() < 0.5)
    age = float(np.clip(rng.normal(63, 8), 40, 85))
    height = rng.normal(176, 6.6) if male else rng.normal(162.5, 6.2)
    log_bmi = rng.normal(np.log(26.8 if male else 25.9), 0.14 if male else 0.17)
    bmi = float(np.clip(np.exp(log_bmi), 17.5, 42))
    return Person(age, male, float(height), bmi * (height / 100) ** 2)


def _draw_healthy(rng: np.random.Generator, person: Person) -> Draft:
    """Petersen's means by sex, scaled by body surface, spread by correlated latents."""
    male, decades = person.sex, person.decades_past_60
    size, mass, right, contractility, left_atrium, right_atrium = rng.normal(0, 1, 6)
    mass = 0.55 * size + 0.83 * mass
    scale = person.bsa / (1.95 if male else 1.70)
    lv_edv = (166 if male else 124) * scale * np.exp(0.145 * size - 0.05 * decades - 0.01)
    la_spread = 0.22 * left_atrium + 0.08 * size + 0.03 * decades - 0.02
    return Draft(
        lv_edv=float(lv_edv),
        lv_mass=float(
            (103 if male else 70)
            * scale**1.1
            * np.exp(0.15 * mass - (0.02 if male else 0) * decades - 0.01)
        ),
        lv_ef=float((58.5 if male else 61.0) + 3.2 * contractility + rng.normal(0, 3.3) - size),
        rv_edv=float(lv_edv * (1.095 if male else 1.05) * np.exp(0.075 * right)),
        la_max=float((71 if male else 62) * scale * np.exp(la_spread)),
        la_ef=rng.normal(61, 6),
        ra_max=float((93 if male else 69) * scale * np.exp(0.2 * right_atrium + 0.1 * right)),
        ra_ef=rng.normal(45, 6),
        elongation=rng.normal(1.78, 0.10),
        rv_wall_mm=rng.normal(3.2, 0.35),
        contractility=float(contractility),
    )


def _draw_rhythm_and_conduction(
    draft: Draft, rng: np.random.Generator, diagnosis: str, person: Person
) -> None:
    """Rhythm and blocks come on top of the main diagnosis, more often with age."""
    older = max(person.decades_past_60, 0)
    chance = rng.random(4)
    draft.af = diagnosis == "af" or bool(
        chance[0] < (0.03 if diagnosis in ("dcm", "hcm", "mi") else 0.004)
    )
    draft.lbbb = draft.lbbb or bool(chance[1] < 0.008)
    right_block = 0.12 if diagnosis == "ph" else 0.018 + 0.012 * older
    draft.rbbb = not draft.lbbb and bool(chance[2] < right_block)
    draft.lafb = not draft.lbbb and bool(chance[3] < 0.03 + 0.02 * older)
    if draft.af:
        apply_fibrillation(draft, rng)
    if draft.lbbb:
        draft.lv_ef -= rng.normal(4, 2)


def _finish(draft: Draft, rng: np.random.Generator, diagnosis: str, person: Person) -> Heart:
    """Clip to what a heart can be and turn fractions into volumes."""
    lv_edv = float(np.clip(draft.lv_edv, 65, 420))
    lv_ef = float(np.clip(draft.lv_ef, 10, 78))
    stroke = lv_edv * lv_ef / 100
    la_ef, ra_ef = np.clip([draft.la_ef, draft.ra_ef], 12, 78)
    shortening = float(np.clip(0.155 * lv_ef / 60 * rng.normal(1, 0.08), 0.03, 0.26))
    return Heart(
        person=person,
        torso=_draw_torso(rng, person),
        diagnosis=diagnosis,
        af=draft.af,
        lbbb=draft.lbbb,
        rbbb=draft.rbbb,
        lafb=draft.lafb,
        lv_edv=lv_edv,
        lv_esv=lv_edv - stroke,
        lv_mass=float(draft.lv_mass),
        rv_edv=float(draft.rv_edv),
        rv_esv=_right_esv(draft, rng, stroke, person),
        la_max=float(draft.la_max),
        la_min=float(draft.la_max * (1 - la_ef / 100)),
        ra_max=float(draft.ra_max),
        ra_min=float(draft.ra_max * (1 - ra_ef / 100)),
        shortening=shortening,
        elongation=float(draft.elongation),
        rv_wall_mm=float(draft.rv_wall_mm),
        septal_flattening=draft.septal_flattening,
        hypertrophy=draft.hypertrophy,
        scar=draft.scar,
        repolarisation_strain_ms=draft.repolarisation_strain_ms,
        heart_rate=_draw_heart_rate(draft, rng, person, lv_ef=lv_ef, stroke=stroke),
        contractility=draft.contractility,
        **_draw_aorta(rng, person, diagnosis),
    )


def _right_esv(draft: Draft, rng: np.random.Generator, stroke: float, person: Person) -> float:
    """Both ventricles pump alike unless a disease of the right heart says otherwise."""
    if draft.rv_ef_shift is None:
        pumped = stroke * rng.normal(1.0, 0.035)
    else:
        healthy = 54 if person.sex else 58
        pumped = (
            draft.rv_edv * np.clip(healthy + draft.rv_ef_shift + rng.normal(0, 4), 14, 70) / 100
        )
    return float(max(draft.rv_edv - pumped, 0.28 * draft.rv_edv))


def _draw_heart_rate(
    draft: Draft, rng: np.random.Generator, person: Person, *, lv_ef: float, stroke: float
) -> float:
    """Beats per minute; a weak or small stroke is made up for by rate."""
    rate = rng.normal(63, 9) + 4 * (1 - person.sex) + draft.heart_rate_shift
    return float(np.clip(rate + 0.12 * (58 - lv_ef) - 0.03 * (stroke - 90), 42, 125))


def _draw_torso(rng: np.random.Generator, person: Person) -> Torso:
    obesity = (person.bmi - 26) / 4
    height = person.height_cm - 169
    fat = (13 if person.sex else 17) + 7 * obesity + rng.normal(0, 2.5)
    return Torso(
        half_width_mm=158 + 9 * obesity + 0.45 * height,
        half_depth_mm=108 + 8.5 * obesity + 0.3 * height,
        fat_mm=max(4.0, fat),
        inclination=float(np.deg2rad(27 - 3.5 * obesity + rng.normal(0, 6.5))),
        anterior=float(np.deg2rad(38 + rng.normal(0, 4.5))),
        roll=float(np.deg2rad(rng.normal(0, 8))),
    )


def _draw_aorta(rng: np.random.Generator, person: Person, diagnosis: str) -> dict[str, Vessel]:
    """Lumen grows and stiffens with age; the pulse pressure turns stiffness into area change."""
    decades, scale = person.decades_past_60, person.bsa / (1.95 if person.sex else 1.70)
    shared, ascending, descending, pressure, stiff = rng.normal(0, 1, 5)
    pulse = float(
        np.clip(46 + 6 * decades + 7 * pressure + (9 if diagnosis == "lvh" else 0), 25, 90)
    )
    vessels = {}
    for key, area, growth, soft, own in (
        ("ascending_aorta", 880 if person.sex else 720, 0.045, 1.5, ascending),
        ("descending_aorta", 520 if person.sex else 400, 0.07, 2.2, descending),
    ):
        largest = area * scale**0.6 * np.exp(growth * decades + 0.13 * shared + 0.07 * own)
        elastic = soft * np.exp(-0.40 * decades + 0.30 * stiff - 0.10 * pressure + 0.12 * own)
        elastic = float(np.clip(elastic, 0.25, 6.0))
        vessels[key] = Vessel(
            float(largest), float(largest / (1 + elastic * 1e-3 * pulse)), elastic
        )
    return vessels
