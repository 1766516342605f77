"""The manifest before anything is prepared from it: every fault of the table, not only the first.

What the reader itself refuses (data/manifest.py) is said in its own words where nothing here names
it first; a file that is absent is counted, because it costs its own study and no other.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from cardionets_core.data.manifest import COLUMNS, FILE_COLUMNS, read_manifest, row_number
from cardionets_core.data.paths import inside
from cardionets_core.data.refusal import REASONS, RecordRefused
from cardionets_core.errors import DataError, nearest
from client.checks.findings import Finding, error, warning

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cardionets_core.data.manifest import Manifest
    from cardionets_core.site_config import SiteConfig

Row = tuple[int, dict[str, str]]
"""Line of the file (the header is line 1), and the cells by column."""

SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def check_table(config: SiteConfig) -> tuple[Manifest | None, list[Finding]]:
    """Read the manifest.

    Returns:
        The table, None where it cannot be used; and what is wrong with it.
    """
    path, root = Path(config.data.manifest), Path(config.data.root)
    found = _look(path, root) if path.suffix == ".csv" else []
    try:
        manifest = read_manifest(path, root, check_files=False)
    except DataError as cause:
        return None, found or [_refused(str(cause))]
    return manifest, found + _check_files(manifest)


def _refused(text: str) -> Finding:
    return error(
        "data",
        "manifest_refused",
        text,
        cause="A table with a wrong cell is not used at all: nobody could say what it means.",
        next_step="Correct the cells and check again.",
    )


def _look(path: Path, root: Path) -> list[Finding]:
    """Return what is wrong with columns, keys and paths of a CSV manifest."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = next(csv.reader(file), [])
        found = _check_header(header)
        if not {"manifest_separator", "manifest_header"} & {f.code for f in found}:
            found += _check_keys(_rows(path))
            found += _check_paths(_rows(path), root)
    except (UnicodeDecodeError, csv.Error):
        return []  # read_manifest names it
    return found


def _rows(path: Path) -> Iterator[Row]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, restval="")
        for row in reader:
            yield reader.line_num, {str(k): str(v or "").strip() for k, v in row.items()}


def _check_header(header: list[str]) -> list[Finding]:
    for mark, word in SEPARATORS.items():
        if len(header) == 1 and mark in header[0]:
            return [
                error(
                    "data",
                    "manifest_separator",
                    f"The manifest has {word} between its columns.",
                    cause="Spreadsheets write them where the comma is the decimal sign.",
                    next_step="Save it as CSV with commas between columns and points in numbers.",
                )
            ]
    if not set(COLUMNS) & {name.strip() for name in header}:
        # Not quoted: without a header this is the first patient.
        return [
            error(
                "data",
                "manifest_header",
                "The first row of the manifest holds no name of a column.",
                cause="The header row is missing, or the names are those of another system.",
                next_step=f"Begin with a row of names: {', '.join(COLUMNS[:3])}, ...",
            )
        ]
    return [
        error(
            "data",
            "manifest_column",
            f"The manifest has an unknown column {name!r}{nearest(name, COLUMNS)}.",
            cause="A column that nothing reads would be a label that silently is not there.",
            next_step="Rename it, or remove it if the platform has no such phenotype or disease.",
        )
        for name in (n.strip() for n in header)
        if name and name not in COLUMNS
    ]


def _check_keys(rows: Iterable[Row]) -> list[Finding]:
    seen: set[tuple[str, str]] = set()
    double: list[int] = []
    has_study = False
    for line, row in rows:
        has_study = "study_id" in row
        key = (row.get("patient_id", ""), row.get("study_id", ""))
        if key[0] and key in seen:
            double.append(line)
        seen.add(key)
    if not double:
        return []
    step = "Remove one of each." if has_study else "Remove one of each, or add a study_id column."
    return [
        error(
            "data",
            "manifest_duplicate",
            f"The manifest holds {len(double)} studies twice ({name_lines(double)}).",
            cause="The same patient_id and study_id would count, and train, twice.",
            next_step=step,
        )
    ]


def _check_paths(rows: Iterable[Row], root: Path) -> list[Finding]:
    outside = [
        line
        for line, row in rows
        for column in FILE_COLUMNS
        if row.get(column) and _leads_out(root, row[column])
    ]
    if not outside:
        return []
    cause, step = REASONS["path_escape"]
    return [
        error(
            "data",
            "path_escape",
            f"{len(outside)} paths of the manifest lead out of the data folder "
            f"({name_lines(outside)}).",
            cause=f"There {cause}; nothing outside of it is ever opened.",
            next_step=f"{step[0].upper()}{step[1:]}.",
        )
    ]


def _leads_out(root: Path, cell: str) -> bool:
    try:
        inside(root, cell)
    except RecordRefused:
        return True
    return False


def _check_files(manifest: Manifest) -> list[Finding]:
    absent: list[int] = []
    named = 0
    for column in FILE_COLUMNS:
        for index, cell in enumerate(manifest.table[column]):
            if cell:
                named += 1
                if not inside(manifest.root, cell).is_file():
                    absent.append(row_number(index))
    if not absent:
        return []
    make = error if len(absent) == named else warning
    return [
        make(
            "data",
            "files_missing",
            f"{len(absent)} of {named} files that the manifest names are absent "
            f"({name_lines(sorted(absent))}).",
            cause=f"They do not lie below {manifest.root}, or were moved or renamed since.",
            next_step="Copy them there, correct the paths (relative to data.root), or empty the "
            "cells; without that these studies are left out.",
        )
    ]


def name_lines(lines: list[int]) -> str:
    """Name up to three lines of the manifest; the header is row 1."""
    more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
    return f"row{'s' if len(lines) > 1 else ''} {', '.join(map(str, lines[:3]))}{more}"
