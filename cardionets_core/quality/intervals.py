"""PR, QRS and QT of the average beat, for the report: what cannot be seen is NaN.

Onset and end of the QRS are where the steepness of all leads together (root mean square) leaves the
noise; the end of T and the onset of P are where the tangent of their outer flank meets the level
beside them (the tangent method: Lepeschkin and Surawicz, Circulation 6:378, 1952). QTc is
Fridericia's: QT over the cube root of the beat-to-beat interval in seconds. These are for counting
and for finding what is odd, not for diagnosis.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

import numpy as np
from numpy.typing import NDArray

from cardionets_core.quality.beats import AverageBeat

Floats = NDArray[np.float64]

QRS_MS = (50.0, 240.0)
PR_MS = (80.0, 400.0)
QT_MS = (220.0, 640.0)
"""Outside of these an interval is not believed."""

_SMOOTH_S = 0.012
_EDGE_SHARE = 0.09
"""Share of the QRS's greatest steepness at its edges; the T wave is as steep as that at most."""
_QUIET_S = 0.012
"""The edge is where it stays calm for this long."""
_QRS_REACH_S = 0.17
"""How far from the steepest moment an edge is looked for."""

_LEAST_P_MV, _LEAST_T_MV = 0.02, 0.03
_LEAST_LIKENESS = 0.5
"""Correlation of a wave between odd and even beats; below it the wave is noise."""
_IRREGULAR = 0.08
"""Irregularity above which no P wave is believed: the atria fibrillate, or it is everywhere."""

_T_BEFORE_P_S = 0.75
"""In faster hearts an unseen T of the beat before could pass for a P wave."""

_T_TAIL_S = 0.05
"""T fades this long behind the end that its tangent gives."""

_T_FLANK_S, _P_FLANK_S = 0.20, 0.12
"""How far from its top a wave can end."""


@dataclass(frozen=True)
class Intervals:
    """Times in ms, NaN where unsure."""

    pr_ms: float = nan
    qrs_ms: float = nan
    qt_ms: float = nan
    qtc_ms: float = nan


@dataclass(frozen=True)
class Waves:
    """Samples of the average beat: the QRS, the top and onset of P, the top and end of T.

    -1 where a wave is not seen.
    """

    onset: int
    end: int
    p_onset: int = -1
    p_top: int = -1
    t_top: int = -1
    t_end: int = -1


def find_waves(beat: AverageBeat) -> Waves | None:
    """Return where the waves of the average beat lie; None where the QRS has no clear edges."""
    steep = _steepness(beat)
    reach = round(_QRS_REACH_S * beat.rate_hz)
    top = beat.at - reach // 2 + int(np.argmax(steep[beat.at - reach // 2 : beat.at + reach // 2]))
    level = max(_EDGE_SHARE * float(steep[top]), 2.0 * float(np.quantile(steep, 0.2)))
    calm = steep < level
    onset = _first_calm(calm[::-1], len(calm) - 1 - top, beat.rate_hz, reach)
    end = _first_calm(calm, top, beat.rate_hz, reach)
    if onset < 0 or end < 0:
        return None
    onset = len(calm) - 1 - onset
    t_top, t_end = _t_wave(beat, onset, end)
    p_top, p_onset = _p_wave(beat, onset, t_end)
    return Waves(onset, end, p_onset=p_onset, p_top=p_top, t_top=t_top, t_end=t_end)


def intervals_of(beat: AverageBeat, waves: Waves | None) -> Intervals:
    """Return the intervals between `waves`, NaN where one is missing or out of its range."""
    if waves is None:
        return Intervals()
    ms = 1000 / beat.rate_hz
    qrs = _inside((waves.end - waves.onset) * ms, QRS_MS)
    pr = _inside((waves.onset - waves.p_onset) * ms, PR_MS) if waves.p_onset >= 0 else nan
    qt = _inside((waves.t_end - waves.onset) * ms, QT_MS) if waves.t_end >= 0 else nan
    return Intervals(pr_ms=pr, qrs_ms=qrs, qt_ms=qt, qtc_ms=qt / beat.rr_s ** (1 / 3))


def _inside(value: float, limits: tuple[float, float]) -> float:
    return value if limits[0] <= value <= limits[1] else nan


def _steepness(beat: AverageBeat) -> Floats:
    """Root mean square over leads of mV per sample, smoothed [t]."""
    slope = np.gradient(beat.leads, axis=1)
    power = np.mean(slope**2, axis=0)
    return np.sqrt(_smooth(power, round(_SMOOTH_S * beat.rate_hz)))


def _smooth(values: Floats, width: int) -> Floats:
    width = max(1, width)
    return np.convolve(values, np.ones(width) / width, mode="same")


def _first_calm(calm: NDArray[np.bool_], start: int, rate_hz: float, reach: int) -> int:
    """Return the first sample after `start` from which on it is calm for a while; -1 if none."""
    need = max(2, round(_QUIET_S * rate_hz))
    after = calm[start : start + reach + need].astype(int)
    runs = np.convolve(after, np.ones(need, dtype=int), mode="valid")
    found = np.flatnonzero(runs == need)
    return start + int(found[0]) if len(found) else -1


def _t_wave(beat: AverageBeat, onset: int, end: int) -> tuple[int, int]:
    rate = beat.rate_hz
    first = end + round(0.06 * rate)
    last = min(onset + round(min(0.56, 0.72 * beat.rr_s) * rate), beat.leads.shape[1])
    if last - first < round(0.12 * rate):
        return -1, -1
    height = _height(beat, slice(first, last))
    top = first + int(np.argmax(height[: len(height) - round(0.04 * rate)]))
    if height[top - first] < _LEAST_T_MV or not _repeats(beat, first, last):
        return -1, -1
    meets = _tangent(height, top - first, +1, round(_T_FLANK_S * rate))
    return (top, first + meets) if meets >= 0 else (-1, -1)


def _p_wave(beat: AverageBeat, onset: int, t_end: int) -> tuple[int, int]:
    rate = beat.rate_hz
    if beat.irregularity > _IRREGULAR:
        return -1, -1
    if t_end < 0 and beat.rr_s < _T_BEFORE_P_S:
        return -1, -1
    last = onset - round(0.012 * rate)
    first = max(0, onset - round(0.32 * rate))
    if t_end >= 0:  # not into the T wave before
        first = max(first, t_end + round((_T_TAIL_S - beat.rr_s) * rate))
    if last - first < round(0.10 * rate):
        return -1, -1
    height = _height(beat, slice(first, last))
    edge = round(0.02 * rate)
    top = first + edge + int(np.argmax(height[edge:-edge]))
    if height[top - first] < _LEAST_P_MV or not _repeats(beat, first, last):
        return -1, -1
    meets = _tangent(height, top - first, -1, round(_P_FLANK_S * rate))
    if meets < edge // 2:  # it began before the window, in the T wave
        return -1, -1
    return top, first + meets


def _height(beat: AverageBeat, where: slice) -> Floats:
    """Root mean square over leads, mV [where], from the straight line between both ends."""
    piece = beat.leads[:, where]
    edge = max(2, round(0.01 * beat.rate_hz))
    start, stop = piece[:, :edge].mean(axis=1), piece[:, -edge:].mean(axis=1)
    line = start[:, None] + (stop - start)[:, None] * np.linspace(0, 1, piece.shape[1])
    power = np.mean((piece - line) ** 2, axis=0)
    return np.sqrt(_smooth(power, round(_SMOOTH_S * beat.rate_hz)))


def _repeats(beat: AverageBeat, first: int, last: int) -> bool:
    """Whether odd and even beats show the same wave."""
    one, two = beat.halves[:, :, first:last]
    one = (one - one.mean(axis=1, keepdims=True)).ravel()
    two = (two - two.mean(axis=1, keepdims=True)).ravel()
    scale = float(np.linalg.norm(one) * np.linalg.norm(two))
    return bool(one @ two > _LEAST_LIKENESS * max(scale, 1e-12))


def _tangent(height: Floats, top: int, side: int, longest: int) -> int:
    """Return where the steepest tangent on one side of the top meets the level beside; -1 if none.

    Args:
        height: mV [t].
        top: sample of the highest point.
        side: +1 for the falling flank behind it, -1 for the rising one before.
        longest: samples that the flank can have.
    """
    flank = (height[top:] if side > 0 else height[top::-1])[:longest]
    if len(flank) < 5:
        return -1
    floor = int(np.argmin(flank))
    fall = np.diff(flank[: floor + 1])
    if len(fall) < 3:
        return -1
    at = int(np.argmin(fall))
    if fall[at] >= 0:
        return -1
    meets = at + 0.5 + float((flank[at : at + 2].mean() - flank[floor]) / -fall[at])
    return top + side * round(min(meets, floor))
