"""Limb electrodes on the wrong limb, as far as twelve leads can tell.

The rules are those of Batchvarov et al., Europace 9:1081 (2007) and Hedén et al., Am J Cardiol
75:929 (1995), on the average beat:

- left arm - right arm: I is upside down (P, QRS and T), aVR and aVL have changed places, II and III
  too; I runs against V6, which the limbs do not touch.
- dextrocardia, the heart's note and no electrode's: I is upside down as well, but goes with V6, and
  the chest leads grow smaller from V2 to V6.
- right arm - left leg: II is upside down, P is negative in aVF as it is in aVR otherwise.
- right arm - right leg: II is all but flat; left arm - right leg: III is, both legs being at one
  potential.
- lead names: I + III is not II, so signals are exchanged or named wrongly, not electrodes.

With the leads of 353 records of PTB-XL exchanged, 88 % of exchanged arms are found, 84 % of right
arm - left leg, all with the right leg; of the records as they are none is called (slow tests).

What cannot be known: left arm - left leg gives an ECG that another healthy person could have (P in
I above P in II: a third of all people), exchanged legs change nothing, and chest electrodes are not
judged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cardionets_core.quality.beats import AverageBeat
from cardionets_core.quality.intervals import Waves
from cardionets_core.vocabulary import LEADS

Floats = NDArray[np.float64]

ARMS = "left arm - right arm"
DEXTROCARDIA = "dextrocardia"
RIGHT_ARM_LEFT_LEG = "right arm - left leg"
RIGHT_ARM_RIGHT_LEG = "right arm - right leg"
LEFT_ARM_RIGHT_LEG = "left arm - right leg"
LEAD_NAMES = "lead names"
REVERSALS = (
    ARMS,
    DEXTROCARDIA,
    RIGHT_ARM_LEFT_LEG,
    RIGHT_ARM_RIGHT_LEG,
    LEFT_ARM_RIGHT_LEG,
    LEAD_NAMES,
)
"""All that `find_reversal` can say."""

EINTHOVEN_SHARE = 0.2
"""Share of the limb leads' power that I + III - II may hold before they contradict each other."""

_I, _II, _III, _AVR, _AVL, _AVF, _, _V2, _, _, _V5, _V6 = range(len(LEADS))
_LIMBS = (_I, _II, _III, _AVR, _AVL, _AVF)

_LEAST_P_MV = 0.01
"""A P wave of less has no direction."""
_FLAT_SHARE, _FLAT_MV = 0.12, 0.10
"""A limb lead is flat below this share of the largest limb lead, and below this voltage."""
_SHRINKS = 0.6
"""Range of V6 over that of V2 in dextrocardia."""
_AGAINST = -0.3
"""Correlation of QRS and T between a limb lead and V6 that run against each other (P unseen)."""


@dataclass(frozen=True)
class _Directions:
    """Signed heights of the waves, mV [12], NaN where not seen; likeness to V6 [12]."""

    p: Floats
    qrs: Floats
    t: Floats
    like_v6: Floats


def find_reversal(beat: AverageBeat, waves: Waves | None, lead_mask: NDArray[np.bool_]) -> str:
    """Return which limb electrodes look exchanged: "" or one of `REVERSALS`.

    Needs all limb leads, and V6 or V5.
    """
    if waves is None or not lead_mask[list(_LIMBS)].all():
        return ""
    if limb_leads_disagree(beat.leads):
        return LEAD_NAMES
    flat = _flat_lead(beat)
    if flat:
        return flat
    if not (lead_mask[_V6] or lead_mask[_V5]):
        return ""
    seen = _directions(beat, waves, _V6 if lead_mask[_V6] else _V5)
    if _dextrocardia(beat, seen, lead_mask):
        return DEXTROCARDIA
    if _arms(seen):
        return ARMS
    return RIGHT_ARM_LEFT_LEG if _right_arm_left_leg(seen) else ""


def limb_leads_disagree(leads: NDArray[np.floating]) -> bool:
    """Return whether I + III - II, which Einthoven's law says is zero, holds much of the power.

    Args:
        leads: mV [12, n] without drift.
    """
    one, two, three = leads[:3].astype(np.float64)
    power = float(np.mean(two**2) + np.mean(one**2) + np.mean(three**2)) / 3
    return float(np.mean((one + three - two) ** 2)) > EINTHOVEN_SHARE * power


def _flat_lead(beat: AverageBeat) -> str:
    ranges = np.ptp(beat.leads[:3], axis=1)
    flat = ranges < min(_FLAT_MV, _FLAT_SHARE * float(ranges.max()))
    if flat[_II]:
        return RIGHT_ARM_RIGHT_LEG
    return LEFT_ARM_RIGHT_LEG if flat[_III] else ""


def _arms(seen: _Directions) -> bool:
    """I upside down while aVF is as it should be."""
    against = seen.like_v6[_I]
    if np.isfinite(seen.p[_I]):
        inverted = seen.p[_I] < -_LEAST_P_MV and seen.p[_AVF] > seen.p[_I]
        return bool(inverted and seen.p[_AVF] > -_LEAST_P_MV and against < 0)
    upside_down = seen.qrs[_I] < 0 and not seen.t[_I] > 0
    return bool(upside_down and seen.qrs[_AVR] > 0 and against < _AGAINST)


def _dextrocardia(beat: AverageBeat, seen: _Directions, lead_mask: NDArray[np.bool_]) -> bool:
    """I upside down, aVF upright, and the chest leads shrinking to the left."""
    if not (lead_mask[_V2] and lead_mask[_V6]):
        return False
    ranges = np.ptp(beat.leads, axis=1)
    shrinks = ranges[_V6] < _SHRINKS * ranges[_V2]
    inverted = seen.p[_I] < -_LEAST_P_MV and seen.qrs[_I] < 0
    return bool(shrinks and inverted and seen.p[_AVF] > 0 and seen.like_v6[_I] > 0)


def _right_arm_left_leg(seen: _Directions) -> bool:
    """II upside down, and aVF as aVR should be."""
    against = seen.like_v6[_II]
    if np.isfinite(seen.p[_II]):
        inverted = seen.p[_II] < -_LEAST_P_MV and seen.p[_AVF] < 0 < seen.p[_AVR]
        return bool(inverted and against < 0)
    upside_down = seen.qrs[_II] < 0 and not seen.t[_II] > 0
    return bool(upside_down and seen.qrs[_AVF] < 0 < seen.qrs[_AVR] and against < _AGAINST)


def _directions(beat: AverageBeat, waves: Waves, chest: int) -> _Directions:
    near = max(1, round(0.008 * beat.rate_hz))
    level = _around(beat.leads, waves.onset, near)
    unseen = np.full(len(LEADS), np.nan)
    p = t = unseen
    if waves.p_top >= 0:
        beside = (_around(beat.leads, waves.p_onset, near) + level) / 2
        p = _around(beat.leads, waves.p_top, near) - beside
    if waves.t_top >= 0:
        t = _around(beat.leads, waves.t_top, near) - level
    qrs = beat.leads[:, waves.onset : waves.end] - level[:, None]
    last = waves.t_end if waves.t_end >= 0 else waves.end
    whole = beat.leads[:, waves.onset : last] - level[:, None]
    return _Directions(
        p=p, qrs=qrs.max(axis=1) + qrs.min(axis=1), t=t, like_v6=_likeness(whole, whole[chest])
    )


def _around(leads: Floats, at: int, near: int) -> Floats:
    return np.asarray(leads[:, max(0, at - near) : at + near + 1].mean(axis=1))


def _likeness(leads: Floats, other: Floats) -> Floats:
    """Correlation of each lead with `other` [12], about zero (the PQ level) and not their means."""
    scale = np.linalg.norm(leads, axis=1) * np.linalg.norm(other)
    return np.asarray(leads @ other / np.maximum(scale, 1e-9))
