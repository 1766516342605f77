"""Twelve leads in millivolts -> a WFDB record that holds the signal and nothing else.

Format 16 at 1 uV per bit, the layout of PhysioNet's header(5) and signal(5). Written by hand:
`wfdb.wrsamp` takes 30 ms a record, and writes what it is not asked for (a date, when told one).
The tests read every record back with wfdb.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cardionets_core.data.ecg import EcgRecord
from cardionets_core.vocabulary import LEADS

UNITS_PER_MV = 1000
KEPT_SECONDS = 60.0
"""What is kept of a long recording: the beginning; the models read ten seconds."""

_FULL_SCALE = 32_767
"""-32768 stands for a missing sample."""


def neutral_samples(record: EcgRecord) -> NDArray[np.int32]:
    """Return the recorded leads in whole uV, int32 [leads, n], n at most `KEPT_SECONDS`."""
    kept = int(KEPT_SECONDS * record.sampling_rate_hz)
    leads = record.signal[record.lead_mask, :kept].astype(np.float64)
    return np.asarray(np.rint(leads * UNITS_PER_MV), dtype=np.int32)


def content_of(record: EcgRecord) -> bytes:
    """Return the bytes that two recordings share if and only if they hold the same signal."""
    samples = neutral_samples(record)
    facts = f"ecg {record.sampling_rate_hz:.6g} {samples.shape[1]} "
    leads = np.packbits(record.lead_mask).tobytes()
    return facts.encode() + leads + np.ascontiguousarray(samples, dtype="<i4").tobytes()


def write_wfdb(record: EcgRecord, folder: Path, name: str) -> None:
    """Write `name`.dat and then `name`.hea; each appears under its name only when it is whole.

    A lead that leaves +-32 mV (an electrode's offset) is stored around a baseline of its own.

    Args:
        record: the recording; leads outside of its mask are not written.
        folder: existing folder.
        name: letters, digits, '-' and '_'.
    """
    samples = neutral_samples(record)
    low, high = samples.min(axis=1), samples.max(axis=1)
    beyond = np.maximum(-low, high) > _FULL_SCALE
    baselines = np.where(beyond, -((low.astype(np.int64) + high) // 2), 0)
    stored = np.clip(samples + baselines[:, None], -_FULL_SCALE, _FULL_SCALE).astype("<i2")
    names = [lead for lead, kept in zip(LEADS, record.lead_mask, strict=True) if kept]
    lines = [f"{name} {len(names)} {record.sampling_rate_hz:.10g} {samples.shape[1]}"]
    checksums = stored.sum(axis=1, dtype=np.int64).astype(np.int16)
    for k, lead in enumerate(names):
        gain = f"{UNITS_PER_MV}({baselines[k]})/mV"
        lines.append(f"{name}.dat 16 {gain} 16 0 {stored[k, 0]} {checksums[k]} 0 {lead}")
    write_whole(folder / f"{name}.dat", np.ascontiguousarray(stored.T).tobytes())
    write_whole(folder / f"{name}.hea", ("\n".join(lines) + "\n").encode("ascii"))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
