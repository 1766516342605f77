"""CSV and Parquet as arrays of ECGs; what they hold is said by a schema (array_schema.py)."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cardionets_core.data.leads import lead_index
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.sources.array_schema import LARGEST_RECORDING, ArraySchema
from cardionets_core.sources.guard import refusing

LARGEST_CSV = 128 * 2**20
LARGEST_BLOCK = 256 * 2**20
"""Bytes of a row group or chunk, unfolded: what reading one recording costs."""

MOST_RECORDINGS = 10_000_000

Loaded = tuple[NDArray[np.float64], dict[str, object]]
"""Values [leads, n] and what stands beside them, by the names of array_schema.FACTS."""

_NUMBER = re.compile(
    r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?|nan|na|", re.IGNORECASE | re.ASCII
)
_EMPTY = ["", "NaN", "nan", "NA"]


def is_csv(name: str, head: bytes) -> bool:
    """Return whether this is a table of numbers, bare or below names of which one is a lead's."""
    lines = head.decode("utf-8-sig", errors="replace").splitlines()[:2]
    if not name.endswith(".csv") or len(lines) < 2:
        return False
    first, second = (_cells(line) for line in lines)
    named = any(lead_index(cell) is not None for cell in first)
    # the second line may be cut off where the head ends
    return (named or _are_numbers(first)) and _are_numbers(second[:-1] or second)


def load_csv(file: Path, schema: ArraySchema) -> Loaded:
    """Read a table of one recording.

    Raises:
        RecordRefused: `schema`, `too_large`, `unreadable`.
    """
    size = file.stat().st_size
    if size > LARGEST_CSV:
        raise RecordRefused("too_large", f"{size} bytes of text")
    with refusing(), file.open("rb") as stream:
        first = stream.readline(65536).decode("utf-8-sig").rstrip("\r\n")
    cells = _cells(first)
    has_header = not _are_numbers(cells)
    names = cells if has_header else list(schema.leads)
    if len(names) != len(cells):
        raise RecordRefused("schema_leads", f"{len(names)} leads named, {len(cells)} columns")
    if len(set(names)) != len(names) or not set(schema.leads) <= set(names):
        raise RecordRefused("schema_leads", "leads are not the columns")
    with refusing():
        table = pa_csv.read_csv(
            file,
            pa_csv.ReadOptions(column_names=names, skip_rows=int(has_header), use_threads=False),
            pa_csv.ParseOptions(delimiter=_separator(first)),
            pa_csv.ConvertOptions(
                include_columns=list(schema.leads),
                column_types=dict.fromkeys(schema.leads, pa.float64()),
                null_values=_EMPTY,
            ),
        )
        return _columns(table, schema.leads), {}


def is_parquet(name: str, head: bytes) -> bool:
    """Return whether a file is Parquet, by its mark."""
    return head.startswith(b"PAR1")


def count_parquet(file: Path, schema: ArraySchema) -> int | None:
    """Return the rows of a table of lists, None for one of numbers, which is one recording.

    Raises:
        RecordRefused: `schema`, `too_large`, `unreadable`.
    """
    with refusing(), pq.ParquetFile(file) as table:
        arrow = table.schema_arrow
        for names, code in (
            (_signals(schema), "schema_signal" if schema.signal else "schema_leads"),
            (_wanted(schema), "schema_facts"),
        ):
            if any(arrow.get_field_index(name) < 0 for name in names):
                raise RecordRefused(code, "a named column is not there, or is there twice")
        kinds = [arrow.field(name).type for name in _signals(schema)]
        if not schema.signal and all(_is_number(kind) for kind in kinds):
            return None
        if not all(_is_list(kind) for kind in kinds):
            raise RecordRefused(
                "schema_leads", "columns of leads are neither all numbers nor all lists"
            )
        rows = int(table.metadata.num_rows)
        if not 0 <= rows <= MOST_RECORDINGS:
            raise RecordRefused("too_large", f"{rows} rows")
        return rows


def load_parquet(file: Path, schema: ArraySchema, row: int | None) -> Loaded:
    """Read one row of a table of lists, or a whole table of numbers.

    Raises:
        RecordRefused: `schema`, `too_large`, `unreadable`.
    """
    with refusing():
        if row is None:
            return _columns(_whole_table(file, schema.leads), schema.leads), {}
        group, first = _group_of(file, row)
        changed = file.stat().st_mtime_ns
        table = _row_group(str(file), changed, group, _wanted(schema))
        cells = {name: table.column(name)[row - first] for name in _wanted(schema)}
        facts = {fact: cells[name].as_py() for fact, name in schema.facts.items()}
        if schema.signal:
            return _all_leads(cells[schema.signal].values, schema), facts
        leads = [_numbers(cells[name].values) for name in schema.leads]
        if len({len(lead) for lead in leads}) != 1:
            raise RecordRefused("schema_leads", "lists of different lengths")
        return np.stack(leads), facts


def _separator(line: str) -> str:
    return max(",;\t", key=line.count)


def _cells(line: str) -> list[str]:
    return [cell.strip().strip('"').strip() for cell in line.split(_separator(line))]


def _are_numbers(cells: list[str]) -> bool:
    return any(cells) and all(_NUMBER.fullmatch(cell) for cell in cells)


def _signals(schema: ArraySchema) -> tuple[str, ...]:
    return (schema.signal,) if schema.signal else schema.leads


def _wanted(schema: ArraySchema) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*_signals(schema), *schema.facts.values())))


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_list(kind: Any) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _columns(table: Any, names: tuple[str, ...]) -> NDArray[np.float64]:
    """Return float64 [leads, n] of a table with a numeric column for each lead."""
    if table.num_rows * len(names) > LARGEST_RECORDING:
        raise RecordRefused("too_large", f"{table.num_rows} samples")
    return np.stack([table.column(name).cast(pa.float64()).to_numpy() for name in names])


def _whole_table(file: Path, names: tuple[str, ...]) -> Any:
    with pq.ParquetFile(file) as table:
        rows = table.metadata.num_rows
        if not 0 <= rows * len(names) <= LARGEST_RECORDING:
            raise RecordRefused("too_large", f"{rows} samples")
        return table.read(columns=list(names), use_threads=False)


def _group_of(file: Path, row: int) -> tuple[int, int]:
    """Return the row group that holds a row and the group's first row; its size is judged."""
    first = 0
    with pq.ParquetFile(file) as table:
        for k in range(table.metadata.num_row_groups):
            group = table.metadata.row_group(k)
            if first <= row < first + group.num_rows:
                # of single columns nothing is asked: damaged ones end the process (pyarrow 25)
                if not 0 <= group.total_byte_size <= LARGEST_BLOCK:
                    size = f"a row group of {group.total_byte_size} bytes: write smaller ones"
                    raise RecordRefused("too_large", size)
                return k, first
            first += group.num_rows
    raise RecordRefused("truncated")


@lru_cache(maxsize=1)
def _row_group(file: str, changed: int, group: int, names: tuple[str, ...]) -> Any:
    """Keep the last row group: a worker is given its rows one after the other."""
    with pq.ParquetFile(file) as table:
        return table.read_row_group(group, columns=list(names), use_threads=False)


def _numbers(values: Any) -> NDArray[np.float64]:
    """Return the elements of one list, NaN where one is missing."""
    if values is None or not _is_number(values.type) or len(values) > LARGEST_RECORDING:
        raise RecordRefused("unreadable", "a list that holds no numbers")
    return np.asarray(values.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def _all_leads(values: Any, schema: ArraySchema) -> NDArray[np.float64]:
    """Return float64 [leads, n] of a list of lists, or of a flat one in the order of the layout."""
    if values is None or len(values) == 0:
        raise RecordRefused("no_usable_lead")
    if _is_list(values.type):
        lengths = values.value_lengths()
        if values.null_count or len(lengths.unique()) != 1:
            raise RecordRefused("schema_leads", "lists of different lengths")
        return schema.leads_first(_numbers(values.flatten()).reshape(len(values), -1))
    flat, leads = _numbers(values), len(schema.leads)
    if len(flat) % leads:
        raise RecordRefused("schema_leads", f"{leads} leads named, {len(flat)} values in the list")
    is_leads_first = schema.layout.startswith("leads")
    return schema.leads_first(flat.reshape((leads, -1) if is_leads_first else (-1, leads)))
