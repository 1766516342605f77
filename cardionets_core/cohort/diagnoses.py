"""What each disease does to a heart that would otherwise have been healthy.

The shifts were chosen so that group means agree with what CMR cohorts report (EACVI/SCMR
reference papers); they are a teaching model, not an epidemiology.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Region:
    """A Gaussian patch of the left ventricular wall.

    Attributes:
        amount: mm of added wall (hypertrophy) or transmurality 0..1 (scar).
        phi: centre around the long axis, rad.
        theta: centre from the apex to the base, rad.
        phi_width: standard deviation in phi, rad.
        theta_width: standard deviation in theta, rad.
    """

    amount: float = 0.0
    phi: float = 0.0
    theta: float = 0.0
    phi_width: float = 1.0
    theta_width: float = 1.0

    @property
    def solid_area(self) -> float:
        """Rough share of the ventricle that the patch covers."""
        return self.phi_width * self.theta_width / 0.48


@dataclass
class Draft:
    """A heart while it is being drawn: volumes in mL, mass in g, fractions in %, lengths in mm.

    `rv_ef_shift` is None while the right ventricle pumps exactly what the left one pumps.
    """

    lv_edv: float
    lv_mass: float
    lv_ef: float
    rv_edv: float
    la_max: float
    la_ef: float
    ra_max: float
    ra_ef: float
    elongation: float
    rv_wall_mm: float
    contractility: float
    rv_ef_shift: float | None = None
    septal_flattening: float = 0.0
    repolarisation_strain_ms: float = 0.0
    heart_rate_shift: float = 0.0
    hypertrophy: Region = Region()
    scar: Region = Region()
    af: bool = False
    lbbb: bool = False
    rbbb: bool = False
    lafb: bool = False


def _normal(draft: Draft, rng: np.random.Generator) -> None:
    """A heart without a main diagnosis stays as it is."""


def _hypertension(draft: Draft, rng: np.random.Generator) -> None:
    """Left ventricular hypertrophy: 20-90 % more mass, mild repolarisation strain."""
    excess = float(np.clip(rng.normal(0.45, 0.14), 0.22, 0.9))
    draft.lv_mass *= 1 + excess
    draft.lv_edv *= rng.normal(0.99, 0.06)
    draft.lv_ef += rng.normal(0, 4)
    draft.la_max *= rng.normal(1.18, 0.1)
    draft.la_ef -= 4
    strain = rng.normal(5 + 8 * (excess - 0.45) / 0.14, 9)
    draft.repolarisation_strain_ms = float(np.clip(strain, 0, 45))


def _hypertrophic(draft: Draft, rng: np.random.Generator) -> None:
    """Hypertrophic cardiomyopathy: a septal bump, or an apical one in every fifth patient."""
    apical = rng.random() < 0.22
    draft.hypertrophy = Region(
        amount=float(np.clip(rng.normal(12.0, 3.5), 6, 22)),
        phi=rng.normal(0 if apical else 0.45, 0.25),
        theta=rng.normal(0.25 if apical else 1.25, 0.12),
        phi_width=2.2 if apical else 0.95,
        theta_width=0.5 if apical else 0.65,
    )
    draft.lv_mass *= 1.05
    draft.lv_edv *= rng.normal(0.93, 0.06)
    draft.lv_ef += rng.normal(5, 4)
    draft.la_max *= rng.normal(1.35, 0.15)
    draft.la_ef -= 8
    draft.repolarisation_strain_ms = float(np.clip(rng.normal(13, 14), 0, 55))


def _dilated(draft: Draft, rng: np.random.Generator) -> None:
    """Dilated cardiomyopathy: a large round ventricle that hardly contracts."""
    draft.lv_edv *= float(np.clip(rng.normal(1.55, 0.2), 1.2, 2.2))
    draft.lv_mass *= rng.normal(1.35, 0.13)
    draft.lv_ef = float(np.clip(rng.normal(33, 8), 12, 47))
    draft.rv_edv *= 1.1 * rng.normal(1.0, 0.08)
    draft.rv_ef_shift = -10.0
    draft.la_max *= rng.normal(1.45, 0.2)
    draft.la_ef -= 15
    draft.elongation = rng.normal(1.52, 0.08)
    draft.lbbb = bool(rng.random() < 0.30)
    draft.repolarisation_strain_ms = float(np.clip(rng.normal(5, 9), 0, 35))
    draft.heart_rate_shift += 9


def _infarction(draft: Draft, rng: np.random.Generator) -> None:
    """Myocardial infarction in the territory of the LAD, the circumflex or the right artery."""
    territory = rng.choice(3, p=[0.45, 0.17, 0.38])
    draft.scar = Region(
        amount=float(np.clip(rng.normal(0.82, 0.18), 0.3, 1.0)),
        phi=(0.9, 3.5, 4.75)[territory] + rng.normal(0, 0.15),
        theta=(0.75, 1.25, 1.25)[territory] + rng.normal(0, 0.15),
        phi_width=rng.uniform(0.55, 1.0),
        theta_width=(0.72, 0.52, 0.55)[territory] * rng.uniform(0.85, 1.25),
    )
    burden = draft.scar.solid_area * draft.scar.amount
    draft.lv_ef -= float(np.clip(rng.normal(16 * burden, 4), 3, 34))
    draft.lv_edv *= 1 + 0.16 * burden + rng.normal(0, 0.05)
    draft.lv_mass *= 1.06
    draft.la_max *= 1.12
    draft.la_ef -= 5


def _pulmonary_hypertension(draft: Draft, rng: np.random.Generator) -> None:
    """Pulmonary hypertension, from mild to severe: large thick right ventricle, flat septum."""
    severity = rng.beta(1.6, 1.6)
    draft.rv_edv *= float(np.clip(rng.normal(1.14 + 0.62 * severity, 0.12), 1.0, 2.1))
    draft.rv_ef_shift = -rng.normal(7 + 15 * severity, 4)
    draft.rv_wall_mm = float(np.clip(rng.normal(4.0 + 3.6 * severity, 0.8), 3.2, 10))
    draft.septal_flattening = float(np.clip(rng.normal(0.08 + 0.32 * severity, 0.05), 0, 0.44))
    draft.lv_edv *= 1 - 0.18 * severity
    draft.ra_max *= rng.normal(1.2 + 0.6 * severity, 0.2)
    draft.la_ef -= 3
    draft.heart_rate_shift += 9 * severity


APPLY: dict[str, Callable[[Draft, np.random.Generator], None]] = {
    "normal": _normal,
    "lvh": _hypertension,
    "hcm": _hypertrophic,
    "dcm": _dilated,
    "mi": _infarction,
    "ph": _pulmonary_hypertension,
    "af": _normal,
}
"""Diagnosis -> what it does to a draft."""


def apply_fibrillation(draft: Draft, rng: np.random.Generator) -> None:
    """Atrial fibrillation: large atria that do not contract, fast heart."""
    draft.la_max *= rng.normal(1.4, 0.15)
    draft.la_ef = rng.normal(36, 7)
    draft.ra_max *= 1.3
    draft.ra_ef = rng.normal(27, 5)
    draft.lv_ef -= 3
    draft.heart_rate_shift += 14
