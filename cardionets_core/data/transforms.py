"""Records -> the arrays that a model sees, as EcgSpec says."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from cardionets_core.data.ecg import EcgRecord
from cardionets_core.data.mains import mains_hz, without_line
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.model_config import EcgSpec
from cardionets_core.vocabulary import LEADS

SHORTEST_SECONDS = 2.0
"""A shorter recording holds hardly one beat."""

SATURATION_MV = 20.0
"""Voltages beyond are pacing or defibrillation artefacts, and are cut to this."""


def prepare_ecg(record: EcgRecord, spec: EcgSpec) -> NDArray[np.float32]:
    """Resample, filter, cut and scale one recording.

    A mains line that stands out is notched first, at the device's own rate: after resampling it may
    have folded back into the band of the heart. Then polyphase resampling, then zero-phase
    Butterworth filters, so that the same heart recorded at two rates passes the same filter. The
    first `record_seconds` are kept.

    Returns:
        float32 [12, record_samples]; zeros in missing leads and after the end of a short recording.

    Raises:
        RecordRefused: `too_short`.
    """
    check_length(record)
    leads = record.signal[record.lead_mask].astype(np.float64)
    if spec.mains_notch:
        leads = _notch(leads, record.sampling_rate_hz)
    leads = _resample(leads, record.sampling_rate_hz, spec.sampling_rate_hz)
    leads = _filter(leads, spec)[:, : spec.record_samples]
    leads = _scale(np.clip(leads, -SATURATION_MV, SATURATION_MV), spec)
    prepared = np.zeros((len(LEADS), spec.record_samples), dtype=np.float32)
    prepared[record.lead_mask, : leads.shape[1]] = leads
    return prepared


def check_length(record: EcgRecord) -> None:
    """Refuse a recording (`too_short`) of less than `SHORTEST_SECONDS`."""
    seconds = record.signal.shape[1] / record.sampling_rate_hz
    if seconds < SHORTEST_SECONDS:
        raise RecordRefused("too_short", f"{seconds:.2f} s")


def prepared_samples(record: EcgRecord, spec: EcgSpec) -> int:
    """Return how many samples of `prepare_ecg` are signal and not padding."""
    ratio = _ratio(record.sampling_rate_hz, spec.sampling_rate_hz)
    samples: int = -(-record.signal.shape[1] * ratio.numerator // ratio.denominator)
    return min(samples, spec.record_samples)


def _notch(leads: NDArray[np.float64], rate_hz: float) -> NDArray[np.float64]:
    line = mains_hz(leads, rate_hz)
    return without_line(leads, line, rate_hz) if line else leads


def _ratio(rate_hz: float, target_hz: int) -> Fraction:
    return (Fraction(target_hz) / Fraction(rate_hz)).limit_denominator(1000)


def _resample(leads: NDArray[np.float64], rate_hz: float, target_hz: int) -> NDArray[np.float64]:
    """Polyphase resampling; the straight line between both ends is taken off meanwhile."""
    ratio = _ratio(rate_hz, target_hz)
    if ratio == 1:
        return leads
    resampled = signal.resample_poly(
        leads, ratio.numerator, ratio.denominator, axis=1, padtype="line"
    )
    return np.asarray(resampled, dtype=np.float64)


def _filter(leads: NDArray[np.float64], spec: EcgSpec) -> NDArray[np.float64]:
    nyquist = spec.sampling_rate_hz / 2
    for kind, hz in (("highpass", spec.highpass_hz), ("lowpass", spec.lowpass_hz)):
        if 0 < hz < nyquist:
            sections = _butterworth(spec.filter_order, hz, kind, spec.sampling_rate_hz)
            leads = np.asarray(signal.sosfiltfilt(sections, leads, axis=1), dtype=np.float64)
    return leads


@lru_cache(maxsize=16)
def _butterworth(order: int, hz: float, kind: str, rate_hz: int) -> NDArray[np.float64]:
    sections: NDArray[np.float64] = signal.butter(order, hz, kind, fs=rate_hz, output="sos")
    return sections


def _scale(leads: NDArray[np.float64], spec: EcgSpec) -> NDArray[np.float64]:
    if spec.scale == "fixed":
        return leads / spec.scale_mv
    mean, sd = float(leads.mean()), float(leads.std())
    if sd == 0:
        raise RecordRefused("no_usable_lead")
    return (leads - mean) / sd
