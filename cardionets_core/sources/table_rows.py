"""A CSV file, row by row: its separator, its encoding, its limits.

Nothing of a row stands in a message: only the file's name, line numbers and counts.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cardionets_core.errors import DataError

MAX_BYTES = 4 * 2**30
_CELLS_AT_ONCE = 250_000
_LONGEST_LINE = 8 * 2**20
_SEPARATORS = (",", ";", "\t")


class Chunk(NamedTuple):
    """Some rows of a table, their line numbers, and the lines of those that were too long."""

    lines: list[int]
    rows: list[list[str]]
    too_long: list[int]


class CsvTable(NamedTuple):
    """A CSV file whose header was read."""

    path: Path
    header: tuple[str, ...]
    separator: str
    sha256: str


def open_csv(path: Path) -> CsvTable:
    """Read the header and digest of a CSV file with commas, semicolons or tabs, in UTF-8.

    Raises:
        DataError: no such file, too large, without a header, or not UTF-8: Latin-1 and UTF-16 are
            refused, because umlauts in identifiers would silently differ.
    """
    if not path.is_file():
        raise DataError(f"The table {path} is not there; correct the path.")
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"The table {path} is larger than 4 GiB; keep only the columns it needs.")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    first = next(_lines(path), "")
    separator = max(_SEPARATORS, key=first.count)
    header = next(_Reader(path, separator), [])
    if not any(cell.strip() for cell in header):
        raise DataError(f"The table {path} has no header; name its columns in the first line.")
    return CsvTable(path, tuple(cell.strip() for cell in header), separator, digest)


def chunks(table: CsvTable) -> Iterator[Chunk]:
    """Yield all rows in pieces that fit into memory, cells stripped, short rows filled up.

    Raises:
        DataError: the text is not UTF-8, or a quotation mark is never closed.
    """
    width = len(table.header)
    at_once = max(64, _CELLS_AT_ONCE // width)
    chunk = Chunk([], [], [])
    reader = _Reader(table.path, table.separator)
    next(reader)
    for row in reader:
        if len(row) > width and any(row[width:]):
            chunk.too_long.append(reader.line_num)
        elif any(row):
            chunk.lines.append(reader.line_num)
            cells = [cell.strip() for cell in row[:width]]
            chunk.rows.append(cells + [""] * (width - len(cells)))
        if len(chunk.rows) + len(chunk.too_long) >= at_once:
            yield chunk
            chunk = Chunk([], [], [])
    yield chunk


class _Reader:
    """A csv.reader that names the file where it fails."""

    def __init__(self, path: Path, separator: str) -> None:
        self._path = path
        self._rows = csv.reader(_lines(path), delimiter=separator, strict=True)

    def __iter__(self) -> Iterator[list[str]]:
        return self

    def __next__(self) -> list[str]:
        try:
            return next(self._rows)
        except csv.Error:
            raise DataError(
                f"The table {self._path}, near line {self.line_num}: a quotation mark is not "
                "closed, or a cell is endless; export the table again."
            ) from None

    @property
    def line_num(self) -> int:
        return self._rows.line_num


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            while line := file.readline(_LONGEST_LINE):
                if len(line) == _LONGEST_LINE and not line.endswith("\n"):
                    raise DataError(f"The table {path} has an endless line; export it again.")
                yield line
        except UnicodeDecodeError:
            raise DataError(
                f"The table {path} is not UTF-8 text (Latin-1, Windows or UTF-16?); in Excel, save "
                "it as 'CSV UTF-8'; elsewhere, convert it with iconv."
            ) from None
