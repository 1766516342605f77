"""WFDB records -> twelve leads in millivolts. The only reader that knows wfdb.

Format 16, which nearly every 12-lead archive uses, is decoded here (ten times faster); the other
formats, several samples a frame, skew and multi-segment records go through wfdb.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cardionets_core.data.leads import lead_index, standard_leads
from cardionets_core.data.paths import sibling
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.data.wfdb_header import READ_SECONDS, Header, Signal, read_header

RATES_HZ = (50.0, 20_000.0)
"""Sampling rates of an ECG."""

_MISSING_16 = -(2**15)
"""Format 16 stores a missing sample as this."""


@dataclass(frozen=True)
class EcgRecord:
    """One 12-lead recording.

    Attributes:
        signal: float32 [12, n] in mV, in the order of vocabulary.LEADS; zeros where missing.
        lead_mask: bool [12], True where the lead was recorded or derived.
        sampling_rate_hz: samples per second.
    """

    signal: NDArray[np.float32]
    lead_mask: NDArray[np.bool_]
    sampling_rate_hz: float


def read_wfdb(hea: Path, *, root: Path | None = None) -> EcgRecord:
    """Read the first `READ_SECONDS` of a WFDB record (single or multi-segment, any format).

    A lead counts as recorded by what it holds over all that is read.

    Args:
        hea: the header file.
        root: folder that no file of the record may lie outside of; the header's own by default.

    Raises:
        RecordRefused: with one of the codes of refusal.REASONS; nothing outside `root` is opened.
    """
    root = hea.parent if root is None else root
    path = sibling(hea, hea.name, root)
    header = read_header(path, root)
    if header.segments is not None:
        return _read_segments(path, header)
    leads = [k for k, signal in enumerate(header.signals) if lead_index(signal.name) is not None]
    if not leads:
        raise RecordRefused("no_standard_lead")
    signals = [header.signals[k] for k in leads]
    per_frame = _one_rate([signal.per_frame for signal in signals])
    if _is_plain_16(header):
        values = _decode_16(path, header, leads)
    else:
        record = _wfdb_record(path, header, leads)
        values = [np.asarray(v, dtype=np.float64) for v in record.e_p_signal]
    names, units = [s.name for s in signals], [s.unit for s in signals]
    return ecg_record(names, units, values, header.rate_hz * per_frame)


def _one_rate(samples_per_frame: Sequence[int]) -> int:
    if len(set(samples_per_frame)) > 1:
        raise RecordRefused("mixed_rates")
    return samples_per_frame[0]


def _is_plain_16(header: Header) -> bool:
    """Whether all signals are interleaved 16-bit numbers of one file."""
    first = header.signals[0]
    plain = ("16", 1, 0, first.file, first.offset)
    return all((s.fmt, s.per_frame, s.skew, s.file, s.offset) == plain for s in header.signals)


def _decode_16(path: Path, header: Header, leads: Sequence[int]) -> list[NDArray[np.float64]]:
    """Return the physical values of `leads`, each float64 [n], NaN where missing."""
    width, first = len(header.signals), header.signals[0]
    frames = header.frames_to_read
    count = -1 if frames is None else frames * width
    stored = np.fromfile(path.parent / first.file, dtype="<i2", count=count, offset=first.offset)
    digital = stored[: len(stored) // width * width].reshape(-1, width).T
    values = []
    for k in leads:
        signal: Signal = header.signals[k]
        physical = (digital[k].astype(np.float64) - signal.baseline) / signal.gain
        physical[digital[k] == _MISSING_16] = np.nan
        values.append(physical)
    return values


def _read_segments(path: Path, header: Header) -> EcgRecord:
    record = _wfdb_record(path, header, None)
    leads = [k for k, name in enumerate(record.sig_name) if lead_index(name or "") is not None]
    if not leads:
        raise RecordRefused("no_standard_lead")
    per_frame = _one_rate([record.samps_per_frame[k] or 1 for k in leads])
    return ecg_record(
        [record.sig_name[k] for k in leads],
        [record.units[k] or "" for k in leads],
        [np.asarray(record.e_p_signal[k], dtype=np.float64) for k in leads],
        header.rate_hz * per_frame,
    )


def _wfdb_record(path: Path, header: Header, channels: list[int] | None) -> Any:
    with warnings.catch_warnings():
        # wfdb 4.3 trips over a deprecation of pandas 3 while it is imported; and the import takes
        # so long that a site without such records should not wait for it at every round
        warnings.simplefilter("ignore", DeprecationWarning)
        import wfdb
    try:
        return wfdb.rdrecord(
            str(path.with_suffix("")),
            sampto=header.frames_to_read,
            channels=channels,
            smooth_frames=False,
        )
    except Exception as error:  # wfdb raises whatever its decoders trip over, Exception included
        raise RecordRefused("unreadable") from error


def ecg_record(
    names: Sequence[str],
    units: Sequence[str],
    values: Sequence[NDArray[np.float64]],
    rate_hz: float,
) -> EcgRecord:
    """Return the record of signals that were decoded, cut to its first `READ_SECONDS`.

    Args:
        names: name of each signal.
        units: unit of each signal.
        values: physical values, each [n]; NaN where missing.
        rate_hz: samples per second.

    Raises:
        RecordRefused: `sampling_rate` or one of `leads.standard_leads`.
    """
    if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
        raise RecordRefused("sampling_rate", f"{rate_hz:g} Hz")
    longest = int(READ_SECONDS * rate_hz) + 1  # a header without a length is read to its end
    signal, mask = standard_leads(names, units, [v[:longest] for v in values])
    return EcgRecord(signal=signal, lead_mask=mask, sampling_rate_hz=float(rate_hz))
