"""A hospital's own table: one CSV with a header, in commas, semicolons or tabs, UTF-8.

    patient_id                     required; as in the recordings' headers
    ecg, cmr                       path of the recording, relative to its folder; without these the
                                   row speaks for all of the patient's recordings
    age | birth_date, sex          years; 2024-01-31 or 31.01.2024; M/F, W, male/female, 1 male/0
    recorded                       date of the recording, if need be with its time
    height_cm, weight_kg           with their unit in the name: `weight` alone may be pounds
    icd10, icd9, snomed, scp       codes of the encounter, in one cell, or one row per code
    lv_edv, ... or 24100-2.0, ...  phenotypes by our names or UK Biobank's fields, in their units:
                                   volumes in mL, ejection fractions and strains in percent
    heart_failure, ...             diseases by our names: 1, 0 or empty

Other columns are dropped and counted. Nothing is guessed from a column that almost fits: the count
says which name it resembles.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from cardionets_core.data.phenotype_ranges import PHENOTYPE_RANGES
from cardionets_core.errors import DataError, nearest
from cardionets_core.labels.code import System
from cardionets_core.labels.ukb_fields import ukb_name, ukb_rank
from cardionets_core.sources.table_cells import (
    FRACTION,
    MISSING,
    TWO,
    Parsed,
    code_lists,
    dates,
    identifiers,
    numbers,
    percents,
    sexes,
    zeros_and_ones,
)
from cardionets_core.sources.table_columns import Column, ColumnsRead, Parse, read_columns, table_of
from cardionets_core.sources.table_facts import Table
from cardionets_core.sources.table_keys import UNUSABLE, path_key
from cardionets_core.sources.table_rows import CsvTable
from cardionets_core.vocabulary import DISEASES, PHENOTYPE_NAMES, PHENOTYPES

ALIASES: dict[str, tuple[str, ...]] = {
    "patient_id": ("patientid", "patient", "subject_id", "eid", "mrn"),
    "path:ecg": ("ecg", "ecg_path", "ecg_file"),
    "path:cmr": ("cmr", "cmr_path", "cmr_folder", "cmr_file"),
    "age": ("age_years", "alter"),
    "birth_date": ("birthdate", "date_of_birth", "dob", "geburtsdatum"),
    "sex": ("gender", "geschlecht"),
    "recorded": ("ecg_date", "ecg_time", "recording_date", "acquisition_date"),
    "height_cm": ("groesse_cm",),
    "weight_kg": ("gewicht_kg",),
    "codes:icd10": ("icd10", "icd_10", "icd10_codes"),
    "codes:icd9": ("icd9", "icd_9", "icd9_codes"),
    "codes:snomed": ("snomed", "snomed_ct", "snomed_codes"),
    "codes:scp": ("scp", "scp_codes"),
}
"""Target -> the names that a column may have for it, besides the target's own."""

RANGES = {
    "age": (0.0, 120.0),
    "height_cm": (30.0, 250.0),
    "weight_kg": (1.0, 400.0),
    **PHENOTYPE_RANGES,
}
"""What numbers can be; age and body size as the manifest has them."""

_PERCENT = frozenset(p.name for p in PHENOTYPES if p.unit == "%")
_SYSTEMS: dict[str, System] = {"icd10": "icd10", "icd9": "icd9", "snomed": "snomed", "scp": "scp"}
_FORBIDDEN = re.compile(r"[\x00-\x1f:]|^~|(^|/)\.\.(/|$)")
_KNOWN = (
    *(name for target, names in ALIASES.items() for name in (target.split(":")[-1], *names)),
    *PHENOTYPE_NAMES,
    *DISEASES,
)


def read_table(path: Path, *, root: Path) -> Table:
    """Read a hospital's table.

    Args:
        path: the CSV file, as a person named it.
        root: the folder of the recordings; absolute paths below it become relative to it.

    Raises:
        DataError: the file is no table, has no `patient_id`, nothing besides it, or two columns for
            the same thing; one recording stands under two patients; or percentages are written
            as fractions.
    """
    columns = read_columns(path, partial(_choose, root=root), _KNOWN)
    _refuse_fractions(path, columns)
    _refuse_one_and_two(path, columns)
    table = table_of([columns])
    if not len(table):
        raise DataError(f"The table {path} has no rows; export it again.")
    return table


def _choose(table: CsvTable, *, root: Path) -> Sequence[Column]:
    chosen: dict[str, tuple[int, bool]] = {}
    columns: list[Column] = []
    for place, name in enumerate(table.header):
        target, is_ukb = _target(name)
        if not target:
            continue
        first, both_ukb = chosen.setdefault(target, (place, is_ukb))
        if first != place and not (is_ukb and both_ukb):
            raise DataError(
                f"The table {table.path}: columns {first + 1} and {place + 1} both hold "
                f"{target.split(':')[-1]!r}; keep one of them, or rename the other."
            )
        columns.append(Column(place, target, _parse(target, table.separator, root)))
    _require(table, chosen)
    return sorted(columns, key=lambda column: ukb_rank(table.header[column.place]))


def _target(name: str) -> tuple[str, bool]:
    """Return what a column holds ("" for nothing that is read), and whether UK Biobank named it."""
    plain = re.sub(r"[\s-]+", "_", name.strip().lower())
    for target, names in ALIASES.items():
        if plain == target or plain in names:
            return target, False
    if plain in PHENOTYPE_NAMES or plain in DISEASES:
        return f"value:{plain}", False
    ours = ukb_name(name)
    return (f"value:{ours}" if ours in PHENOTYPE_NAMES else ours), bool(ours)


def _require(table: CsvTable, chosen: Collection[str]) -> None:
    if "patient_id" not in chosen:
        known = ("patient_id", *ALIASES["patient_id"])
        places = (place for place, name in enumerate(table.header, 1) if nearest(name, known))
        hint = next((f" (column {place} looks like it)" for place in places), "")
        raise DataError(
            f"The table {table.path} has no column 'patient_id'{hint}; name the column that holds "
            "the patients' ids so."
        )
    if len(chosen) == 1:
        raise DataError(
            f"The table {table.path} has nothing that is read besides 'patient_id'; name its "
            "columns as docs/site_onboarding.md lists them (age, sex, icd10, lv_edv, ...)."
        )


def _parse(target: str, separator: str, root: Path) -> Parse:
    """Return the parser of a target's cells."""
    kind, _, name = target.rpartition(":")
    simple: dict[str, Parse] = {
        "patient_id": identifiers,
        "sex": sexes,
        "birth_date": dates,
        "recorded": dates,
    }
    if target in simple:
        return simple[target]
    if kind == "path":
        return partial(_paths, root=root)
    if kind == "codes":
        return partial(code_lists, system=_SYSTEMS[name])
    if name in DISEASES:
        return zeros_and_ones
    low, high = RANGES[name]
    parse = percents if name in _PERCENT else numbers
    return partial(parse, low=low, high=high, decimal_comma=separator != ",")


def _refuse_fractions(path: Path, columns: ColumnsRead) -> None:
    """Refuse a table whose percentages mostly lie between 0 and 1: all of them are in that unit."""
    for target, values in columns.columns().items():
        name = target.removeprefix("value:")
        if name not in _PERCENT:
            continue
        lost = columns.problems[name, FRACTION]
        small = int(((values.abs() > 0) & (values.abs() <= 1)).sum()) + lost
        if 2 * small > int(values.notna().sum()) + lost:
            raise DataError(
                f"The table {path}, column {name!r}: {small} values lie between 0 and 1, and it is "
                "read in percent; multiply the column by 100."
            )


def _refuse_one_and_two(path: Path, columns: ColumnsRead) -> None:
    """Refuse a table that codes the sex with 1 and 2: all women would be lost, and no man."""
    lost = columns.problems["sex", TWO]
    if (
        "sex" in columns.columns()
        and 10 * lost > int(columns.columns()["sex"].notna().sum()) + lost
    ):
        raise DataError(
            f"The table {path}, column 'sex': {lost} rows say 2, and beside 1 and 2 a 0 may be "
            "anybody; write M and F, or 1 for male and 0 for female."
        )


def _paths(cells: Sequence[str], root: Path) -> Parsed:
    """Return keys of recordings; `UNUSABLE` for a path that leaves `root`, which is counted."""
    base = root.absolute().as_posix().rstrip("/") + "/"
    keys = list(_keys(cells, base))
    escaped = np.array([key == UNUSABLE for key in keys], bool)
    return Parsed(keys, {"a path out of the recordings' folder": escaped})


def _keys(cells: Sequence[str], base: str) -> Iterator[str]:
    for cell in cells:
        path = cell.replace("\\", "/").removeprefix(base)
        if path.lower() in MISSING:
            yield ""
        elif path.startswith("/") or _FORBIDDEN.search(path) or not path_key(path):
            yield UNUSABLE
        else:
            yield path_key(path)
