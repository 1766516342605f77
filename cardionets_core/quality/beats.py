"""Where the beats are, and the beat that they have in common."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from cardionets_core.data.ecg import EcgRecord

DISPLAY_BAND_HZ = (0.5, 40.0)
"""Band of a monitor or a printed rhythm strip."""

RATE_BPM = (25.0, 220.0)
REFRACTORY_S = 0.25

T_WAVE_WITHIN_S, T_WAVE_STEEPNESS = 0.45, 0.7
"""A peak so soon after a beat and less than this share as steep is its T wave."""

LEAST_SWING_MV = 0.1
"""Voltage that a beat moves in a tenth of a second, up and down added, mean over the leads."""

BEAT_RATE_HZ = 500
"""Rate at which beats are laid over each other; 2 ms is finer than any reader."""

BEFORE_S, AFTER_S = 0.40, 0.64
"""What of a beat is averaged, from its steepest moment."""

_LONGEST_SHIFT_S = 0.06
_LEAST_LIKENESS = 0.85
"""Correlation of a beat's QRS with the others'; ectopic beats fall below."""

LEAST_BEATS = 4


@dataclass(frozen=True)
class AverageBeat:
    """The beat that most beats of a record share.

    Attributes:
        leads: mV [12, t]; zeros where a lead is missing.
        halves: mV [2, 12, t], means of every other beat: what differs between them is noise.
        at: index of the steepest moment of the QRS.
        rate_hz: samples per second.
        rr_s: median time between beats.
        irregularity: median change from one beat-to-beat interval to the next, over the median
            interval; a few ectopic beats do not raise it, fibrillation does.
        beats: how many went in.
    """

    leads: NDArray[np.float64]
    halves: NDArray[np.float64]
    at: int
    rate_hz: float
    rr_s: float
    irregularity: float
    beats: int


def display_filter(record: EcgRecord) -> NDArray[np.float32]:
    """Return the leads [12, n] through a zero-phase band pass as a printed ECG has it."""
    sections = _display_band(float(record.sampling_rate_hz))
    filtered = signal.sosfiltfilt(sections, record.signal.astype(np.float64), axis=1)
    return np.asarray(filtered * record.lead_mask[:, None], dtype=np.float32)


@lru_cache(maxsize=16)
def _display_band(rate_hz: float) -> NDArray[np.float64]:
    low, high = DISPLAY_BAND_HZ
    inside = high < rate_hz / 2
    sections: NDArray[np.float64] = signal.butter(
        2,
        (low, high) if inside else low,
        "bandpass" if inside else "highpass",
        fs=rate_hz,
        output="sos",
    )
    return sections


def beat_places(
    displayed: NDArray[np.float32], lead_mask: NDArray[np.bool_], rate_hz: float
) -> NDArray[np.intp]:
    """Return the samples at which beats stand: peaks of the steepness summed over the leads.

    Args:
        displayed: mV [12, n], as `display_filter` returns it.
        lead_mask: bool [12].
        rate_hz: samples per second.
    """
    slope = np.abs(np.diff(displayed, axis=1)).sum(axis=0, dtype=np.float64)
    width = max(1, round(0.1 * rate_hz))
    steepness = np.convolve(slope, np.ones(width) / width, mode="same")
    least = LEAST_SWING_MV * lead_mask.sum() / width
    threshold = max(0.4 * float(np.quantile(steepness, 0.98)), float(least))
    peaks, _ = signal.find_peaks(
        steepness, height=threshold, distance=max(1, round(REFRACTORY_S * rate_hz))
    )
    return _without_t_waves(peaks, steepness[peaks], rate_hz)


def _without_t_waves(
    peaks: NDArray[np.intp], heights: NDArray[np.float64], rate_hz: float
) -> NDArray[np.intp]:
    """Leave out what follows a beat closely and is much less steep (Pan and Tompkins 1985)."""
    kept: list[int] = []
    for k, peak in enumerate(peaks):
        if kept:
            soon = peak - peaks[kept[-1]] < T_WAVE_WITHIN_S * rate_hz
            if soon and heights[k] < T_WAVE_STEEPNESS * heights[kept[-1]]:
                continue
        kept.append(k)
    return np.asarray(peaks[kept], dtype=np.intp)


def rate_of(places: NDArray[np.intp], rate_hz: float) -> float | None:
    """Return the heart rate from the median beat-to-beat interval.

    None for fewer than three beats or a rate outside of 25 to 220 per minute.
    """
    if len(places) < 3:
        return None
    rate = 60 * rate_hz / float(np.median(np.diff(places)))
    return rate if RATE_BPM[0] <= rate <= RATE_BPM[1] else None


def heart_rate_bpm(record: EcgRecord) -> float | None:
    """Return the heart rate of a record; None where no beats stand out."""
    rate_hz = record.sampling_rate_hz
    return rate_of(beat_places(display_filter(record), record.lead_mask, rate_hz), rate_hz)


def average_beat(
    displayed: NDArray[np.float32], places: NDArray[np.intp], rate_hz: float
) -> AverageBeat | None:
    """Lay the beats over each other by their steepness and average those that are alike.

    Args:
        displayed: mV [12, n], as `display_filter` returns it.
        places: samples of the beats, as `beat_places` returns them.
        rate_hz: samples per second of both.

    Returns:
        None where fewer than `LEAST_BEATS` whole beats are alike.
    """
    if len(places) < LEAST_BEATS:
        return None
    leads, rate = _at_beat_rate(displayed, rate_hz)
    before, after = round(BEFORE_S * rate), round(AFTER_S * rate)
    centres = np.round(places * (rate / rate_hz)).astype(np.intp)
    steps = np.diff(centres) / rate
    reach = round(_LONGEST_SHIFT_S * rate)
    centres = _whole(centres, before + reach, leads.shape[1] - after - reach)
    centres = _whole(_aligned(leads, centres, reach, rate), before, leads.shape[1] - after)
    if len(centres) < LEAST_BEATS:
        return None
    beats = leads[:, centres[:, None] + np.arange(-before, after)].transpose(1, 0, 2)
    alike = beats[_alike(beats, before, rate)].astype(np.float64)
    if len(alike) < LEAST_BEATS:
        return None
    halves = np.stack([alike[::2].mean(axis=0), alike[1::2].mean(axis=0)])
    return AverageBeat(
        leads=alike.mean(axis=0),
        halves=halves,
        at=before,
        rate_hz=rate,
        rr_s=float(np.median(steps)),
        irregularity=float(np.median(np.abs(np.diff(steps))) / np.median(steps)),
        beats=len(alike),
    )


def _at_beat_rate(
    displayed: NDArray[np.float32], rate_hz: float
) -> tuple[NDArray[np.float32], float]:
    """Resample to about `BEAT_RATE_HZ`; return the leads and their exact rate."""
    ratio = Fraction(rate_hz / BEAT_RATE_HZ).limit_denominator(10)
    if ratio == 1:
        return displayed, rate_hz
    up, down = ratio.denominator, ratio.numerator
    leads = signal.resample_poly(displayed, up, down, axis=1, padtype="line")
    return np.asarray(leads, dtype=np.float32), rate_hz * up / down


def _whole(centres: NDArray[np.intp], first: int, last: int) -> NDArray[np.intp]:
    return centres[(centres >= first) & (centres <= last)]


def _aligned(
    leads: NDArray[np.float32], centres: NDArray[np.intp], reach: int, rate: float
) -> NDArray[np.intp]:
    """Shift each centre so that its steepness fits the mean of the others best."""
    if len(centres) < LEAST_BEATS:
        return centres
    slope = np.abs(np.diff(leads, axis=1, append=leads[:, -1:])).sum(axis=0)
    half = round(0.08 * rate)
    inner = np.arange(-half, half + 1)
    shifts = np.arange(-reach, reach + 1)
    for _ in range(2):
        template = np.median(slope[centres[:, None] + inner], axis=0)
        wide = slope[centres[:, None] + np.arange(-half - reach, half + reach + 1)]
        pieces = np.lib.stride_tricks.sliding_window_view(wide, len(inner), axis=1)
        centres = centres + shifts[np.argmax(pieces @ template, axis=1)]
        low, high = half + reach, len(slope) - half - reach - 1
        centres = np.clip(centres, low, high)
    return centres


def _alike(beats: NDArray[np.float32], at: int, rate: float) -> NDArray[np.bool_]:
    """Return which beats have the QRS of the median beat [beats]."""
    half = round(0.08 * rate)
    qrs = beats[:, :, at - half : at + half]
    qrs = (qrs - qrs.mean(axis=2, keepdims=True)).reshape(len(beats), -1)
    median = np.median(qrs, axis=0)
    scale = np.linalg.norm(qrs, axis=1) * np.linalg.norm(median)
    return np.asarray(qrs @ median > _LEAST_LIKENESS * np.maximum(scale, 1e-9))
