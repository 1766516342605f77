"""What is wrong with a lead, if anything.

Thresholds stand where the leads of PTB-XL that cardiologists marked part from the others
(tests/cardionets_core/quality/test_lead_grades.py prints how well): a baseline that wanders half a
millivolt, noise that is a tenth of a millimetre on paper between the beats.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from cardionets_core.data.ecg import EcgRecord

LeadGrade = Literal["good", "missing", "flat", "clipped", "baseline", "noise"]

STILL_MV = 0.01
"""A second in which a lead moves less is still: even between beats devices move more."""
MOSTLY = 0.5
"""Share of still seconds above which a lead is flat."""

PLATEAU_S = 0.012
"""How long a lead must stay at its very highest or lowest value to have been cut there."""
PLATEAU_SHARE, LEAST_PLATEAUS = 0.005, 2
"""Share of the record that such plateaus must fill, and how many there must be: a single one is how
some devices fill up the end of a record.
"""

DRIFT_MV = 0.5
"""Range of the medians of each second above which the baseline wanders."""

NOISE_MV, NOISE_SHARE = 0.010, 0.02
"""Noise between the beats is too much above this voltage and this share of the lead's range."""
NOISE_SHARE_ALONE = 0.05
"""Above this share of the lead's range noise is too much at any voltage."""

_BOX_S = 0.04
_WINDOW_S = 0.1


def lead_grades(record: EcgRecord, displayed: NDArray[np.float32]) -> tuple[LeadGrade, ...]:
    """Return one grade per lead: the first that fits of missing, flat, clipped, baseline, noise.

    Args:
        record: the recording as it was stored.
        displayed: its leads, mV [12, n], as `beats.display_filter` returns them.
    """
    rate = record.sampling_rate_hz
    found: list[tuple[LeadGrade, NDArray[np.bool_]]] = [
        ("missing", ~record.lead_mask),
        ("flat", _is_flat(record.signal, rate)),
        ("clipped", _is_clipped(record.signal, rate)),
        ("baseline", drift_mv(record.signal, rate) > DRIFT_MV),
        ("noise", _is_noisy(displayed, rate)),
    ]
    grades: list[LeadGrade] = ["good"] * len(record.lead_mask)
    for grade, leads in reversed(found):
        for k in np.flatnonzero(leads):
            grades[k] = grade
    return tuple(grades)


def inner_range_mv(displayed: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the range of the inner 99 % of each lead, mV [12]."""
    low, high = np.percentile(displayed, (0.5, 99.5), axis=1)
    return np.asarray(high - low, dtype=np.float32)


def drift_mv(signal: NDArray[np.float32], rate_hz: float) -> NDArray[np.float32]:
    """Return how far the median of a second wanders over the record, mV [12]."""
    return np.asarray(np.ptp(np.median(_pieces(signal, rate_hz), axis=2), axis=1))


def noise_mv(displayed: NDArray[np.float32], rate_hz: float) -> NDArray[np.float32]:
    """Return the noise between the beats, root mean square in mV [12], about 12 to 40 Hz.

    Moving averages of 40 ms are taken off twice, which leaves nothing of P and T; of windows of a
    tenth of a second the median one counts, which no QRS touches.
    """
    box = max(3, round(_BOX_S * rate_hz))
    rough = displayed - uniform_filter1d(displayed, box, axis=1)
    rough -= uniform_filter1d(rough, box, axis=1)
    power = np.mean(_pieces(rough, _WINDOW_S * rate_hz) ** 2, axis=2)
    return np.asarray(np.sqrt(np.median(power, axis=1)), dtype=np.float32)


def _pieces(signal: NDArray[np.float32], length: float) -> NDArray[np.float32]:
    """Cut [12, n] into whole pieces [12, pieces, length]; a short signal is one piece."""
    width = max(1, min(round(length), signal.shape[1]))
    count = signal.shape[1] // width
    return signal[:, : count * width].reshape(len(signal), count, width)


def _is_flat(signal: NDArray[np.float32], rate_hz: float) -> NDArray[np.bool_]:
    still = np.ptp(_pieces(signal, rate_hz), axis=2) < STILL_MV
    return np.asarray(still.mean(axis=1) > MOSTLY)


def _is_clipped(signal: NDArray[np.float32], rate_hz: float) -> NDArray[np.bool_]:
    """Whether a lead stays at its highest or lowest value again and again."""
    need = max(2, round(PLATEAU_S * rate_hz))
    shares = []
    for extreme in (signal.max(axis=1), signal.min(axis=1)):
        near = np.abs(signal - extreme[:, None]) < 1e-6 * np.maximum(1, np.abs(extreme[:, None]))
        shares.append([_share_in_runs(lead, need) for lead in near])
    return np.asarray(np.max(shares, axis=0) > PLATEAU_SHARE)


def _share_in_runs(held: NDArray[np.bool_], need: int) -> float:
    """Share of samples that are True in runs of at least `need`; 0 for too few such runs."""
    if np.count_nonzero(held) < need:
        return 0.0
    edges = np.flatnonzero(np.diff(np.concatenate([[0], held.astype(np.int8), [0]])))
    runs = edges[1::2] - edges[::2]
    plateaus = runs[runs >= need]
    return float(plateaus.sum() / len(held)) if len(plateaus) >= LEAST_PLATEAUS else 0.0


def _is_noisy(displayed: NDArray[np.float32], rate_hz: float) -> NDArray[np.bool_]:
    noise = noise_mv(displayed, rate_hz)
    share = noise / np.maximum(inner_range_mv(displayed), 1e-6)
    much = (noise > NOISE_MV) & (share > NOISE_SHARE)
    return np.asarray(much | (share > NOISE_SHARE_ALONE))
