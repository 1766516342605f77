"""DICOM ECG waveforms: 12-lead, general and ambulatory (PS3.3 A.34, C.10.9).

A file holds one or several multiplex groups, for example the rhythm and the averaged beat. Of those
that last at least two seconds, read is the one with most standard leads; of these, one that is
recorded rather than derived, then the longest. A sample is worth

    sample x sensitivity x correction factor + baseline      (in the channel's unit, C.10.9.1.4)

Leads are named by codes of SCP-ECG or ISO/IEEE 11073 (CID 3001), or by text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cardionets_core.data.ecg import RATES_HZ, ecg_record
from cardionets_core.data.leads import lead_index, millivolts_per_unit
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.data.wfdb_header import LONGEST_SECONDS, READ_SECONDS
from cardionets_core.sources.dicom import (
    Dataset,
    bytes_of,
    is_dicom,
    is_little_endian,
    items_of,
    number_of,
    read_dataset,
    text_of,
)
from cardionets_core.sources.dicom_facts import facts_of
from cardionets_core.sources.recording import SourceEcg

KIND = "dicom_ecg"

_SOP_CLASS = re.compile(rb"1\.2\.840\.10008\.5\.1\.4\.1\.1\.9\.1\.[1-4](?![\d.])")
"""12-lead, general, ambulatory and general 32-bit ECG waveform storage (PS3.4 B.5)."""

_SAMPLES = {(8, "SB"): "i1", (8, "UB"): "u1", (16, "SS"): "i2", (16, "US"): "u2",
            (32, "SL"): "i4", (32, "UL"): "u4"}  # fmt: skip

_LEAD_OF_CODE = {
    1: "I", 2: "II", 3: "V1", 4: "V2", 5: "V3", 6: "V4", 7: "V5", 8: "V6",
    61: "III", 62: "aVR", 63: "aVL", 64: "aVF",
}  # fmt: skip
"""Numbers of the leads in SCP-ECG 5.6.3, which ISO/IEEE 11073-10102 has too."""

_CODE = re.compile(r"(?:5\.6\.3-9-|2:)(\d{1,4})|(\d{6})", re.ASCII)
_MDC_LEADS = 2 * 65536
"""Partition 2 of ISO/IEEE 11073, where codes are written as one number."""

SHORTEST_SECONDS = 2.0
"""An averaged beat is shorter, whatever its label says."""

_MOST_CHANNELS = 128
_MOST_GROUPS = 64
_LARGEST_FACTOR = 1e6


@dataclass(frozen=True)
class _Group:
    """One multiplex group: what its header says and the leads among its channels."""

    item: Dataset
    rate_hz: float
    samples: int
    channels: tuple[Dataset, ...]
    leads: tuple[str, ...]

    @property
    def standard(self) -> list[int]:
        """Places of the channels that are standard leads."""
        return [k for k, name in enumerate(self.leads) if name]

    @property
    def worth(self) -> tuple[bool, int, bool, float]:
        """What decides between groups; see the module."""
        seconds = self.samples / self.rate_hz
        derived = text_of(self.item, "WaveformOriginality") == "DERIVED"
        return seconds >= SHORTEST_SECONDS, len(self.standard), not derived, seconds


def recognises(name: str, head: bytes) -> bool:
    """Return whether a file is a DICOM ECG, by the class that its header names."""
    return is_dicom(head) and _SOP_CLASS.search(head) is not None


def read(path: Path, part: str, *, root: Path) -> SourceEcg:
    """Read the rhythm of one DICOM ECG.

    Raises:
        RecordRefused: with one of the codes of refusal.REASONS; `too_short` where the file holds
            an averaged beat only.
    """
    dataset = read_dataset(path, pixels=True, root=root)  # whole: then its size is judged
    items = items_of(dataset, "WaveformSequence")
    if not items:
        raise RecordRefused("header", "no waveform")
    if len(items) > _MOST_GROUPS:
        raise RecordRefused("too_large", f"{len(items)} groups")
    groups = [_group(item) for item in items if not _is_averaged(item)]
    if not groups:
        raise RecordRefused("too_short", "an averaged beat only")
    group = max(groups, key=lambda found: found.worth)
    places = group.standard
    if not places:
        raise RecordRefused("no_standard_lead")
    stored = _stored(group, little_endian=is_little_endian(dataset))
    record = ecg_record(
        [group.leads[k] for k in places],
        [_unit(group.channels[k]) for k in places],
        [_physical(stored[:, k], group, k) for k in places],
        group.rate_hz,
    )
    return SourceEcg(record=record, facts=facts_of(dataset))


def _group(item: Dataset) -> _Group:
    rate, samples = number_of(item, "SamplingFrequency"), number_of(item, "NumberOfWaveformSamples")
    if not RATES_HZ[0] <= rate <= RATES_HZ[1]:
        raise RecordRefused("sampling_rate", f"{rate:g} Hz")
    if not samples >= 1:
        raise RecordRefused("header", "no number of samples")
    if samples / rate > LONGEST_SECONDS:
        raise RecordRefused("too_large", f"{samples:.0f} samples")
    channels = items_of(item, "ChannelDefinitionSequence")
    if len(channels) > _MOST_CHANNELS:
        raise RecordRefused("too_large", f"{len(channels)} channels")
    if number_of(item, "NumberOfWaveformChannels") != len(channels) or not channels:
        raise RecordRefused("header", "another number of channels than described")
    return _Group(
        item=item,
        rate_hz=rate,
        samples=int(samples),
        channels=channels,
        leads=tuple(_lead_name(channel) for channel in channels),
    )


def _is_averaged(item: Dataset) -> bool:
    label = text_of(item, "MultiplexGroupLabel").upper()
    return any(word in label for word in ("MEDIAN", "AVERAGE", "TEMPLATE"))


def _lead_name(channel: Dataset) -> str:
    """Return the name of a standard lead, "" for another channel."""
    sources = items_of(channel, "ChannelSourceSequence")[:1]
    for source in sources:
        match = _CODE.fullmatch(text_of(source, "CodeValue"))
        if match is not None:
            number = int(match[1]) if match[1] else int(match[2]) - _MDC_LEADS
            return _LEAD_OF_CODE.get(number, "")
    names = [text_of(source, "CodeValue") for source in sources]
    names += [text_of(source, "CodeMeaning") for source in sources]
    names.append(text_of(channel, "ChannelLabel"))
    plain = (re.sub(r"\s*\(.*", "", name) for name in names)
    return next((name for name in plain if lead_index(name) is not None), "")


def _stored(group: _Group, *, little_endian: bool) -> NDArray[np.generic]:
    """Return the encoded samples, integer [n, channels], of what is read of a long recording."""
    bits = number_of(group.item, "WaveformBitsAllocated")
    kind = _SAMPLES.get((int(bits) if bits > 0 else 0, _interpretation(group.item)))
    if kind is None:
        raise RecordRefused("unreadable", "samples that are not integers")
    layout = np.dtype(("<" if little_endian else ">") + kind)
    data, width = bytes_of(group.item, "WaveformData"), len(group.channels)
    if len(data) < group.samples * width * layout.itemsize:
        raise RecordRefused("truncated")
    frames = min(group.samples, int(READ_SECONDS * group.rate_hz) + 1)
    return np.frombuffer(data, dtype=layout, count=frames * width).reshape(frames, width)


def _interpretation(item: Dataset) -> str:
    return text_of(item, "WaveformSampleInterpretation").upper()


def _unit(channel: Dataset) -> str:
    """Return the unit of a channel's sensitivity, "" where none is stated that is a voltage."""
    for item in items_of(channel, "ChannelSensitivityUnitsSequence")[:1]:
        for keyword in ("CodeValue", "CodeMeaning"):
            unit = text_of(item, keyword)
            if millivolts_per_unit(unit) is not None:
                return unit
    return ""


def _physical(stored: NDArray[np.generic], group: _Group, place: int) -> NDArray[np.float64]:
    """Return one channel in its unit, float64 [n], NaN where the device padded."""
    channel = group.channels[place]
    sensitivity = number_of(channel, "ChannelSensitivity")
    factor = _number_or(channel, "ChannelSensitivityCorrectionFactor", 1.0) * sensitivity
    baseline = _number_or(channel, "ChannelBaseline", 0.0)
    if not 0 < abs(factor) <= _LARGEST_FACTOR or abs(baseline) > _LARGEST_FACTOR:
        raise RecordRefused("units", "no sensitivity")
    values = stored.astype(np.float64) * factor + baseline
    padding = _padding(group.item, stored.dtype)
    if padding is not None:
        values[stored == padding] = np.nan
    return _without_skew(values, channel, group.rate_hz)


def _padding(item: Dataset, layout: np.dtype[np.generic]) -> np.generic | None:
    data = bytes_of(item, "WaveformPaddingValue")[: layout.itemsize]
    whole = len(data) == layout.itemsize
    return np.frombuffer(data, dtype=layout)[0] if whole else None


def _without_skew(
    values: NDArray[np.float64], channel: Dataset, rate_hz: float
) -> NDArray[np.float64]:
    """Return the values at the times of the group: this channel was sampled `skew` samples later.

    Multiplexers are late by parts of a sample, which is left alone: less than the spread of times
    between devices.
    """
    skew = _number_or(channel, "ChannelSampleSkew", 0.0)
    skew += _number_or(channel, "ChannelTimeSkew", 0.0) * rate_hz
    if abs(skew) < 1:
        return values
    times: Sequence[float] | NDArray[np.float64] = np.arange(len(values), dtype=np.float64)
    return np.interp(times, np.asarray(times) + skew, values, left=np.nan, right=np.nan)


def _number_or(dataset: Dataset, keyword: str, default: float) -> float:
    value = number_of(dataset, keyword)
    return default if isnan(value) else value
