"""PTB-XL's own table (Wagner et al., Sci Data 2020;7:154): `ptbxl_database.csv`.

As that file has it: sex 0 is male and 1 female; age 300 stands for "over 89"; `scp_codes` is a
Python dict of statement -> likelihood in per cent, in which 0 means "unknown" for a diagnostic
statement, and nothing for a form or rhythm statement, which always has 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from cardionets_core.data.paths import file_inside
from cardionets_core.labels.vocabularies import entry_of
from cardionets_core.sources.table_cells import (
    Parsed,
    dates,
    identifiers,
    numbers,
    zeros_and_ones,
)
from cardionets_core.sources.table_columns import Parse, columns_of, read_columns, table_of
from cardionets_core.sources.table_facts import Table
from cardionets_core.sources.table_keys import path_key

DATABASE = "ptbxl_database.csv"
_LONGEST_CELL = 4000
_ITEM = re.compile(r"'([^'\\]{1,8})': ([0-9]{1,3}(?:\.[0-9]{1,3})?)")
_DICT = re.compile(rf"\{{(?:{_ITEM.pattern}(?:, |(?=\}})))*\}}")


def read_ptbxl_table(folder: Path) -> Table:
    """Read the table of a PTB-XL folder; both versions of a record (100, 500 Hz) lead to its row.

    Raises:
        DataError: the table is not PTB-XL's.
    """
    return table_of([read_columns(file_inside(folder, DATABASE), _CHOOSE)])


def _patients(cells: Sequence[str]) -> Parsed:
    """`15709.0` is patient 15709."""
    values, wrong = identifiers(cells)
    return Parsed([value.removesuffix(".0") for value in values], wrong)


def _sexes(cells: Sequence[str]) -> Parsed:
    values, wrong = zeros_and_ones(cells)
    return Parsed(1.0 - values, wrong)


def _keys(cells: Sequence[str]) -> Parsed:
    return Parsed([path_key(cell) for cell in cells], {})


def _statements(cells: Sequence[str]) -> Parsed:
    """Return the statements of each cell, blanks between, `-` before those without likelihood."""
    lists = [_statements_of(cell) for cell in cells]
    strange = np.array([found is None for found in lists], bool)
    return Parsed([" ".join(found or ()) for found in lists], {"not a dict of statements": strange})


def _statements_of(cell: str) -> list[str] | None:
    """Return the statements of a dict as Python prints it; None where it is none."""
    if len(cell) > _LONGEST_CELL or not _DICT.fullmatch(cell):
        return None
    words: list[str] = []
    for code, likelihood in _ITEM.findall(cell):
        if (entry := entry_of("scp", code)) is None:
            return None
        is_likely = float(likelihood) > 0 or entry.kind != "diagnosis"
        words.append(entry.code if is_likely else f"-{entry.code}")
    return words


_PARSE: dict[str, tuple[str, Parse]] = {
    "patient_id": ("patient_id", _patients),
    "filename_lr": ("path:100 Hz", _keys),
    "filename_hr": ("path:500 Hz", _keys),
    "age": ("age", partial(numbers, low=0.0, high=120.0)),
    "sex": ("sex", _sexes),
    "height": ("height_cm", partial(numbers, low=100.0, high=230.0)),
    "weight": ("weight_kg", partial(numbers, low=25.0, high=250.0)),
    "recording_date": ("recorded", dates),
    "scp_codes": ("codes:scp", _statements),
}
"""Column of PTB-XL -> what it holds. Heights outside 100 to 230 cm are slips of its table."""
_CHOOSE = partial(columns_of, wanted=_PARSE, whose="PTB-XL", source="physionet.org/content/ptb-xl")
