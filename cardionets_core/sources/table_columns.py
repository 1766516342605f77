"""Which columns of a file are read, and reading them into memory piece by piece."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cardionets_core.errors import DataError
from cardionets_core.sources.table_cells import Parsed
from cardionets_core.sources.table_facts import Table, TableNotes
from cardionets_core.sources.table_rows import Chunk, CsvTable, chunks, open_csv
from cardionets_core.vocabulary import VIEWS

Parse = Callable[[Sequence[str]], Parsed]
_MOST_NAMED = 100
_OURS = tuple(f"cine_{view}" for view in VIEWS)
"""Columns of the table that `cardionets cohort` writes and that name files."""
_FIRST_LINES = 3


@dataclass(frozen=True)
class Column:
    """One column to read.

    Attributes:
        place: its place in the file, from 0.
        target: its name in a `Table`.
        parse: reads its cells.
    """

    place: int
    target: str
    parse: Parse


Choose = Callable[[CsvTable], Sequence[Column]]


class ColumnsRead:
    """The chosen columns of a file, and what was wrong with them."""

    def __init__(self, table: CsvTable, columns: Sequence[Column], known: Sequence[str]) -> None:
        self.sha256 = table.sha256
        self._columns = columns
        self._header = table.header
        self._known = known
        self._lines: list[np.ndarray[Any, Any]] = []
        self._pieces: dict[str, list[pd.Series[Any]]] = {c.target: [] for c in columns}
        self._filled: Counter[int] = Counter()
        self.problems: Counter[tuple[str, str]] = Counter()
        self.problem_lines: dict[tuple[str, str], tuple[int, ...]] = {}

    def add(self, chunk: Chunk) -> None:
        """Take in some rows."""
        lines = np.asarray(chunk.lines, np.int64)
        self._count("row", "more cells than the header", np.asarray(chunk.too_long, np.int64))
        used = {column.place for column in self._columns}
        for place in range(len(self._header)):
            if place not in used:
                self._filled[place] += sum(1 for row in chunk.rows if row[place])
        read: dict[str, pd.Series[Any]] = {}
        for column in self._columns:
            values, wrong = column.parse([row[column.place] for row in chunk.rows])
            for reason, mask in wrong.items():
                self._count(_shown(column.target), reason, lines[mask])
            new = _series(values)
            before = read.get(column.target)
            read[column.target] = new if before is None else before.where(before.notna(), new)
        for target, values in read.items():
            self._pieces[target].append(values)
        self._lines.append(lines)

    def columns(self) -> dict[str, pd.Series[Any]]:
        """Return target -> all its values."""
        return {t: pd.concat(pieces, ignore_index=True) for t, pieces in self._pieces.items()}

    def lines(self) -> np.ndarray[Any, Any]:
        """Return int64: the line of the file that each row stands in."""
        return np.concatenate(self._lines)

    def dropped(self) -> dict[str, int]:
        """Return place of each column that is not used -> how many of its cells are filled.

        Neither its name nor a cell is shown: a table on its side has patients for names.
        A name that resembles one that is read brings that one as a hint. Of very many columns, as
        UK Biobank exports them, those after the first hundred are counted together.
        """
        places = sorted(self._filled.items())
        found = {
            f"column {place + 1}{_hint(self._header[place], self._known)}": count
            for place, count in places[:_MOST_NAMED]
        }
        if rest := places[_MOST_NAMED:]:
            found[f"{len(rest)} more columns"] = sum(count for _, count in rest)
        return found

    def _count(self, column: str, reason: str, lines: np.ndarray[Any, Any]) -> None:
        if len(lines):
            key = (column, reason)
            self.problems[key] += len(lines)
            before = self.problem_lines.get(key, ())
            first = tuple(int(line) for line in lines[:_FIRST_LINES])
            self.problem_lines[key] = (before + first)[:_FIRST_LINES]


def read_columns(path: Path, choose: Choose, known: Sequence[str] = ()) -> ColumnsRead:
    """Read the columns of a CSV file that `choose` picks from its header.

    Args:
        path: the file.
        choose: header and separator -> columns.
        known: names that a hint may hold for a column that is not used.

    Raises:
        DataError: the file is not a table, or `choose` says so.
    """
    table = open_csv(path)
    read = ColumnsRead(table, choose(table), known)
    for chunk in chunks(table):
        read.add(chunk)
    return read


def table_of(parts: Sequence[ColumnsRead]) -> Table:
    """Return the rows of one or more files as one table."""
    frames = [part.columns() for part in parts]
    heights = [len(part.lines()) for part in parts]
    targets = dict.fromkeys(target for frame in frames for target in frame)
    columns = {
        target: pd.concat(
            [
                frame[target] if target in frame else _nothing(target, height)
                for frame, height in zip(frames, heights, strict=True)
            ],
            ignore_index=True,
        )
        for target in targets
    }
    lines = np.concatenate([part.lines() for part in parts])
    return Table(columns, lines, _notes(parts))


def _notes(parts: Sequence[ColumnsRead]) -> TableNotes:
    if len(parts) == 1:
        part = parts[0]
        return TableNotes(part.dropped(), part.problems, part.problem_lines, part.sha256)
    problems: Counter[tuple[str, str]] = Counter()
    lines: dict[tuple[str, str], tuple[int, ...]] = {}
    for part in parts:
        problems += part.problems
        lines.update({key: at for key, at in part.problem_lines.items() if key not in lines})
    dropped = {
        f"file {k}, {place}": count
        for k, part in enumerate(parts, 1)
        for place, count in part.dropped().items()
    }
    together = hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest()
    return TableNotes(dropped, problems, lines, together)


def _series(values: Any) -> pd.Series[Any]:
    """Texts go into Arrow's memory, numbers and dates into numpy's."""
    return pd.Series(values, dtype="string[pyarrow]" if isinstance(values, list) else None)


def _nothing(target: str, height: int) -> pd.Series[Any]:
    if target in ("birth_date", "recorded"):
        return pd.Series(np.full(height, np.datetime64("NaT"), "datetime64[s]"))
    if target == "patient_id" or target.startswith(("codes:", "path:")):
        return _series([""] * height)
    return pd.Series(np.full(height, np.nan))


def _hint(name: str, known: Sequence[str]) -> str:
    """Return the known name that is nearly this one; much stricter than for a person's typing."""
    if name in _OURS:  # our own word, so it names nobody
        return f" ({name}: the cines are looked for below --cmr instead)"
    close = get_close_matches(name.lower(), known, n=1, cutoff=0.75)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _shown(target: str) -> str:
    """Return a target as people know it: `lv_edv`, `icd10`, `ecg`."""
    return target.split(":")[-1]


def columns_of(
    table: CsvTable, wanted: Mapping[str, tuple[str, Parse]], *, whose: str, source: str
) -> list[Column]:
    """Return the columns of a public data set's table, all of which must be there.

    Args:
        table: the file.
        wanted: heading -> target and how its cells are read.
        whose: the data set that the table should be of.
        source: where it is published.

    Raises:
        DataError: a column is missing.
    """
    missing = [name for name in wanted if name not in table.header]
    if missing:
        raise DataError(
            f"{table.path} has no column {missing[0]!r}, so it is not {whose}'s; take the file "
            f"from {source}, or rename this one."
        )
    return [
        Column(table.header.index(name), target, parse) for name, (target, parse) in wanted.items()
    ]
