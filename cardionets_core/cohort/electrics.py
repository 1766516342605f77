"""One heart beat at the electrodes: action potentials on the surfaces, seen as a double layer.

Every patch of the heart's surface is a current dipole along its normal, as strong as its
transmembrane potential (equivalent double layer: Geselowitz, IEEE TBME 36:85, 1989). Precordial
electrodes see each patch by its solid angle, limb leads see the whole heart's dipole (Dower 1968).
Constants were fitted to normative amplitudes of the twelve leads and to QRS duration.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d

from cardionets_core.cohort.conduction import COLUMNS, PHI_NODES, ROWS, SURFACES, Activation
from cardionets_core.cohort.geometry import Floats, Geometry
from cardionets_core.cohort.heart import Heart
from cardionets_core.cohort.nuisance import Nuisance

Singles = NDArray[np.float32]

BEAT_STEP_MS = 2.0
BEAT_TIMES: Floats = np.arange(-20, 720, BEAT_STEP_MS)
"""Times of one beat relative to the first activation, ms."""
_LAST_MS, _COARSE_STEP_MS, _SETTLED_MS = 732.0, 12.0, 56.0
"""Behind the last activation, when every upstroke is over, a coarse step does."""

INDEPENDENT_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
POSES_MM = (0.0, -6.0)
"""Height of the heart at the end of expiration and of inspiration."""

_NEAR_GAIN, _LIMB_GAIN, _FAR_BOOST_MM = 7.0, 0.00068, 414.3
_ELECTRODE_HEIGHT_MM = -23.73
_PLATEAU_LOSS, _FAST_MS, _SLOW_MS, _SLOW_DELAY_MS = 0.03576, 20.76, 34.75, 12.0
_COUPLING, _TRANSMURAL_MS, _APICO_BASAL_MS, _RIGHT_MS, _ANTERIOR_MS = (
    0.9939,
    8.0,
    16.85,
    -11.23,
    -12,
)
_FRONTAL_TURN_DEG = 8.833
_DOWER = np.array([[0.632, 0.059, 0.235], [0.235, -0.132, -1.066]])
_SIGN = np.array([1.0, -1.0, 1.0, -1.0])[:, None, None]
"""Endocardial patches face the cavity: their normals turn around."""
_BLOCK = 64
_HEIGHT = np.linspace(0, 1, ROWS)[:, None]


def beat(heart: Heart, nuisance: Nuisance, geometry: Geometry, activation: Activation) -> Floats:
    """Potentials of one beat in mV [pose, lead, time] for `POSES_MM` and `INDEPENDENT_LEADS`."""
    used = activation.used
    durations = _action_potentials(heart, nuisance, activation)
    fine, coarse = _sampling_times(float(activation.times[used].max()))
    potentials = _potentials(activation.times, durations, used, fine=fine, coarse=coarse)
    patches = (activation.lattice.areas * _SIGN[..., None])[used] @ geometry.axes
    points = activation.lattice.points[used] @ geometry.axes + geometry.base
    rows = [_limb_weights(nuisance, patches)]
    electrodes = _electrodes(heart, nuisance)
    for height in POSES_MM:
        rows.append(
            _chest_weights(nuisance, electrodes, points + np.array([0, 0, height]), patches)
        )
    weights = _close_at_base(np.concatenate(rows), used)
    times = np.r_[fine, coarse]
    leads = _project(weights, _scar_share(activation, used), potentials, times)
    poses = [np.concatenate([leads[:2], leads[2 + 6 * k : 8 + 6 * k]]) for k in range(2)]
    return np.stack(poses)


def _action_potentials(heart: Heart, nuisance: Nuisance, activation: Activation) -> Floats:
    """Action potential durations in ms [4, rows, columns].

    Late regions repolarise early (coupling), the epicardium before the endocardium, the base after
    the apex; strain and thick walls lengthen the lateral epicardium, scar lengthens its rim.
    """
    lattice, own = activation.lattice, nuisance.repolarisation
    male, free = heart.person.sex, ~activation.lattice.in_rv
    early = np.minimum(activation.unblocked, 200)
    mean_time = activation.unblocked[activation.used].mean()
    lengths = (262 if male else 272) * heart.cycle_s**0.38 + own[0]
    lengths = lengths - (_COUPLING + 0.008 * own[1]) * (early - mean_time)
    transmural = _TRANSMURAL_MS * (1.18 if male else 0.90) * (1 + 0.08 * heart.contractility)
    transmural += 0.22 * own[2] - heart.person.decades_past_60  # T waves flatten with age
    lengths[1] -= transmural * free
    lengths[3] -= 0.8 * transmural
    lengths[2:] += _RIGHT_MS
    lengths[0] += 4
    lengths += (_APICO_BASAL_MS + 0.2 * own[3]) * (_HEIGHT - 0.5)
    lengths[:2] += _ANTERIOR_MS * np.sin(PHI_NODES)
    lateral = np.clip(-np.cos(PHI_NODES - 0.25), -0.35, 1) * np.clip(
        1.15 - abs(_HEIGHT - 0.45), 0, 1
    )
    strain = heart.repolarisation_strain_ms * lateral
    lengths[1] += free * (1.15 * strain + 1.1 * lattice.thick_mm) + 14 * lattice.scar
    lengths[0] -= 0.35 * strain
    load = heart.rv_wall_mm - 3.2
    lengths[3] += 2.2 * load
    lengths[2] -= 0.5 * load
    return np.asarray(lengths)


def _upstroke_ms(times: Floats) -> Floats:
    """How long the front takes to cross each patch (keeps the lattice from rippling the QRS)."""
    finite = np.where(np.isfinite(times), times, np.nan)
    below = np.diff(finite, axis=1, append=finite[:, -1:])
    above = np.diff(finite, axis=1, prepend=finite[:, :1])
    left, right = finite - np.roll(finite, 1, 2), np.roll(finite, -1, 2) - finite
    along = np.nan_to_num(np.abs(below) + np.abs(above)) / 2
    around = np.nan_to_num(np.abs(left) + np.abs(right)) / 2
    return np.asarray(np.clip(0.30 * (along + around), 1.8, 7.5))


def _sampling_times(last_activation: float) -> tuple[Singles, Singles]:
    """Where potentials are computed: finely in the QRS, coarsely in the smooth T wave, ms."""
    settled = np.ceil((last_activation + _SETTLED_MS) / BEAT_STEP_MS) * BEAT_STEP_MS
    fine = np.arange(BEAT_TIMES[0], settled, BEAT_STEP_MS, dtype=np.float32)
    coarse = np.arange(settled, _LAST_MS + _COARSE_STEP_MS, _COARSE_STEP_MS, dtype=np.float32)
    return fine, coarse


def _potentials(
    times: Floats, durations: Floats, used: NDArray[np.bool_], *, fine: Singles, coarse: Singles
) -> Singles:
    """Transmembrane potentials 0..1 [nodes, fine + coarse]: upstroke, plateau, recovery."""
    up = _upstroke_ms(times)[used][:, None].astype(np.float32)
    start = times[used][:, None].astype(np.float32)
    end = (times + np.maximum(durations, 150))[used][:, None].astype(np.float32)
    early = _recovery(fine, start, end)
    early /= 1 + np.exp(np.clip((start - fine) / up, -60, 60))
    return np.concatenate([early, _recovery(coarse, start, end)], axis=1)


def _recovery(time: Singles, start: Singles, end: Singles) -> Singles:
    """Plateau that sags a little, then two sigmoids around the end of the action potential."""
    sag = np.float32(_PLATEAU_LOSS) * np.clip((time - start) / (end - start), 0, 1.3)
    until = time - end
    decay = 1 + np.exp(until * np.float32(1 / _FAST_MS))
    decay *= 1 + np.exp((until - np.float32(_SLOW_DELAY_MS)) * np.float32(1 / _SLOW_MS))
    return np.asarray((1 - sag) / decay)


def _electrodes(heart: Heart, nuisance: Nuisance) -> Floats:
    """Positions of V1..V6 on the elliptic chest, patient frame, mm [6, 3]."""
    width, depth = heart.torso.half_width_mm, heart.torso.half_depth_mm
    azimuth = np.deg2rad([62.0, 88.0])
    x = np.r_[-24.0, 24.0, 50.0, 78.0, width * np.sin(azimuth)]
    below = np.array([0, 0, 14, 30, 30, 30])
    height = _ELECTRODE_HEIGHT_MM + nuisance.electrode_height_mm - below
    angle = np.arcsin(x / width) + nuisance.electrode_mm[:, 0] / width
    return np.stack(
        [width * np.sin(angle), -depth * np.cos(angle), height + nuisance.electrode_mm[:, 1]], 1
    )


def _limb_weights(nuisance: Nuisance, patches: Floats) -> Floats:
    """Weight of every patch in leads I and II [2, nodes]."""
    c, s = np.cos(np.deg2rad(_FRONTAL_TURN_DEG)), np.sin(np.deg2rad(_FRONTAL_TURN_DEG))
    turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    field = (_DOWER + 0.5 * nuisance.lead_tilt) @ turn
    return np.asarray(_LIMB_GAIN * nuisance.gain * (field @ patches.T))


def _chest_weights(
    nuisance: Nuisance, electrodes: Floats, points: Floats, patches: Floats
) -> Floats:
    """Weight of every patch in V1..V6 [6, nodes]: its solid angle, far field boosted."""
    towards = electrodes[:, None] - points[None]
    distance = np.sqrt((towards * towards).sum(-1))
    facing = (towards * patches).sum(-1)
    field = facing / distance**3 * (1 + distance / _FAR_BOOST_MM)
    return np.asarray(_NEAR_GAIN * nuisance.gain * field)


def _close_at_base(weights: Floats, used: NDArray[np.bool_]) -> Floats:
    """Close each ventricle's open surface at the valve plane with a lid at its rim's potential."""
    shape = (SURFACES, ROWS, COLUMNS)
    rim = np.broadcast_to((np.arange(ROWS) == ROWS - 1)[None, :, None], shape)[used]
    right = np.broadcast_to((np.arange(SURFACES) >= 2)[:, None, None], shape)[used]
    for ventricle in (~right, right):
        lid = rim & ventricle
        weights[:, lid] -= weights[:, ventricle].sum(axis=1, keepdims=True) / lid.sum()
    return weights


def _scar_share(activation: Activation, used: NDArray[np.bool_]) -> Floats:
    """Share of each patch that is electrically silent [nodes]."""
    scar = activation.lattice.scar
    nothing = np.zeros_like(scar)
    return np.stack([scar, np.clip(1.3 * scar - 0.25, 0, 1), nothing, nothing])[used]


def _project(weights: Floats, scar: Floats, potentials: Singles, times: Singles) -> Floats:
    """Sum patches into leads on `BEAT_TIMES`; scar shows the blurred mean potential instead."""
    nodes = potentials.shape[0]
    rows = np.concatenate([weights * (1 - scar), np.full((1, nodes), 1 / nodes)])
    sums = _blocked_product(rows.astype(np.float32), potentials).astype(np.float64)
    even = CubicSpline(times, sums, axis=1)(BEAT_TIMES)
    silent = gaussian_filter1d(even[-1], 14 / BEAT_STEP_MS)
    return np.asarray(even[:-1] + (weights @ scar)[:, None] * silent)


def _blocked_product(left: Singles, right: Singles) -> Singles:
    """Multiply in blocks too small for BLAS to use threads: the same bits on any number."""
    blocks = -(-left.shape[1] // _BLOCK)
    padding = blocks * _BLOCK - left.shape[1]
    left = np.pad(left, ((0, 0), (0, padding))).reshape(len(left), blocks, _BLOCK)
    right = np.pad(right, ((0, padding), (0, 0))).reshape(blocks, _BLOCK, -1)
    return np.asarray((left.transpose(1, 0, 2) @ right).sum(axis=0))
