"""The surfaces of the heart at end-diastole, with volumes and mass exact by construction.

Every surface is a radius over directions (theta, phi) about one centre on the long axis of the
left ventricle; theta = 0 points to the apex, phi = 0 to the septum. The valve plane cuts them.
Heart frame: l (base to apex), r (towards the right ventricle), a (anterior), mm, origin on the
valve plane. Patient frame: x to the patient's left, y to the back, z to the head (DICOM LPS), mm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cardionets_core.cohort.diagnoses import Region
from cardionets_core.cohort.heart import Heart

Floats = NDArray[np.float64]

THETA_ROWS, PHI_COLUMNS = 40, 64
THETA: Floats = (np.arange(THETA_ROWS) + 0.5)[:, None] * np.pi / THETA_ROWS
PHI: Floats = np.arange(PHI_COLUMNS)[None, :] * 2 * np.pi / PHI_COLUMNS
PHI_SIGNED: Floats = (PHI + np.pi) % (2 * np.pi) - np.pi
COS_THETA, SIN_THETA = np.cos(THETA), np.sin(THETA)
SOLID_ANGLE: Floats = SIN_THETA * (np.pi / THETA_ROWS) * (2 * np.pi / PHI_COLUMNS)
MYOCARDIUM_G_PER_ML = 1.05

_TOWARDS_BASE = COS_THETA < 0
_BASE_SLOPE: Floats = np.where(_TOWARDS_BASE, 1 / np.maximum(-COS_THETA, 1e-6), np.inf)


@dataclass(frozen=True)
class Geometry:
    """The heart at end-diastole; surfaces are radii [theta, phi] in mm.

    Attributes:
        endo: left ventricular endocardium.
        epi: left ventricular epicardium (under the right ventricle: its septal surface).
        rv: right ventricular endocardium (equal to `epi` away from the right ventricle).
        rv_outer: outermost surface of the heart.
        valve_mm: distance from the centre of the radii to the valve plane.
        length_mm: long diameter of the left ventricular cavity, beyond the valve plane.
        wall_mm: wall thickness [theta, phi].
        scar: transmurality of the scar, 0..1 [theta, phi].
        bump_mm: added wall of hypertrophic cardiomyopathy [theta, phi].
        rv_profile: share of the right ventricle's depth over each direction [theta, phi].
        axes: rows are l, r, a in the patient frame [3, 3].
        base: origin of the heart frame in the patient frame [3], mm.
        lowest_mm: smallest a of the heart's surface, where the diaphragm touches.
    """

    endo: Floats
    epi: Floats
    rv: Floats
    rv_outer: Floats
    valve_mm: float
    length_mm: float
    wall_mm: Floats
    scar: Floats
    bump_mm: Floats
    rv_profile: Floats
    axes: Floats
    base: Floats
    lowest_mm: float


def cut_at_valve(radius: Floats, valve_mm: float) -> Floats:
    """Return `radius` [..., theta, phi] cut by the valve plane."""
    return np.minimum(radius, valve_mm * _BASE_SLOPE)


def volume_ml(radius: Floats, valve_mm: float) -> Floats:
    """Volume in mL inside surfaces [..., theta, phi] below the valve plane."""
    inside = cut_at_valve(radius, valve_mm)
    cells = inside * inside * inside * (SOLID_ANGLE / 3000.0)
    return np.asarray(cells.sum(axis=(-2, -1)))


def solve_increasing(
    function: Callable[[Floats], Floats], low: Floats, high: Floats, steps: int = 7
) -> Floats:
    """Roots of increasing functions, many at once, by Ridders' method.

    Ridders, IEEE Trans. Circuits Syst. 26:979 (1979).

    Args:
        function: maps points [n] to values [n], increasing in each.
        low: points where the function is negative [n].
        high: points where it is positive [n].
        steps: two evaluations each; the bracket shrinks quadratically.
    """
    low, high = np.array(low, np.float64), np.array(high, np.float64)
    at_low, at_high = function(low), function(high)
    root = 0.5 * (low + high)
    for _ in range(steps):
        middle = 0.5 * (low + high)
        at_middle = function(middle)
        scale = np.sqrt(np.maximum(at_middle**2 - at_low * at_high, 1e-30))
        root = np.clip(middle + (middle - low) * -at_middle / scale, low, high)
        at_root = function(root)
        points = np.stack([low, middle, root, high])
        values = np.stack([at_low, at_middle, at_root, at_high])
        below = np.where(values <= 0, points, -np.inf).argmax(axis=0)
        above = np.where(values > 0, points, np.inf).argmin(axis=0)
        low, high = _pick(points, below), _pick(points, above)
        at_low, at_high = _pick(values, below), _pick(values, above)
    return root


def _pick(rows: Floats, index: NDArray[np.intp]) -> Floats:
    return np.asarray(np.take_along_axis(rows, index[None], axis=0)[0])


def spread(region: Region) -> Floats:
    """Gaussian weight of a wall region over the directions [theta, phi], at most 1."""
    around = (PHI - region.phi + np.pi) % (2 * np.pi) - np.pi
    along = THETA - region.theta
    return np.asarray(
        np.exp(-0.5 * (around / region.phi_width) ** 2 - 0.5 * (along / region.theta_width) ** 2)
    )


def build_geometry(heart: Heart) -> Geometry:
    """Build the surfaces of `heart` and place them in its torso."""
    endo, valve, length = _left_cavity(heart)
    scar, bump, wall, epi = _left_wall(heart, endo, valve)
    profile = _right_profile()
    rv, rv_outer = _right_ventricle(heart, epi, profile, valve)
    axes = _orientation(heart)
    points = surface_points(rv_outer, valve)
    return Geometry(
        endo=endo,
        epi=epi,
        rv=rv,
        rv_outer=rv_outer,
        valve_mm=valve,
        length_mm=length,
        wall_mm=wall,
        scar=scar,
        bump_mm=bump,
        rv_profile=profile,
        axes=axes,
        base=_position(heart, points @ axes),
        lowest_mm=float(points[:, 2].min()),
    )


def _left_cavity(heart: Heart) -> tuple[Floats, float, float]:
    """A half ellipsoid towards the apex, a blunter one towards the base, flattened in PH."""
    length = 2 * heart.elongation
    valve = 0.36 * length
    along = np.where(COS_THETA > 0, length - valve, valve / 0.45)
    radius = 1 / np.sqrt((COS_THETA / along) ** 2 + SIN_THETA**2) * np.ones((1, PHI_COLUMNS))
    septum = spread(Region(phi=0.0, theta=1.35, phi_width=0.65, theta_width=0.7))
    radius = radius * (1 - heart.septal_flattening * septum)
    scale = float((heart.lv_edv / volume_ml(radius, valve)) ** (1 / 3))
    return radius * scale, valve * scale, length * scale


def _left_wall(heart: Heart, endo: Floats, valve: float) -> tuple[Floats, Floats, Floats, Floats]:
    """Thickness: thin apex, thin scar, a bump in HCM; its scale is solved for the given mass.

    The mass that is asked for is that of the wall without the bump; the bump comes on top.
    """
    obliquity = endo / np.sqrt(endo**2 + np.gradient(endo, THETA[:, 0], axis=0) ** 2)
    pattern = 0.70 + 0.30 / (1 + np.exp(-(THETA - 0.75) / 0.16))
    pattern = pattern * (1 + 0.06 * np.cos(PHI_SIGNED))
    scar = heart.scar.amount * np.clip(1.35 * spread(heart.scar) - 0.35, 0, 1)
    pattern = pattern * (1 - 0.42 * scar) / obliquity
    bump = heart.hypertrophy.amount * spread(heart.hypertrophy)
    cavity = volume_ml(endo, valve)

    def excess_mass(thickness: Floats) -> Floats:
        outer = endo + thickness[:, None, None] * pattern
        return MYOCARDIUM_G_PER_ML * (volume_ml(outer, valve) - cavity) - heart.lv_mass

    scale = solve_increasing(excess_mass, np.array([1.0]), np.array([30.0]))[0]
    epi = endo + scale * pattern + bump / obliquity
    return scar, bump, (epi - endo) * obliquity, epi


def _right_profile() -> Floats:
    """Depth of the right ventricle over each direction, as a share of its greatest depth."""
    half_width = 1.18 + 0.10 * SIN_THETA
    across = np.clip(PHI_SIGNED / half_width, -1, 1)
    crescent = np.clip(np.cos(across * np.pi / 2), 0, 1) ** 0.62 * (1 + 0.16 * np.sin(PHI_SIGNED))
    towards_apex = 1 / (1 + np.exp(-(THETA - 0.62) / 0.13))
    return np.asarray(crescent * towards_apex * (1 - 0.25 * np.clip(THETA - 1.9, 0, 1)))


def _right_ventricle(
    heart: Heart, epi: Floats, profile: Floats, valve: float
) -> tuple[Floats, Floats]:
    septum = volume_ml(epi, valve)

    def excess_volume(depth: Floats) -> Floats:
        return volume_ml(epi + depth[:, None, None] * profile, valve) - septum - heart.rv_edv

    depth = solve_increasing(excess_volume, np.array([2.0]), np.array([170.0]))[0]
    rv = epi + depth * profile
    return rv, rv + heart.rv_wall_mm * np.clip(profile * 4, 0, 1)


def surface_points(radius: Floats, valve: float) -> Floats:
    """Points of a surface in the heart frame, cut by the valve plane [theta * phi, 3]."""
    r = cut_at_valve(radius, valve)
    across = r * SIN_THETA
    axes = (valve + r * COS_THETA, across * np.cos(PHI), across * np.sin(PHI))
    return np.stack([axis.ravel() for axis in axes], axis=1)


def _orientation(heart: Heart) -> Floats:
    """Unit vectors l, r, a of the heart frame as rows, in the patient frame."""
    torso = heart.torso
    down, front = np.sin(torso.inclination), np.sin(torso.anterior)
    left = np.sqrt(max(1 - down**2 - front**2, 0.05))
    along = np.array([left, -front, -down])
    along /= np.linalg.norm(along)
    septal = np.array([-0.75, -0.66, 0.0])
    septal -= septal @ along * along
    septal /= np.linalg.norm(septal)
    anterior = np.cross(septal, along)
    c, s = np.cos(torso.roll), np.sin(torso.roll)
    return np.stack([along, c * septal + s * anterior, c * anterior - s * septal])


def _position(heart: Heart, points: Floats) -> Floats:
    """Put the heart behind the breastbone: its front lies 6 mm from the inner chest wall."""
    torso = heart.torso
    inner_width = torso.half_width_mm - torso.wall_mm
    inner_depth = torso.half_depth_mm - torso.wall_mm
    base_x = 14 + 0.05 * (torso.half_width_mm - 158)
    front = points[points[:, 1] < np.median(points[:, 1])]
    across = ((front[:, 0] + base_x) / inner_width) ** 2

    def short_of_gap(forward: Floats) -> Floats:
        deep = np.minimum(front[:, 1] - forward[:, None], 0) / inner_depth
        gap = 1 - np.sqrt(across + deep**2)
        return np.asarray(6 - gap.min(axis=1) * inner_depth)

    forward = solve_increasing(short_of_gap, np.array([-70.0]), np.array([40.0]))[0]
    return np.array([base_x, -forward, 0.0])
