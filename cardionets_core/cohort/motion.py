"""The surfaces of the heart over the cardiac cycle, phase 0 at end-diastole.

Volumes follow prescribed curves exactly; how the wall shares the work follows from scar, thick
muscle and the activation times that also make the QRS, so dyssynchrony shows in both modalities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cardionets_core.cohort.conduction import COLUMNS, ROWS, Activation
from cardionets_core.cohort.geometry import (
    PHI_COLUMNS,
    THETA,
    Floats,
    Geometry,
    solve_increasing,
    volume_ml,
)
from cardionets_core.cohort.heart import Heart

_QUIET_APEX: Floats = 1 - 0.65 * np.exp(-((THETA / 0.4) ** 2))


@dataclass(frozen=True)
class Motion:
    """One cardiac cycle in evenly spaced phases.

    The base comes down towards the resting apex by the factor `shortening`; in coordinates that
    are stretched back by it, the surfaces are radii as in `Geometry`.

    Attributes:
        end_systole: index of the phase of smallest volume.
        shortening: remaining length of the ventricle, 1 at end-diastole [phases].
        endo: left ventricular endocardium [phases, theta, phi], mm.
        epi: left ventricular epicardium, same.
        rv: right ventricular endocardium, same.
        rv_outer: outer surface, same.
        left_atrium: volume in mL [phases].
        right_atrium: volume in mL [phases].
        aorta_mm: radius of the descending aorta [phases].
        phase_s: duration of one phase in seconds.
    """

    end_systole: int
    shortening: Floats
    endo: Floats
    epi: Floats
    rv: Floats
    rv_outer: Floats
    left_atrium: Floats
    right_atrium: Floats
    aorta_mm: Floats
    phase_s: float

    @property
    def phases(self) -> int:
        """Number of phases."""
        return len(self.shortening)


def move(heart: Heart, geometry: Geometry, activation: Activation, phases: int = 10) -> Motion:
    """Move the heart through one cycle of `phases` frames, one of them at end-systole."""
    end_systole = round((0.30 + 0.09 * heart.heart_rate / 75) * phases)
    systole = end_systole / phases
    time = np.arange(phases) / phases
    emptied = emptying(time, systole, fibrillating=heart.af)
    shortening = 1 - heart.shortening * emptied
    work = _regional_work(heart, geometry, activation, time=time, systole=systole, emptied=emptied)
    endo = _contract(heart, geometry, emptied, shortening, work)
    epi = _thicken(geometry, endo, shortening)
    rv = _right_ventricle(heart, geometry, emptied, shortening, epi)
    wall = heart.rv_wall_mm * (1 + 0.25 * emptied[:, None, None])
    return Motion(
        end_systole=end_systole,
        shortening=shortening,
        endo=endo,
        epi=epi,
        rv=rv,
        rv_outer=rv + wall * np.clip(geometry.rv_profile * 4, 0, 1),
        left_atrium=heart.la_min + (heart.la_max - heart.la_min) * emptied,
        right_atrium=heart.ra_min + (heart.ra_max - heart.ra_min) * emptied,
        aorta_mm=_aortic_radius(heart, time, systole),
        phase_s=heart.cycle_s / phases,
    )


def emptying(time: Floats, systole: float, *, fibrillating: bool) -> Floats:
    """Share of the stroke volume that has left, 0..1, at times in cycles (any shape).

    A half cosine in systole; early filling, diastasis and (unless the atria fibrillate) the atrial
    kick afterwards.
    """
    time = time % 1.0
    ejection = np.sin(np.pi / 2 * np.clip(time / systole, 0, 1)) ** 2
    since = np.clip((time - systole) / (1 - systole), 0, 1)
    early, kick = (0.92, 0.03) if fibrillating else (0.70, 0.25)
    filled = early / (1 + np.exp(-(since - 0.27) / 0.055)) + 0.05 * since
    filled = filled + kick / (1 + np.exp(-(since - 0.84) / 0.035))
    return np.asarray(np.where(time <= systole, ejection, 1 - np.clip(filled, 0, 1)))


def _regional_work(
    heart: Heart,
    geometry: Geometry,
    activation: Activation,
    *,
    time: Floats,
    systole: float,
    emptied: Floats,
) -> Floats:
    """Relative inward motion of every direction [phases, theta, phi].

    Scar does not contract and thick bumps contract less; the apex hardly moves (its epicardium
    stays where it is); late regions follow with their delay.
    """
    able = (1 - 0.95 * geometry.scar) * (1 - 0.35 * np.clip(geometry.bump_mm / 12, 0, 1))
    able = able * _QUIET_APEX
    late = _on_directions(activation.times[0])
    delay = (late - late.mean()) / (1000 * heart.cycle_s)
    local_time = np.clip(time[:, None, None] - delay, 0, 0.999)
    local = emptying(local_time, systole, fibrillating=heart.af)
    overall = emptied[:, None, None]
    moving = (overall > 0) & (overall < 1)
    return np.asarray(able * np.where(moving, 0.25 * overall + 0.75 * local, overall) + 1e-6)


def _on_directions(values: Floats) -> Floats:
    """Values at the nodes of a surface [rows, columns] -> directions [theta, phi]."""
    columns = (np.arange(PHI_COLUMNS) * COLUMNS) // PHI_COLUMNS
    x = np.clip((THETA[:, 0] - 0.09) / (2.1 - 0.09), 0, 1) * (ROWS - 1)
    row = np.minimum(x.astype(np.intp), ROWS - 2)
    share = (x - row)[:, None]
    picked = values[:, columns]
    return np.asarray(picked[row] * (1 - share) + picked[row + 1] * share)


def _inward(endo: Floats, amount: Floats, work: Floats) -> Floats:
    return endo * np.clip(1 - amount[:, None, None] * work, 0.12, 1.15)


def _contract(
    heart: Heart, geometry: Geometry, emptied: Floats, shortening: Floats, work: Floats
) -> Floats:
    """Endocardium of each phase [phases, theta, phi] with exactly the prescribed volume."""
    target = (heart.lv_edv - (heart.lv_edv - heart.lv_esv) * emptied) / shortening

    def missing(amount: Floats) -> Floats:
        return target - volume_ml(_inward(geometry.endo, amount, work), geometry.valve_mm)

    low, high = np.full(len(emptied), -0.2), np.full(len(emptied), 6.0)
    amount = np.where(emptied > 1e-4, solve_increasing(missing, low, high), 0.0)
    return _inward(geometry.endo, amount, work)


def _thicken(geometry: Geometry, endo: Floats, shortening: Floats) -> Floats:
    """Epicardium of each phase [phases, theta, phi]: muscle does not change its volume.

    Every direction keeps its muscle; one correction accounts for what the valve plane cuts off.
    """
    valve = geometry.valve_mm
    inner = endo**3
    shell = (geometry.epi**3 - geometry.endo**3) / shortening[:, None, None]
    muscle = volume_ml(geometry.epi, valve) - volume_ml(geometry.endo, valve)
    kept = volume_ml(np.cbrt(inner + shell), valve) - volume_ml(endo, valve)
    return np.asarray(np.cbrt(inner + shell * (muscle / (kept * shortening))[:, None, None]))


def _right_ventricle(
    heart: Heart, geometry: Geometry, emptied: Floats, shortening: Floats, epi: Floats
) -> Floats:
    """Right endocardium of each phase [phases, theta, phi] with the prescribed volume."""
    target = (heart.rv_edv - (heart.rv_edv - heart.rv_esv) * emptied) / shortening
    septum = volume_ml(epi, geometry.valve_mm)

    def excess(depth: Floats) -> Floats:
        rv = epi + depth[:, None, None] * geometry.rv_profile
        return volume_ml(rv, geometry.valve_mm) - septum - target

    low, high = np.full(len(emptied), 1.0), np.full(len(emptied), 170.0)
    depth = solve_increasing(excess, low, high)
    return np.asarray(epi + depth[:, None, None] * geometry.rv_profile)


def _aortic_radius(heart: Heart, time: Floats, systole: float) -> Floats:
    """Radius of the descending aorta in mm [phases]: a fast rise in systole, a slow run-off."""
    vessel = heart.descending_aorta
    peak = 0.6 * systole
    pulse = time / peak * np.exp(1 - time / peak)
    return np.sqrt((vessel.min_area + (vessel.max_area - vessel.min_area) * pulse) / np.pi)
