"""The 82 phenotypes of one virtual heart: read off the surfaces, so truth and not a measurement."""

from __future__ import annotations

import numpy as np

from cardionets_core.cohort.geometry import (
    MYOCARDIUM_G_PER_ML,
    PHI,
    PHI_COLUMNS,
    SIN_THETA,
    THETA,
    Floats,
    Geometry,
    volume_ml,
)
from cardionets_core.cohort.heart import Heart
from cardionets_core.cohort.motion import Motion
from cardionets_core.vocabulary import PHENOTYPE_NAMES

_RINGS = ((1.15, 2.2, 6), (0.75, 1.15, 6), (0.12, 0.75, 4))
"""Basal, mid and apical ring: limits in theta, number of AHA segments."""


def _segment_weights() -> Floats:
    """Membership of directions in the 16 AHA segments [16, theta, phi]; 1 is basal anterior."""
    segments = []
    for low, high, count in _RINGS:
        for k in range(count):
            centre = np.pi / 2 - k * 2 * np.pi / count
            off = np.abs((PHI - centre + np.pi) % (2 * np.pi) - np.pi)
            segments.append((off <= np.pi / count + 1e-9) & (THETA >= low) & (THETA < high))
    return np.array(segments, np.float64)


_SEGMENTS = _segment_weights()
_FINE_THETA: Floats = np.linspace(0, np.pi, 721)


def measure(heart: Heart, geometry: Geometry, motion: Motion) -> dict[str, float]:
    """All 82 phenotypes by name, in the units of the vocabulary."""
    values = _ventricles(heart, geometry, motion)
    values |= _chamber("la", heart.la_max, heart.la_min)
    values |= _chamber("ra", heart.ra_max, heart.ra_min)
    for short, vessel in (("aao", heart.ascending_aorta), ("dao", heart.descending_aorta)):
        values[f"{short}_max_area"] = vessel.max_area
        values[f"{short}_min_area"] = vessel.min_area
        values[f"{short}_distensibility"] = vessel.distensibility
    values |= _wall(geometry, motion)
    values |= _longitudinal(geometry, motion)
    return {name: float(values[name]) for name in PHENOTYPE_NAMES}


def _chamber(short: str, largest: float, smallest: float) -> dict[str, float]:
    """Volumes of an atrium."""
    return {
        f"{short}_max": largest,
        f"{short}_min": smallest,
        f"{short}_sv": largest - smallest,
        f"{short}_ef": 100 * (1 - smallest / largest),
    }


def _ventricles(heart: Heart, geometry: Geometry, motion: Motion) -> dict[str, float]:
    """Volumes at end-diastole and end-systole, output and mass."""
    valve, end = geometry.valve_mm, [0, motion.end_systole]
    squeeze = motion.shortening[end]
    left = volume_ml(motion.endo[end], valve) * squeeze
    septum = volume_ml(motion.epi[end], valve)
    right = (volume_ml(motion.rv[end], valve) - septum) * squeeze
    values = {}
    for short, volume in (("lv", left), ("rv", right)):
        values[f"{short}_edv"], values[f"{short}_esv"] = volume
        values[f"{short}_sv"] = volume[0] - volume[1]
        values[f"{short}_ef"] = 100 * (1 - volume[1] / volume[0])
    values["lv_co"] = values["lv_sv"] * heart.heart_rate / 1000
    values["lv_mass"] = MYOCARDIUM_G_PER_ML * (septum[0] - left[0])
    return values


def _wall(geometry: Geometry, motion: Motion) -> dict[str, float]:
    """Thickness at end-diastole, circumferential and radial strain at end-systole, 16 segments."""
    endo, epi = motion.endo[motion.end_systole], motion.epi[motion.end_systole]
    middle = (endo + epi) / (geometry.endo + geometry.epi)
    thickness = (epi - endo) / (geometry.epi - geometry.endo)
    weights = _SEGMENTS * geometry.epi**2 * SIN_THETA
    weights /= weights.sum(axis=(1, 2), keepdims=True)
    values: dict[str, float] = {}
    for short, field in (
        ("wt", geometry.wall_mm),
        ("ecc", 100 * (middle - 1)),
        ("err", 100 * (thickness - 1)),
    ):
        segments = (weights * field).sum(axis=(1, 2))
        values |= {f"{short}_{k + 1}": segments[k] for k in range(16)}
        values[f"{short}_global"] = segments.mean()
    return values


def _longitudinal(geometry: Geometry, motion: Motion) -> dict[str, float]:
    """Change in length of the middle of the wall in the four-chamber view, six pieces and all.

    Segments 1-3 are the septum from base to apex, 4-6 the lateral wall from apex to base.
    """
    lengths = np.stack([_wall_pieces(geometry, motion, phase) for phase in (0, motion.end_systole)])
    strain = 100 * (lengths[1] / lengths[0] - 1)
    values = {f"ell_{k + 1}": strain[k] for k in range(6)}
    values["ell_global"] = 100 * (lengths[1].sum() / lengths[0].sum() - 1)
    return values


def _wall_pieces(geometry: Geometry, motion: Motion, phase: int) -> Floats:
    """Lengths in mm of the mid-wall at one phase: thirds of its depth on two sides [6]."""
    sides = []
    for column in (0, PHI_COLUMNS // 2):
        middle = 0.5 * (motion.endo[phase, :, column] + motion.epi[phase, :, column])
        radius = np.interp(_FINE_THETA, THETA[:, 0], middle)
        depth = (geometry.valve_mm + radius * np.cos(_FINE_THETA)) * motion.shortening[phase]
        pieces = np.hypot(np.diff(depth), np.diff(radius * np.sin(_FINE_THETA)))
        third = np.floor(3 * depth[1:] / depth.max())  # 0 basal, 1 mid, 2 and 3 apical
        sides.append([pieces[place].sum() for place in (third == 0, third == 1, third >= 2)])
    return np.array(sides[0] + sides[1][::-1])
