"""Which reader a file is for: asked by what the file holds, never by its name alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, cast

from cardionets_core.data.refusal import RecordRefused
from cardionets_core.sources import (
    arrays,
    cardiosoft,
    dicom_ecg,
    ge_muse,
    hl7_aecg,
    philips_sierra,
    wfdb_records,
)
from cardionets_core.sources.recording import SourceEcg

HEAD_BYTES = 4096
"""What of a file is read to recognise it."""


class EcgReader(Protocol):
    """What every module of an ECG format in `sources/` offers."""

    KIND: str

    @staticmethod
    def recognises(name: str, head: bytes) -> bool:
        """Whether a file with this lower-case name and beginning is of this format."""
        ...

    @staticmethod
    def read(path: Path, part: str, *, root: Path) -> SourceEcg:
        """Read one recording."""
        ...


_MODULES = (wfdb_records, dicom_ecg, hl7_aecg, philips_sierra, ge_muse, cardiosoft)
READERS = {reader.KIND: cast(EcgReader, reader) for reader in (*_MODULES, *arrays.READERS)}
"""Kind -> its reader, in the order in which they are asked."""


EMPTY = "empty"
"""Kind of a file of no bytes that has the name of a recording: a copy that failed."""

_ECG_NAMES = (".hea", ".dcm", ".ima", ".xml", ".h5", ".hdf5", ".parquet")
_CMR_NAMES = (".dcm", ".ima", ".nii", ".nii.gz")


def claims_ecg(name: str) -> bool:
    """Whether the name of a file is one of an ECG."""
    return name.lower().endswith(_ECG_NAMES)


def claims_cmr(name: str) -> bool:
    """Whether the name of a file is one of a CMR."""
    return name.lower().endswith(_CMR_NAMES)


def kind_of(name: str, head: bytes) -> str | None:
    """Return the kind of a file by its name and first `HEAD_BYTES`, None where nobody reads it."""
    lower = name.lower()
    return next((kind for kind, r in READERS.items() if r.recognises(lower, head)), None)


def parts_of(kind: str, path: Path) -> Iterator[str]:
    """Yield the recordings of a file; "" alone where the format holds one.

    Raises:
        RecordRefused: the file cannot be used at all.
    """
    if kind == EMPTY:
        raise RecordRefused("truncated")
    parts = cast("Callable[[Path], Iterator[str]] | None", getattr(READERS[kind], "parts", None))
    if parts is None:
        yield ""
    else:
        yield from parts(path)


def read_ecg(kind: str, path: Path, part: str, *, root: Path) -> SourceEcg:
    """Read one recording with the reader of its kind.

    Raises:
        RecordRefused: it cannot be used.
    """
    if kind == EMPTY:
        raise RecordRefused("truncated")
    return READERS[kind].read(path, part, root=root)
