"""Studies -> manifest.parquet and manifest.csv, in the columns of data/manifest.py.

Written a block of rows at a time, and put in place only where a byte changed: a second run of the
same preparation leaves both files untouched.
"""

from __future__ import annotations

import csv
import filecmp
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from cardionets_core.data.manifest import COLUMNS, FILE_COLUMNS
from cardionets_core.preparation.outcome import Outcome
from cardionets_core.preparation.studies import Study
from cardionets_core.vocabulary import COVARIATES, DISEASES

PARQUET, CSV = "manifest.parquet", "manifest.csv"
_TEXT = ("patient_id", "study_id", *FILE_COLUMNS)
_BLOCK = 5_000
"""Rows in memory at once; also a row group of the Parquet file."""

Row = dict[str, str | float]
T = TypeVar("T")


def row_of(study: Study, outcomes: Sequence[Outcome]) -> Row:
    """Return the manifest row of a study; the ECG speaks first where both know a value."""
    row: Row = {"patient_id": study.patient, "study_id": study.study_id}
    for outcome in outcomes:
        row.update(outcome.files)
        for name in COVARIATES:
            value = getattr(outcome, name)
            if not math.isnan(value):
                row.setdefault(name, value)
    return row | _joined([outcome.values for outcome in outcomes])


def _joined(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Join phenotypes and diseases: of two answers about a disease, `present` stands."""
    joined: dict[str, float] = {}
    for name in dict.fromkeys(name for known in values for name in known):
        stated = [known[name] for known in values if name in known]
        # phenotypes: those of the CMR, which is the last of a pair, before those of a table
        joined[name] = max(stated) if name in DISEASES else stated[-1]
    return joined


def write_manifest(
    out: Path,
    studies: Sequence[Study],
    outcomes_of: Callable[[tuple[str, ...]], Sequence[Outcome]],
    *,
    known: frozenset[str],
) -> bool:
    """Write both files; return whether either changed.

    Args:
        out: the prepared folder.
        studies: the rows, in their order.
        outcomes_of: gives the outcomes of a study's items.
        known: phenotypes and diseases that any outcome knows; the others get no column.
    """
    always = (*_TEXT, *COVARIATES)
    columns = [name for name in COLUMNS if name in always or name in known]
    new = {name: out / f".{name}.new" for name in (PARQUET, CSV)}
    try:
        rows = (row_of(study, outcomes_of(study.items)) for study in studies)
        _write(new[PARQUET], new[CSV], columns, rows)
        return any([_put_in_place(path, out / name) for name, path in new.items()])
    finally:
        for path in new.values():
            path.unlink(missing_ok=True)


def _write(table: Path, view: Path, columns: Sequence[str], rows: Iterator[Row]) -> None:
    import pyarrow as arrow
    from pyarrow import parquet

    schema = arrow.schema([(c, arrow.string() if c in _TEXT else arrow.float64()) for c in columns])
    with (
        parquet.ParquetWriter(table, schema, compression="zstd") as writer,
        view.open("w", newline="", encoding="utf-8") as file,
    ):
        lines = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        lines.writeheader()
        for block in blocks(rows, _BLOCK):
            lines.writerows({c: _written(v) for c, v in row.items()} for row in block)
            cells = {c: [row.get(c, "" if c in _TEXT else None) for row in block] for c in columns}
            writer.write_table(arrow.table(cells, schema=schema))


def _written(value: str | float) -> Any:
    """Write whole numbers as such: 1 and not 1.0."""
    is_whole = isinstance(value, float) and value.is_integer()
    return int(value) if is_whole else value


def blocks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of `size`."""
    ordered = iter(items)
    while block := list(islice(ordered, size)):
        yield block


def _put_in_place(new: Path, place: Path) -> bool:
    if place.exists() and filecmp.cmp(new, place, shallow=False):
        return False
    os.replace(new, place)
    return True
