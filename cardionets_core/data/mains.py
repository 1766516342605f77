"""Mains hum: is there a line at 50 or 60 Hz, and how to take it out.

The zero-phase low pass at 40 Hz alone leaves 1.6 % of a 50 Hz line in a 100 Hz tensor and 8 % in a
250 Hz one (60 Hz: 1 % and 2.5 %). Real records hold up to 0.27 mV of it, which is 0.02 mV then: as
much as a P wave's onset. A record without a line is not touched.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import signal

MAINS_HZ = (50, 60)

LEAST_RATIO = 2.0
"""Power at the line over the median power around it; 0.7 to 1.4 in real records without one."""

LEAST_LINE_MV = 0.004
"""Amplitude of a line worth removing: below one bit (5 uV) of the usual devices."""

NOTCH_WIDTH_HZ = 2.0
"""Width of the notch at half power: grids stay within 0.5 Hz of their frequency."""

_SECONDS = 10
"""How much of a record is looked at; a line is there all the time."""

_AROUND_HZ = (3, 8)
"""Distance from the line where its surroundings are measured."""


def mains_hz(leads: NDArray[np.floating], rate_hz: float) -> int:
    """Return 50 or 60 where that line stands out of its surroundings, otherwise 0.

    The power spectrum is averaged over leads and seconds (Welch's method: Hann windows of one
    second, so that a beat is seen in few of them); the stronger of two lines counts.

    Args:
        leads: mV [leads, n] at the rate of the device.
        rate_hz: samples per second; lines at or above half of it cannot be seen.
    """
    window = round(rate_hz)
    seconds = min(leads.shape[1] // window, _SECONDS)
    top = MAINS_HZ[0] + _AROUND_HZ[1]
    if seconds < 1 or len(leads) < 1 or rate_hz <= 2 * top:
        return 0
    pieces = leads[:, : seconds * window].reshape(-1, window).astype(np.float32)
    spectrum = pieces @ _tones(window)
    amplitude = np.mean(spectrum**2, axis=0).reshape(2, -1).sum(axis=0)
    found = {hz: _line_mv(amplitude, hz) for hz in MAINS_HZ if rate_hz > 2 * (hz + _AROUND_HZ[1])}
    hz, strongest = max(found.items(), key=lambda item: item[1])
    return hz if strongest >= LEAST_LINE_MV else 0


def _line_mv(power: NDArray[np.float32], hz: int) -> float:
    """Return the amplitude at `hz`, root mean square over leads; 0 where it does not stand out."""
    at = hz - _LOWEST_HZ
    near, far = _AROUND_HZ
    around = np.r_[power[at - far : at - near + 1], power[at + near : at + far + 1]]
    level = float(np.median(around))
    line = float(power[at])
    return float(np.sqrt(line - level)) if line > LEAST_RATIO * level else 0.0


_LOWEST_HZ = MAINS_HZ[0] - _AROUND_HZ[1]
_HIGHEST_HZ = MAINS_HZ[1] + _AROUND_HZ[1]


@lru_cache(maxsize=8)
def _tones(window: int) -> NDArray[np.float32]:
    """Windowed cosines, then sines [window, 2 * frequencies]; a tone of 1 mV gives power 1."""
    frequencies = np.arange(_LOWEST_HZ, _HIGHEST_HZ + 1)
    angle = 2 * np.pi * frequencies * np.arange(window)[:, None] / window
    hann = signal.get_window("hann", window)[:, None]
    tones = np.concatenate([np.cos(angle) * hann, np.sin(angle) * hann], axis=1)
    return np.asarray(2 * tones / hann.sum(), dtype=np.float32)


def without_line(leads: NDArray[np.float64], hz: float, rate_hz: float) -> NDArray[np.float64]:
    """Return mV [leads, n] through a zero-phase notch at `hz` (second order, run both ways)."""
    sections = _notch(hz, rate_hz)
    return np.asarray(signal.sosfiltfilt(sections, leads, axis=1), dtype=np.float64)


@lru_cache(maxsize=8)
def _notch(hz: float, rate_hz: float) -> NDArray[np.float64]:
    numerator, denominator = signal.iirnotch(hz, hz / NOTCH_WIDTH_HZ, fs=rate_hz)
    sections: NDArray[np.float64] = signal.tf2sos(numerator, denominator)
    return sections
