"""A WFDB record of one device, written by hand.

Signal format 16 and the header are three lines of text per record (PhysioNet, header(5) and
signal(5)); `wfdb.wrsamp` needs 30 ms per record for them, more than the ECG itself takes.
The tests read every record back with wfdb.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cardionets_core.cohort.sites import EcgDevice

_FULL_SCALE = 32767


def write_ecg(
    ecg: NDArray[np.float32],
    device: EcgDevice,
    *,
    folder: Path,
    name: str,
    comments: tuple[str, ...] = (),
) -> None:
    """Write `name`.hea and `name`.dat: the device's unit, steps, rate and lead names.

    Args:
        ecg: mV [12, samples].
        device: whose habits.
        folder: existing folder.
        name: record name.
        comments: lines of the header after the signals.
    """
    per_mv = device.adu_per_unit * (1000.0 if device.unit == "uV" else 1.0)
    steps = np.clip(np.rint(ecg.T * np.float32(per_mv)), -_FULL_SCALE, _FULL_SCALE)
    stored = np.ascontiguousarray(steps, dtype="<i2")
    samples, leads = stored.shape
    lines = [f"{name} {leads} {device.sampling_rate_hz} {samples}"]
    checksums = stored.sum(axis=0, dtype=np.int64).astype(np.int16)
    for lead, first, checksum in zip(device.lead_names, stored[0], checksums, strict=True):
        gain = f"{device.adu_per_unit:g}(0)/{device.unit}"
        lines.append(f"{name}.dat 16 {gain} 16 0 {first} {checksum} 0 {lead}")
    lines += [f"# {comment}" for comment in comments]
    (folder / f"{name}.dat").write_bytes(stored.tobytes())
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n", "ascii")


def read_ecg(header: Path) -> tuple[NDArray[np.float32], float]:
    """Read back what `write_ecg` wrote: mV [12, samples] and the sampling rate in Hz."""
    lines = header.read_text("ascii").splitlines()
    _, leads, rate, samples = lines[0].split()
    gain, unit = lines[1].split()[2].split("(0)/")
    per_mv = float(gain) * (1000.0 if unit == "uV" else 1.0)
    stored = np.frombuffer(header.with_suffix(".dat").read_bytes(), dtype="<i2")
    signal = stored.reshape(int(samples), int(leads)).T / per_mv
    return signal.astype(np.float32), float(rate)
