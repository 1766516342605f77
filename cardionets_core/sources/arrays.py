"""ECGs as plain arrays, with a schema beside them (array_schema.py): CSV, Parquet and HDF5.

CSV      one recording: a column for each lead, with or without a header
Parquet  one recording: a numeric column for each lead; or a recording in each row: a list column
         for each lead, or one list column with all of them
HDF5     one data set: a recording of two axes, or [recordings, ...] of three, of which one row is
         read without the others

The part of a file with several recordings is the number of the row. This is the only door to h5py.
HDF5 can name other files (external links, external storage, virtual data sets) and plug-ins
(filters); a file that does is refused before any of them is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cardionets_core.data.paths import sibling
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.sources.array_schema import LARGEST_RECORDING, ArraySchema, read_schema
from cardionets_core.sources.array_tables import (
    LARGEST_BLOCK,
    MOST_RECORDINGS,
    Loaded,
    count_parquet,
    is_csv,
    is_parquet,
    load_csv,
    load_parquet,
)
from cardionets_core.sources.guard import refusing
from cardionets_core.sources.recording import SourceEcg

_MARK = b"\x89HDF\r\n\x1a\n"
_PLACES = (0, 512, 1024, 2048)
"""Bytes at which HDF5 may begin: before it lies a user block, as in MATLAB 7.3 files."""

_FILTERS = frozenset({1, 2, 3, 4, 5, 6, 32000})
"""gzip, shuffle, fletcher32, szip, n-bit, scale-offset, lzf: part of h5py; others are plug-ins."""

_DENSEST = 1100
"""Bytes that one stored byte can unfold to with gzip, the densest of them (1,032), and some."""


@dataclass(frozen=True)
class ArrayReader:
    """One of the three readers, with what every ECG reader of `sources/` offers.

    Attributes:
        KIND: its name.
        recognises: (lower-case name, first bytes) -> whether a file is for it.
        count: (file, schema) -> recordings in a file; None where the file is one.
        load: (file, schema, row) -> one recording; row is None where the file is one.
    """

    KIND: str
    recognises: Callable[[str, bytes], bool]
    count: Callable[[Path, ArraySchema], int | None]
    load: Callable[[Path, ArraySchema, int | None], Loaded]

    def parts(self, path: Path) -> Iterator[str]:
        """Yield the row of each recording, or "" where the file is one.

        Raises:
            RecordRefused: the file or its schema cannot be used at all.
        """
        file = sibling(path, path.name, path.parent)
        count = self.count(file, read_schema(path, root=path.parent))
        return iter([""]) if count is None else map(str, range(count))

    def read(self, path: Path, part: str, *, root: Path) -> SourceEcg:
        """Read one recording.

        Raises:
            RecordRefused: with one of the codes of refusal.REASONS.
        """
        file = sibling(path, path.name, root)
        schema = read_schema(path, root=root)
        row = _row(part, self.count(file, schema))
        values, facts = self.load(file, schema, row)
        return SourceEcg(record=schema.record_of(values), facts=schema.facts_of(facts))


def _row(part: str, count: int | None) -> int | None:
    if count is None and not part:
        return None
    is_number = part.isascii() and part.isdecimal() and len(part) < 10
    if count is None or not is_number or int(part) >= count:
        raise RecordRefused("missing_file", "no such row")
    return int(part)


def _is_hdf5(name: str, head: bytes) -> bool:
    return any(head.startswith(_MARK, place) for place in _PLACES)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    with refusing(), h5py.File(file, "r", locking=False) as opened:  # an archive may be read-only
        yield opened


def _count_hdf5(file: Path, schema: ArraySchema) -> int | None:
    with _opened(file) as opened:
        data = _signal(opened, schema)
        return None if data.ndim == 2 else int(data.shape[0])


def _load_hdf5(file: Path, schema: ArraySchema, row: int | None) -> Loaded:
    with _opened(file) as opened:
        data = _signal(opened, schema)
        values = data[()] if row is None else data[row]
        facts = {
            fact: _cell(_data_set(opened, name, "schema_facts"), row, rows=data.shape[0])
            for fact, name in schema.facts.items()
        }
    return schema.leads_first(np.asarray(values)), facts


def _signal(opened: Any, schema: ArraySchema) -> Any:
    """Return the data set of the signals, of two or three axes, after judging its sizes."""
    if not schema.signal:
        raise RecordRefused("schema_signal")
    data = _data_set(opened, schema.signal, "schema_signal")
    if data.ndim not in (2, 3) or data.dtype.kind not in "iuf":
        raise RecordRefused("schema_signal", f"signal has {data.ndim} axes or holds no numbers")
    if data.ndim == 3 and data.shape[0] > MOST_RECORDINGS:
        raise RecordRefused("too_large", f"{data.shape[0]} recordings")
    if prod(data.shape[-2:]) > LARGEST_RECORDING:
        raise RecordRefused("too_large", f"{data.shape[-2]} x {data.shape[-1]} values")
    _judge_storage(data)
    return data


def _data_set(opened: Any, name: str, missing: str) -> Any:
    """Return a data set that lies whole in this very file; else `missing` is the reason code."""
    node = opened
    for step in filter(None, name.split("/")):
        if not isinstance(node, h5py.Group) or step in (".", ".."):
            raise RecordRefused(missing)
        link = node.get(step, getlink=True)
        if link is None:
            raise RecordRefused(missing)
        if not isinstance(link, h5py.HardLink):
            raise RecordRefused("path_escape")
        node = node[step]
    if not isinstance(node, h5py.Dataset) or node.shape is None:
        raise RecordRefused(missing)
    if node.is_virtual or node.external:
        raise RecordRefused("path_escape")
    return node


def _judge_storage(data: Any) -> None:
    """Refuse filters that are not built in, and more values than the stored bytes can unfold to."""
    layout = data.id.get_create_plist()
    filters = {layout.get_filter(k)[0] for k in range(layout.get_nfilters())}
    if not filters <= _FILTERS:
        raise RecordRefused("unreadable", "a compression that is not built in")
    if data.chunks and prod(data.chunks) * data.dtype.itemsize > LARGEST_BLOCK:
        raise RecordRefused("too_large", "a chunk of more than 256 MiB")
    claimed, stored = prod(data.shape) * data.dtype.itemsize, data.id.get_storage_size()
    if claimed > stored * (_DENSEST if filters else 1):
        raise RecordRefused("truncated", f"{claimed} bytes claimed, {stored} stored")


def _cell(data: Any, row: int | None, *, rows: int) -> object:
    """Return what a data set of one value for each recording holds for one."""
    if h5py.check_string_dtype(data.dtype) is None and data.dtype.kind not in "iufbS":
        raise RecordRefused("schema_facts", "a fact that is neither number nor text")
    expected = 1 if row is None else rows
    if prod(data.shape) != expected or (data.ndim and data.shape[0] != expected):
        raise RecordRefused("schema_facts", f"a fact of {prod(data.shape)} values for {expected}")
    _judge_storage(data)
    cell = data[()] if not data.ndim else data[row or 0]
    return np.asarray(cell).reshape(-1)[0]


def _no_count(file: Path, schema: ArraySchema) -> None:
    """A CSV is one recording."""


def _load_csv(file: Path, schema: ArraySchema, row: int | None) -> Loaded:
    return load_csv(file, schema)


CSV = ArrayReader(KIND="array_csv", recognises=is_csv, count=_no_count, load=_load_csv)
PARQUET = ArrayReader("array_parquet", is_parquet, count_parquet, load_parquet)
HDF5 = ArrayReader("array_hdf5", _is_hdf5, _count_hdf5, _load_hdf5)

READERS = (CSV, PARQUET, HDF5)
