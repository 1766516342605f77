"""A table of a hospital or a public data set in memory, and what it says about a recording.

Which row speaks for a recording:

- A row that names a recording (by its path) speaks for that one alone. A row that names none speaks
  for everything of its patient; the recording's own row goes before it, value by value, and code
  system by code system.
- Several rows of one recording (or several of one patient without a recording) are taken together:
  their codes add up, as in an export with one row per diagnosis, and a value in which they differ
  is unknown and counted. One recording under two patients is an error: nobody can tell whose it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import isnan, nan
from typing import Any

import numpy as np
import pandas as pd

from cardionets_core.errors import DataError
from cardionets_core.labels.code import Code, System
from cardionets_core.sources.recording import Facts, Person
from cardionets_core.sources.table_keys import MOST_ROWS, KeyIndex, path_key

NUMBERS = ("age", "sex", "height_cm", "weight_kg")
DATES = ("birth_date", "recorded")
SYSTEMS: tuple[System, ...] = ("snomed", "scp", "icd10", "icd9")
_CODES, _VALUE, _PATH = "codes:", "value:", "path:"


@dataclass(frozen=True)
class TableNotes:
    """What was not taken from a table. Holds no cell and no name of a column of the file.

    Attributes:
        dropped: place of a column that is not used -> how many of its cells are filled.
        problems: (column as named here, reason) -> how many cells or rows.
        problem_lines: likewise -> the first lines of the file.
        sha256: of the files that were read.
    """

    dropped: Mapping[str, int] = field(default_factory=dict)
    problems: Mapping[tuple[str, str], int] = field(default_factory=dict)
    problem_lines: Mapping[tuple[str, str], tuple[int, ...]] = field(default_factory=dict)
    sha256: str = ""


class Table:
    """What a table says of recordings and patients; the facts of one are built when asked for.

    Args:
        columns: one row per row of the file: `patient_id` and `path:...` (keys of recordings) as
            texts; `age`, `sex`, `height_cm`, `weight_kg`, `value:...` as float64; `birth_date`,
            `recorded` as datetime64[s]; `codes:...` as texts, codes with blanks between and a `-`
            before those that are excluded.
        lines: line of the file that each row stands in.
        notes: what was not taken.

    Raises:
        DataError: one recording stands under two patients.
    """

    def __init__(
        self,
        columns: Mapping[str, pd.Series[Any]],
        lines: np.ndarray[Any, Any],
        notes: TableNotes,
    ) -> None:
        self._columns = dict(columns)
        paths = [column for name, column in columns.items() if name.startswith(_PATH)]
        self._by_path = KeyIndex(paths)
        patients = columns["patient_id"]
        names_none = np.ones(len(lines), bool)
        for column in paths:
            names_none &= (column == "").to_numpy(bool)
        self._by_patient = KeyIndex([patients.where(names_none, "")])
        self._refuse_two_patients(patients, lines)
        found = self._disagreements(lines)
        self._height = len(lines)
        self.dropped: Mapping[str, int] = notes.dropped
        self.problems = {**notes.problems, **{key: len(at) for key, at in found.items()}}
        self.problem_lines = {**notes.problem_lines, **{k: at[:3] for k, at in found.items()}}
        self.sha256 = notes.sha256

    def __len__(self) -> int:
        return self._height

    def __repr__(self) -> str:
        return f"Table({self._height} rows, {len(self._columns)} columns)"

    def patient_ids(self) -> Iterator[str]:
        """Yield every patient id once."""
        yield from (str(name) for name in self._columns["patient_id"].unique())

    def holds(self, path: str) -> bool:
        """Whether a row names this recording."""
        return len(self._by_path.rows(path_key(path))) > 0

    def facts(self, path: str, patient_id: str) -> Facts:
        """Return what the table says of a recording; empty facts where it says nothing.

        Args:
            path: of the recording, relative to the folder of all; with or without its extension.
                "" where only the patient is known.
            patient_id: as the recording's own header has it; "" where it has none. Where the row of
                the recording names a patient, that one counts.
        """
        own = self._merged(self._by_path.rows(path_key(path)))
        patient = own.person.patient_id or patient_id
        general = self._merged(self._by_patient.rows(patient))
        coded = {code.system for code in own.codes}
        others = tuple(code for code in general.codes if code.system not in coded)
        return own.or_else(Facts(general.person, general.recorded, others, general.values))

    def _merged(self, rows: Sequence[int]) -> Facts:
        if not rows:
            return Facts()
        birth = self._date("birth_date", rows)
        person = Person(
            patient_id=str(self._columns["patient_id"].array[rows[0]]),
            birth_date=birth.date() if birth else None,
            **{name: self._number(name, rows) for name in NUMBERS},
        )
        values = {
            name.removeprefix(_VALUE): value
            for name in self._columns
            if name.startswith(_VALUE) and not isnan(value := self._number(name, rows))
        }
        return Facts(person, self._date("recorded", rows), self._codes(rows), values)

    def _number(self, name: str, rows: Sequence[int]) -> float:
        if name not in self._columns:
            return nan
        found = {float(self._columns[name].array[row]) for row in rows}
        known = {value for value in found if not isnan(value)}
        return known.pop() if len(known) == 1 else nan

    def _date(self, name: str, rows: Sequence[int]) -> datetime | None:
        if name not in self._columns:
            return None
        known = {stamp for row in rows if not pd.isna(stamp := self._columns[name].array[row])}
        return known.pop().to_pydatetime() if len(known) == 1 else None

    def _codes(self, rows: Sequence[int]) -> tuple[Code, ...]:
        codes: dict[Code, None] = {}
        for system in SYSTEMS:
            if (column := self._columns.get(f"{_CODES}{system}")) is None:
                continue
            for word in (word for row in rows for word in column.array[row].split()):
                codes[Code(system, word.removeprefix("-"), not word.startswith("-"))] = None
        return tuple(codes)

    def _refuse_two_patients(self, patients: pd.Series[str], lines: np.ndarray[Any, Any]) -> None:
        number = pd.factorize(patients)[0].astype(np.float64)
        number[(patients == "").to_numpy(bool)] = np.nan
        if len(rows := self._by_path.disagreeing(number)):
            raise DataError(
                f"The table names one recording for two patients, {len(rows)} times (first in line "
                f"{lines[rows[0]]}); correct the patient or the path."
            )

    def _disagreements(self, lines: np.ndarray[Any, Any]) -> dict[tuple[str, str], tuple[int, ...]]:
        """Return (column, reason) -> lines of the rows of one key that differ, or are too many."""
        found: dict[tuple[str, str], tuple[int, ...]] = {}
        for index, what in ((self._by_path, "recording"), (self._by_patient, "patient")):
            if len(rows := index.crowded()):
                reason = f"more than {MOST_ROWS} rows of one {what}; none is used"
                found[("row", reason)] = tuple(int(line) for line in lines[rows])
        for name, column in self._columns.items():
            if name.startswith((_CODES, _PATH)) or name == "patient_id":
                continue
            numbers = _as_numbers(column)
            for index, what in ((self._by_path, "recording"), (self._by_patient, "patient")):
                if len(rows := index.disagreeing(numbers)):
                    key = (name.removeprefix(_VALUE), f"rows of one {what} differ")
                    found[key] = tuple(int(line) for line in lines[rows])
        return found


def _as_numbers(column: pd.Series[Any]) -> np.ndarray[Any, Any]:
    if column.dtype.kind != "M":
        return column.to_numpy(np.float64)
    seconds = column.astype("int64").to_numpy(np.float64)
    return np.where(column.isna().to_numpy(bool), np.nan, seconds)
