"""The table of a site's studies: read, checked, split by patient.

Row numbers in messages are line numbers of the file: the header is row 1. They never hold an id.
"""

from __future__ import annotations

import hashlib
import hmac
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from cardionets_core.data.paths import inside
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.errors import DataError, nearest
from cardionets_core.vocabulary import COVARIATES, DISEASES, PHENOTYPE_NAMES, VIEWS

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

CINE_COLUMNS = tuple(f"cine_{view}" for view in VIEWS)
FILE_COLUMNS = ("ecg", *CINE_COLUMNS)
COLUMNS = ("patient_id", "study_id", *FILE_COLUMNS, *COVARIATES, *PHENOTYPE_NAMES, *DISEASES)

_MISSING = ("", "NA", "NaN", "nan", "null")
RANGES = {
    "age": (0.0, 120.0), "sex": (0.0, 1.0), "height_cm": (30.0, 250.0), "weight_kg": (1.0, 400.0),
}  # fmt: skip
"""What a covariate can be."""


@dataclass(frozen=True, eq=False)
class Manifest:
    """One row per study.

    Attributes:
        table: patient_id, study_id, ecg, cine_4ch, cine_sax as text ("" where missing), covariates
            and the phenotypes and diseases that the file has as float64 (NaN where missing).
        root: the folder that file columns are relative to.
        phenotypes: phenotype columns of the file, in the order of the vocabulary.
        diseases: disease columns of the file, likewise.
        sha256: digest of the file.
    """

    table: pd.DataFrame
    root: Path
    phenotypes: tuple[str, ...]
    diseases: tuple[str, ...]
    sha256: str

    def __len__(self) -> int:
        return len(self.table)


def row_number(index: int) -> int:
    """Return the line of the manifest file that holds row `index` of the table."""
    return index + 2


def read_manifest(path: Path, root: Path, *, check_files: bool = True) -> Manifest:
    """Read a manifest and check every cell.

    Args:
        path: a CSV or Parquet file with the columns of `COLUMNS`, in any order. Row numbers of
            messages count from 2 in both, as if a Parquet table had its header in row 1.
        root: the data folder; no file column may lead out of it.
        check_files: whether a file that is not there is an error. With False it is quarantined when
            the cache is built, and the other studies go on.

    Raises:
        DataError: naming the row and column, the cause and the next step.
    """
    if not root.is_dir():
        raise DataError(f"The data folder {root} does not exist; correct the path or mount it.")
    raw, digest = _read_table(path)
    _check_columns(raw)
    table = pd.DataFrame(index=raw.index)
    for column in ("patient_id", "study_id", *FILE_COLUMNS):
        table[column] = _text(raw, column)
    _check_identity(table, has_study="study_id" in raw.columns)
    phenotypes = tuple(name for name in PHENOTYPE_NAMES if name in raw.columns)
    diseases = tuple(name for name in DISEASES if name in raw.columns)
    numbers = {name: _numbers(raw, name) for name in (*COVARIATES, *phenotypes, *diseases)}
    _check_values(numbers, diseases)
    _check_paths(table, root, check_files=check_files)
    table = pd.concat([table, pd.DataFrame(numbers, index=raw.index)], axis=1)
    return Manifest(table, root, phenotypes, diseases, digest)


def split_of(
    patient_id: str, *, salt: str, fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
) -> Split:
    """Return the split of a patient: a keyed hash, so it stays when others join or leave.

    Args:
        patient_id: as in the manifest.
        salt: the site's secret; other salts give other splits.
        fractions: expected shares of train, validation and test.

    Raises:
        ValueError: the fractions are not shares that sum to one.
    """
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(f"fractions must be non-negative and sum to 1, got {fractions}")
    digest = hmac.new(salt.encode(), patient_id.encode(), hashlib.sha256).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < fractions[0]:
        return "train"
    return "validation" if place < fractions[0] + fractions[1] else "test"


def _read_table(path: Path) -> tuple[pd.DataFrame, str]:
    """Return every cell, text stripped, and the digest of the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"The manifest {path} cannot be read ({error.strerror}).") from None
    raw = _from_parquet(data) if path.suffix.lower() == ".parquet" else _from_csv(data)
    return raw, hashlib.sha256(data).hexdigest()


def _from_csv(data: bytes) -> pd.DataFrame:
    try:
        text = data.decode("utf-8-sig")
        # Lines stay lines (skip_blank_lines off): row numbers must be those of the file.
        raw = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, index_col=False)
    except UnicodeDecodeError:
        raise DataError("The manifest is not UTF-8 text; save it as CSV UTF-8.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"The manifest is not a CSV table ({error}); save it again.") from None
    cells: pd.DataFrame = raw.fillna("").apply(lambda column: column.str.strip())
    return cells


def _from_parquet(data: bytes) -> pd.DataFrame:
    """Return text columns as text and the covariates, phenotypes and diseases as float64."""
    import pyarrow as arrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(arrow.BufferReader(data))
        table, columns = file.read(), {}
        for name, cells in zip(table.column_names, table.columns, strict=True):
            is_text = name in ("patient_id", "study_id", *FILE_COLUMNS)
            is_number = arrow.types.is_floating(cells.type) or arrow.types.is_integer(cells.type)
            if is_text or not is_number:
                text = cells.cast(arrow.string()).to_pylist()
                columns[name] = pd.Series([(cell or "").strip() for cell in text], dtype=str)
            else:
                columns[name] = pd.Series(cells.cast(arrow.float64()).to_numpy())
    except (arrow.ArrowException, ValueError, OSError):
        raise DataError(
            "The manifest is not a Parquet table of text and numbers; write it again, or use CSV."
        ) from None
    if len(columns) < table.num_columns:
        raise DataError("Two columns of the manifest have the same name; drop one.")
    return pd.DataFrame(columns)


def _check_columns(raw: pd.DataFrame) -> None:
    if len(raw.columns) == 1 and any(mark in raw.columns[0] for mark in ";\t"):
        raise DataError("The manifest does not use commas between columns; save it with commas.")
    for column in raw.columns:
        if column not in COLUMNS:
            raise DataError(
                f"Unknown manifest column {column!r}{nearest(column, COLUMNS)}; rename or drop it."
            )
    if "patient_id" not in raw.columns:
        raise DataError("The manifest has no column 'patient_id'; add it.")
    if not any(column in raw.columns for column in FILE_COLUMNS):
        raise DataError(f"The manifest has none of {', '.join(FILE_COLUMNS)}; add one.")
    if raw.empty:
        raise DataError("The manifest has no rows; add at least one study.")


def _text(raw: pd.DataFrame, column: str) -> pd.Series[str]:
    if column not in raw.columns:
        return pd.Series([""] * len(raw), index=raw.index, dtype=str)
    return raw[column]


def _rows(where: Iterable[bool]) -> str:
    """Name up to three rows by number."""
    found = [row_number(k) for k, is_wrong in enumerate(where) if is_wrong]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return f"row{'s' if len(found) > 1 else ''} {', '.join(map(str, found[:3]))}{more}"


def _check_identity(table: pd.DataFrame, *, has_study: bool) -> None:
    empty = table["patient_id"] == ""
    if empty.any():
        raise DataError(f"Manifest {_rows(empty)}: patient_id is empty; fill it in.")
    keys = ["patient_id", "study_id"] if has_study else ["patient_id"]
    double = table.duplicated(subset=keys, keep=False)
    if double.any():
        step = "remove one" if has_study else "remove one, or add a study_id column"
        raise DataError(f"Manifest {_rows(double)}: the same {' and '.join(keys)}; {step}.")


def _numbers(raw: pd.DataFrame, column: str) -> pd.Series[float]:
    text = _text(raw, column)
    if text.dtype == np.float64:  # a number already, in Parquet
        known = text.notna()
        values = text.astype(np.float64)
    else:
        known = ~text.isin(_MISSING)
        values = pd.to_numeric(text.where(known), errors="coerce").astype(np.float64)
    wrong = known & ~np.isfinite(values)
    if wrong.any():
        raise DataError(f"Manifest {_rows(wrong)}, column {column!r}: not a number; correct it.")
    return values


def _check_values(numbers: dict[str, pd.Series[float]], diseases: tuple[str, ...]) -> None:
    for column, (low, high) in RANGES.items():
        values = numbers[column]
        wrong = values.notna() & ~values.between(low, high)
        if wrong.any():
            raise DataError(
                f"Manifest {_rows(wrong)}, column {column!r}: outside {low:g} to {high:g}; "
                "correct the value or its unit, or empty the cell."
            )
    for column in ("sex", *diseases):
        values = numbers[column]
        wrong = values.notna() & ~values.isin((0.0, 1.0))
        if wrong.any():
            raise DataError(
                f"Manifest {_rows(wrong)}, column {column!r}: must be 1, 0 or empty; correct it."
            )


def _check_paths(table: pd.DataFrame, root: Path, *, check_files: bool) -> None:
    for column in FILE_COLUMNS:
        for index, cell in enumerate(table[column]):
            if not cell:
                continue
            place = f"Manifest row {row_number(index)}, column {column!r}"
            try:
                path = inside(root, cell)
            except RecordRefused as error:
                raise DataError(f"{place}: {error}") from None
            if check_files and not path.is_file():
                raise DataError(
                    f"{place}: the file is not in the data folder; copy it there, correct the "
                    "path (relative to the data folder), or empty the cell."
                )
