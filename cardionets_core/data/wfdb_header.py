"""WFDB headers: parsed and judged as the untrusted text they are, before any signal file is opened.

Grammar: PhysioNet, header(5). It is parsed here and not by wfdb because wfdb drops every byte that
is not ASCII (a unit `µV` becomes `V`, a million times too large), and takes 5 ms for twelve leads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cardionets_core.data.paths import sibling
from cardionets_core.data.refusal import RecordRefused

READ_SECONDS = 300.0
"""What is read of a long recording: the beginning."""

LONGEST_SECONDS = 14 * 24 * 3600.0
"""Longest recording a header may claim (a patch worn for two weeks)."""

HIGHEST_RATE_HZ = 20_000.0
MAX_SIGNALS = 128
MAX_SEGMENTS = 2_000
MAX_VALUES = 50_000_000
"""Values of one record that may be decoded at once (400 MB as float64)."""

MAX_HEADER_BYTES = 1_000_000
FIRST_YEAR = 1900
DEFAULT_RATE_HZ = 250.0
DEFAULT_GAIN = 200.0

BITS = {
    "8": 8.0, "16": 16.0, "24": 24.0, "32": 32.0, "61": 16.0, "80": 8.0, "160": 16.0,
    "212": 12.0, "310": 32 / 3, "311": 32 / 3,
}  # fmt: skip
"""Bits per sample of the uncompressed formats, signal(5)."""

COMPRESSED = frozenset({"508", "516", "524"})

_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_RECORD = re.compile(r"(?P<name>[-\w]+)(?:/(?P<segments>\d+))?", re.ASCII)
_RATE = re.compile(rf"(?P<rate>{_NUMBER})(?:/\S*)?")
_FILE = re.compile(r"~|[-\w]+(?:\.\w+)?", re.ASCII)
_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?(?:\.\d+)?", re.ASCII)
_DATE = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})", re.ASCII)
_FORMAT = re.compile(r"(?P<fmt>\d+)(?:x(?P<frame>\d+))?(?::(?P<skew>\d+))?(?:\+(?P<offset>\d+))?")
_GAIN = re.compile(rf"(?P<gain>{_NUMBER})(?:\((?P<baseline>-?\d+)\))?(?:/(?P<unit>\S+))?")


@dataclass(frozen=True)
class Signal:
    """One signal line: file, format, samples per frame, skew, byte offset, scale, unit and name."""

    file: str
    fmt: str
    per_frame: int
    skew: int
    offset: int
    gain: float
    baseline: int
    unit: str
    name: str


@dataclass(frozen=True)
class Header:
    """One header.

    Attributes:
        rate_hz: frames per second.
        frames: length, None where the header does not say.
        signals: of a single-segment record; empty for a multi-segment one.
        segments: (name, frames) of a multi-segment record; None for a single one.
        recorded: when it begins; None where the record line gives no date of the format.
        comments: what follows the `#` of each comment line; may name a patient.
    """

    rate_hz: float
    frames: int | None
    signals: tuple[Signal, ...]
    segments: tuple[tuple[str, int], ...] | None = None
    recorded: datetime | None = field(default=None, repr=False)
    comments: tuple[str, ...] = field(default=(), repr=False)

    @property
    def frames_to_read(self) -> int | None:
        """Frames in the first `READ_SECONDS`; None where the length is unknown."""
        if self.frames is None:
            return None
        return min(self.frames, int(READ_SECONDS * self.rate_hz) + 1)


def read_header(path: Path, root: Path) -> Header:
    """Parse a header and check all that it refers to and claims.

    Args:
        path: the `.hea` file.
        root: folder that no file of the record may lie outside of.

    Raises:
        RecordRefused: `file_type`, `header`, `path_escape`, `missing_file`, `sampling_rate`,
            `too_large`, `truncated` or `units`.
    """
    header = _parse(path)
    if header.segments is None:
        _check_files(header, path, root)
        return header
    for k, (name, frames) in enumerate(header.segments):
        if name == "~":
            continue
        segment_path = sibling(path, f"{name}.hea", root)
        segment = _parse(segment_path)
        if segment.segments is not None:
            raise RecordRefused("header", "segments within segments")
        is_layout = k == 0 and frames == 0
        if not is_layout:
            _check_files(segment, segment_path, root)
        if not all(signal.unit.isascii() for signal in segment.signals):
            raise RecordRefused("units", "wfdb joins segments and misreads such units")
    return header


def _parse(path: Path) -> Header:
    if path.suffix != ".hea":
        raise RecordRefused("file_type")
    if path.stat().st_size > MAX_HEADER_BYTES:
        raise RecordRefused("too_large", "header file")
    written = [line.strip() for line in _decode(path.read_bytes()).splitlines()]
    comments = tuple(line.lstrip("# \t") for line in written if line.startswith("#"))
    lines = [line for line in written if line and not line.startswith("#")]
    if not lines:
        raise RecordRefused("header", "it is empty")
    fields = lines[0].split()
    record = _RECORD.fullmatch(fields[0])
    if record is None or len(fields) < 2:
        raise RecordRefused("header", "record line")
    rate_hz = _rate(fields[2]) if len(fields) > 2 else DEFAULT_RATE_HZ
    frames = _whole(fields[3], "length") if len(fields) > 3 else None
    if frames is not None and frames / rate_hz > LONGEST_SECONDS:
        raise RecordRefused("too_large", f"{frames} samples")
    count = _whole(fields[1], "number of signals")
    if count > MAX_SIGNALS:
        raise RecordRefused("too_large", f"{count} signals")
    if record["segments"]:
        segments = _segments(lines[1:], _whole(record["segments"], "number of segments"))
        return Header(rate_hz, frames, (), segments, _recorded(fields[4:]), comments)
    if len(lines) - 1 != count:
        raise RecordRefused("header", f"{count} signals announced, {len(lines) - 1} described")
    signals = tuple(_signal(line) for line in lines[1:])
    return Header(rate_hz, frames, signals, None, _recorded(fields[4:]), comments)


def _recorded(fields: Sequence[str]) -> datetime | None:
    """Return the base date and time, `hh:mm:ss.sss dd/mm/yyyy`.

    PhysioNet/CinC headers have `23-Mar-2021 20:20:47` here, which is no date of the format: it is
    when the file was converted (for records of 1990, too), and is not taken. Years of the future
    are: de-identified archives shift their calendars there (MIMIC).
    """
    found = [_TIME.fullmatch(fields[0]), _DATE.fullmatch(fields[1])] if len(fields) > 1 else []
    if not found or None in found:
        return None
    hour, minute, second, day, month, year = (
        int(part or 0) for match in found if match for part in match.groups()
    )
    try:
        moment = datetime(year, month, day, hour, minute, second)
    except ValueError:
        return None
    return moment if year >= FIRST_YEAR else None


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _whole(text: str, what: str) -> int:
    """Return a count; more digits than any recording needs are refused before they are read."""
    if not text.isascii() or not text.isdigit():
        raise RecordRefused("header", what)
    if len(text) > 18:
        raise RecordRefused("too_large", what)
    return int(text)


def _rate(text: str) -> float:
    match = _RATE.fullmatch(text)
    rate = float(match["rate"]) if match else 0.0
    if not 0 < rate <= HIGHEST_RATE_HZ:
        raise RecordRefused("sampling_rate")
    return rate


def _segments(lines: Sequence[str], count: int) -> tuple[tuple[str, int], ...]:
    if count > MAX_SEGMENTS:
        raise RecordRefused("too_large", f"{count} segments")
    if len(lines) != count or not lines:
        raise RecordRefused("header", f"{count} segments announced, {len(lines)} described")
    fields = [line.split() for line in lines]
    if any(len(words) < 2 for words in fields):
        raise RecordRefused("header", "segment line")
    return tuple((_file_name(w[0]), _whole(w[1], "segment length")) for w in fields)


def _signal(line: str) -> Signal:
    fields = line.split(maxsplit=8)
    if len(fields) < 2:
        raise RecordRefused("header", "signal line")
    layout = _FORMAT.fullmatch(fields[1])
    scale = _GAIN.fullmatch(fields[2]) if len(fields) > 2 else None
    if layout is None or (len(fields) > 2 and scale is None):
        raise RecordRefused("header", "signal line")
    zero = fields[4] if len(fields) > 4 else "0"
    if not re.fullmatch(r"-?\d{1,18}", zero):
        raise RecordRefused("header", "signal line")
    gain = float(scale["gain"]) if scale else 0.0
    if gain and not 1e-9 < abs(gain) < 1e15:
        raise RecordRefused("header", "gain")
    return Signal(
        file=_file_name(fields[0]),
        fmt=layout["fmt"],
        per_frame=_whole(layout["frame"] or "1", "samples per frame"),
        skew=_whole(layout["skew"] or "0", "skew"),
        offset=_whole(layout["offset"] or "0", "byte offset"),
        gain=gain or DEFAULT_GAIN,
        baseline=int(scale["baseline"] if scale and scale["baseline"] else zero),
        unit=(scale["unit"] if scale else None) or "mV",
        name=fields[8] if len(fields) > 8 else "",
    )


def _file_name(text: str) -> str:
    if re.search(r"[/\\:]|\.\.", text):
        raise RecordRefused("path_escape")
    if not _FILE.fullmatch(text):
        raise RecordRefused("header", "file name")
    return text


def _check_files(header: Header, path: Path, root: Path) -> None:
    """Check that the signal files lie beside the header and hold what it claims."""
    for name in dict.fromkeys(signal.file for signal in header.signals):
        if name == "~":  # the layout of a multi-segment record
            raise RecordRefused("header", "it describes signals without a file")
        file = sibling(path, name, root)
        group = [signal for signal in header.signals if signal.file == name]
        _check_size(header, group, file.stat().st_size)


def _check_size(header: Header, group: Sequence[Signal], size: int) -> None:
    fmt, offset = group[0].fmt, group[0].offset
    if fmt not in BITS and fmt not in COMPRESSED:
        raise RecordRefused("header", "unknown signal format")
    frame = sum(signal.per_frame for signal in group)
    if frame == 0:
        raise RecordRefused("header", "no samples in a frame")
    frames = header.frames_to_read
    if frames is None:
        if fmt in COMPRESSED:
            raise RecordRefused("header", "compressed and without a length")
        frames = int((size - offset) * 8 / BITS[fmt] / frame)
    elif fmt in BITS and offset + int((header.frames or 0) * frame * BITS[fmt] / 8) > size:
        raise RecordRefused("truncated")
    if frames * frame > MAX_VALUES:
        raise RecordRefused("too_large", f"{frames * frame} values")
