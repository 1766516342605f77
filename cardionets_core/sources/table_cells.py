"""Cells of a table -> values. A cell that cannot be read is unknown, and its reason is counted.

Each parser takes the stripped cells of one column and returns one value per cell and, for each
reason, which cells it concerns. No cell stands in a reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cardionets_core.labels.code import System
from cardionets_core.labels.code_syntax import normal_form
from cardionets_core.labels.vocabularies import entry_of
from cardionets_core.sources.plausible import patient_of

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "missing", "unknown", "-", "."})
"""What people write, in lower case, where nothing is known."""

FRACTION = "a fraction, and percent is meant"
"""Reason for a value of 0 to 1 in a column of percentages."""

_SEX = {
    **dict.fromkeys(("m", "male", "man", "mann", "männlich", "maennlich", "1", "1.0"), 1.0),
    **dict.fromkeys(("f", "w", "female", "woman", "frau", "weiblich", "0", "0.0"), 0.0),
}
_DATE_FORMATS = (
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M",
    "%Y%m%d%H%M%S",
    "%Y%m%d",
    "%d.%m.%Y",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
)
_CLOCK_TAIL = re.compile(r"(:\d{2}:\d{2})(\.\d+)?(Z|[+-]\d{2}:?\d{2})?$")
_YEARS = (1880, 2262)
"""From the oldest patient's birth to the end of calendars shifted into the future (MIMIC)."""
_BETWEEN_CODES = str.maketrans({mark: " " for mark in "[](){}'\",;|"})
_BETWEEN_STATEMENTS = str.maketrans({mark: " " for mark in "[]{}'\",;|"})
"""SCP statements may hold brackets: PRC(S)."""
_MOST_CODES = 400
_SUSPECTED, _EXCLUDED, _CERTAIN = "V", "A", ("G", "Z")
"""Certainty of a German outpatient diagnosis: suspected, excluded, certain, state after it."""

TWO = "2, which is no sex here"
"""Reason of cells that code the sex with 1 and 2."""

_GLUED = re.compile(r"([A-LNP-RZ][0-9][0-9A-Z](?:\.?[0-9]{1,3})?)([GZAV])")
"""A German code with its certainty letter behind it (I42.0A). Not in chapters where the American
edition ends its codes with A for an initial encounter (M, O, S to Y)."""

Mask = np.ndarray[Any, np.dtype[np.bool_]]


class Parsed(NamedTuple):
    """Values of a column (float64, datetime64[s] or texts) and reason -> which cells are wrong."""

    values: Any
    wrong: dict[str, Mask]


def numbers(
    cells: Sequence[str], low: float, high: float, *, decimal_comma: bool = False
) -> Parsed:
    """Return float64 values; NaN outside `low` to `high`."""
    texts = [c.replace(",", ".") for c in cells] if decimal_comma else list(cells)
    known = _known(cells)
    values = pd.to_numeric(pd.Series(texts, dtype=object), errors="coerce").to_numpy(np.float64)
    strange = known & ~np.isfinite(values)
    outside = known & np.isfinite(values) & ~((values >= low) & (values <= high))
    kept = np.where(known & ~strange & ~outside, values, np.nan)
    return Parsed(kept, {"not a number": strange, f"outside {low:g} to {high:g}": outside})


def percents(
    cells: Sequence[str], low: float, high: float, *, decimal_comma: bool = False
) -> Parsed:
    """Return float64 percentages; NaN outside `low` to `high`, where 0 to 1 is counted apart."""
    values, wrong = numbers(cells, min(low, 0.0), high, decimal_comma=decimal_comma)
    below = values < low
    fraction = below & (values > 0) & (values <= 1)
    outside = wrong.pop(f"outside {min(low, 0.0):g} to {high:g}") | (below & ~fraction)
    wrong |= {f"outside {low:g} to {high:g}": outside, FRACTION: fraction}
    return Parsed(np.where(below, np.nan, values), wrong)


def zeros_and_ones(cells: Sequence[str]) -> Parsed:
    """Return 1.0, 0.0 or NaN."""
    values, wrong = numbers(cells, 0.0, 1.0)
    between = np.isfinite(values) & (values != 0) & (values != 1)
    strange = np.logical_or.reduce([between, *wrong.values()])
    return Parsed(np.where(strange, np.nan, values), {"not 1, 0 or empty": strange})


def sexes(cells: Sequence[str]) -> Parsed:
    """Return 1.0 for male, 0.0 for female.

    2 is refused: where it stands for female, 0 stands for unknown, and both cannot be told apart.
    """
    values = np.array([_SEX.get(c.lower(), np.nan) for c in cells], np.float64)
    twos = np.array([c == "2" for c in cells], bool)
    strange = _known(cells) & np.isnan(values) & ~twos
    return Parsed(values, {"not M, F, 1 or 0": strange, TWO: twos})


def dates(cells: Sequence[str]) -> Parsed:
    """Return datetime64[s]: ISO dates, 20240131, or 31.01.2024; a clock time may follow.

    With slashes, day and month cannot be told apart (01/02/2024), so those are refused.
    """
    known = _known(cells)
    slashes = np.array(["/" in c for c in cells], bool) & known
    texts = pd.Series([_CLOCK_TAIL.sub(r"\1", c.replace("T", " ")) for c in cells], dtype=object)
    found = pd.Series(pd.NaT, index=texts.index, dtype="datetime64[s]")
    for form in _DATE_FORMATS:
        rest = found.isna() & known & ~slashes
        if rest.any():
            read = pd.to_datetime(texts[rest], format=form, errors="coerce")
            found[rest] = read.astype("datetime64[s]")
    years = found.dt.year.between(*_YEARS)
    values = found.where(years).to_numpy("datetime64[s]")
    strange = known & np.isnat(values) & ~slashes
    return Parsed(
        values,
        {"not a date like 2024-01-31": strange, "day and month cannot be told apart": slashes},
    )


def identifiers(cells: Sequence[str]) -> Parsed:
    """Return ids as they are, "" where missing or one word for everybody (`patient_of`)."""
    known = _known(cells)
    ids = [patient_of(c) if k else "" for c, k in zip(cells, known, strict=True)]
    nobody = known & np.array([not found for found in ids], bool)
    return Parsed(ids, {"empty": ~known, "a placeholder, no patient": nobody})


def code_lists(cells: Sequence[str], system: System) -> Parsed:
    """Return the codes of each cell in their normal form, blanks between; `-` before excluded ones.

    A cell with anything else in it is unknown as a whole: "no I21" would otherwise turn into the
    diagnosis. German certainty letters after an ICD-10 code are understood.
    """
    lists = [_codes_of_cell(cell, system) for cell in cells]
    strange = np.array([found is None for found in lists], bool)
    return Parsed([" ".join(found or ()) for found in lists], {"not a list of codes": strange})


def _codes_of_cell(cell: str, system: System) -> tuple[str, ...] | None:
    """Return the codes of one cell; None where it is not a list of codes."""
    if cell.lower() in MISSING:
        return ()
    words = cell.translate(_BETWEEN_STATEMENTS if system == "scp" else _BETWEEN_CODES).split()
    if system == "icd10":
        words = [part for word in words for part in _apart(word)]
    if len(words) > _MOST_CODES:
        return None
    codes: dict[str, str] = {}
    latest = ""
    for word in words:
        if system == "icd10" and latest and word in (_SUSPECTED, _EXCLUDED, *_CERTAIN):
            if not _judge(codes, latest, word):
                return None
            latest = ""
            continue
        latest = normal_form(system, word)
        if not latest or (system == "scp" and entry_of(system, latest) is None):
            return None
        codes[latest] = latest
    return tuple(codes.values())


def _apart(word: str) -> tuple[str, ...]:
    """Return a code and the certainty letter behind it, where there is one."""
    glued = _GLUED.fullmatch(word.upper())
    return glued.groups() if glued else (word,)


def _judge(codes: dict[str, str], code: str, certainty: str) -> bool:
    """Apply a German certainty letter to the code before it; False where a disease is left open.

    A suspected disease is neither present nor absent, and a list without it would deny it.
    """
    if certainty == _EXCLUDED:
        codes[code] = f"-{code}"
    elif certainty == _SUSPECTED:
        del codes[code]
        entry = entry_of("icd10", code)
        return entry is None or not entry.diseases
    return True


def _known(cells: Sequence[str]) -> Mask:
    return np.array([c.lower() not in MISSING for c in cells], bool)
