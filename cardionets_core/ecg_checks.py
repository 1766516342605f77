"""What a cardiologist would check on the sheet before reading it: leads, voltages, length, rate.

A record that cannot be used at all is refused by the reader (data/refusal.py). These are remarks on
records that can.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import signal

from cardionets_core.vocabulary import LEADS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cardionets_core.data.ecg import EcgRecord
    from cardionets_core.model_config import EcgSpec

DISPLAY_BAND_HZ = (0.5, 40.0)
"""Band of a monitor or a printed rhythm strip."""

USUAL_RANGE_MV = (0.3, 5.0)
"""Typical peak-to-peak voltage of a 12-lead ECG, median over the leads."""

RATE_BPM = (25.0, 220.0)
REFRACTORY_S = 0.25

LEAST_SWING_MV = 0.1
"""Voltage that a beat moves in a tenth of a second, up and down added, mean over the leads."""

EINTHOVEN_SHARE = 0.2
"""Share of the limb leads' power that I + III - II may hold before they contradict each other."""


def display_filter(record: EcgRecord) -> NDArray[np.float32]:
    """Return the leads [12, n] through a zero-phase band pass as a printed ECG has it."""
    nyquist = record.sampling_rate_hz / 2
    low, high = DISPLAY_BAND_HZ
    band = (low, high) if high < nyquist else low
    kind = "bandpass" if high < nyquist else "highpass"
    sections = signal.butter(2, band, kind, fs=record.sampling_rate_hz, output="sos")
    filtered = signal.sosfiltfilt(sections, record.signal.astype(np.float64), axis=1)
    return np.asarray(filtered * record.lead_mask[:, None], dtype=np.float32)


def heart_rate_bpm(record: EcgRecord) -> float | None:
    """Return the heart rate from the median beat-to-beat interval; None where no beats stand out.

    Beats are peaks of the steepness summed over the leads; fewer than three, or a rate outside of
    25 to 220 per minute, is no answer.
    """
    rate_hz = record.sampling_rate_hz
    slope = np.abs(np.diff(display_filter(record).astype(np.float64), axis=1)).sum(axis=0)
    width = max(1, round(0.1 * rate_hz))
    steepness = np.convolve(slope, np.ones(width) / width, mode="same")
    least = LEAST_SWING_MV * record.lead_mask.sum() / width
    threshold = max(0.4 * float(np.quantile(steepness, 0.98)), float(least))
    peaks, _ = signal.find_peaks(
        steepness, height=threshold, distance=max(1, round(REFRACTORY_S * rate_hz))
    )
    if len(peaks) < 3:
        return None
    rate = 60 * rate_hz / float(np.median(np.diff(peaks)))
    return rate if RATE_BPM[0] <= rate <= RATE_BPM[1] else None


def remarks(record: EcgRecord, spec: EcgSpec) -> tuple[str, ...]:
    """Return what a reader should know about the record, one sentence each."""
    found = []
    missing = [name for name, seen in zip(LEADS, record.lead_mask, strict=True) if not seen]
    if missing:
        found.append(
            f"{_listed(missing)} {'was' if len(missing) == 1 else 'were'} not recorded (absent or "
            "constant); the model leaves them out and is less certain than its intervals say."
        )
    seconds = record.signal.shape[1] / record.sampling_rate_hz
    if seconds < spec.record_seconds - 0.01:
        found.append(f"The recording is {seconds:.1f} s long; the model expects 10 s.")
    elif seconds > spec.record_seconds + 0.01:
        found.append(f"Only the first {spec.record_seconds:g} s of {seconds:.0f} s were used.")
    found += _voltage_remarks(record)
    if _limb_leads_disagree(record):
        found.append(
            "Lead II is not the sum of I and III: limb leads may be swapped or mislabelled."
        )
    if heart_rate_bpm(record) is None:
        found.append("No regular beats were found: the recording may be noise.")
    return tuple(found)


def _voltage_remarks(record: EcgRecord) -> list[str]:
    leads = display_filter(record)[record.lead_mask]
    low, high = np.percentile(leads, (0.5, 99.5), axis=1)
    typical = float(np.median(high - low))
    if USUAL_RANGE_MV[0] <= typical <= USUAL_RANGE_MV[1]:
        return []
    word = "low" if typical < USUAL_RANGE_MV[0] else "high"
    return [
        f"Voltages are unusually {word} ({typical:.2g} mV peak to peak in a typical lead): check "
        "the gain in the header; the same bytes are found with gains five times apart."
    ]


def _limb_leads_disagree(record: EcgRecord) -> bool:
    if not record.lead_mask[:3].all():
        return False
    one, two, three = display_filter(record)[:3].astype(np.float64)
    power = float(np.mean(two**2) + np.mean(one**2) + np.mean(three**2)) / 3
    return float(np.mean((one + three - two) ** 2)) > EINTHOVEN_SHARE * power


def _listed(names: list[str]) -> str:
    if len(names) == 1:
        return f"Lead {names[0]}"
    return f"Leads {', '.join(names[:-1])} and {names[-1]}"
