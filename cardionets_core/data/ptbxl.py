"""PTB-XL (Wagner et al., Sci Data 2020;7:154) as a site: its tables -> our manifest.

Only the manifest is written; the records stay where they are. Label rules:

- A diagnostic superclass is present where one of its statements (`diagnostic_class` of
  `scp_statements.csv`) has a likelihood above 0; likelihood 0 means "unknown" there. A record
  without any diagnostic statement above 0 leaves the five superclasses and both bundle branch
  blocks unknown.
- Atrial fibrillation is a rhythm statement, and those always carry likelihood 0: AFIB counts when
  it is named.
"""

from __future__ import annotations

import ast
import csv
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from cardionets_core.errors import DataError

SUPERCLASSES = {
    "NORM": "normal_ecg",
    "MI": "myocardial_infarction",
    "STTC": "st_t_change",
    "CD": "conduction_disturbance",
    "HYP": "hypertrophy",
}
STATEMENTS = {"CLBBB": "left_bundle_branch_block", "CRBBB": "right_bundle_branch_block"}
RHYTHMS = {"AFIB": "atrial_fibrillation"}
DISEASE_COLUMNS = (*SUPERCLASSES.values(), *STATEMENTS.values(), *RHYTHMS.values())

_COLUMNS = ("patient_id", "study_id", "ecg", "age", "sex", "height_cm", "weight_kg")
_HEIGHT_CM = (100.0, 230.0)
_WEIGHT_KG = (25.0, 250.0)


def write_ptbxl_manifest(
    folder: Path, out: Path, *, site: int | None = None, rate_hz: Literal[100, 500] = 100
) -> int:
    """Write the manifest of a PTB-XL folder.

    Args:
        folder: holds `ptbxl_database.csv`, `scp_statements.csv` and `records100`/`records500`;
            pass it as the data root to `read_manifest`.
        out: the CSV file to write.
        site: take only the records of this PTB-XL recording site; None takes all.
        rate_hz: which of the two versions of the records.

    Returns:
        The number of studies: records whose header is in `folder`.

    Raises:
        DataError: a table is missing or not PTB-XL's, or no record of it is there.
    """
    database = _read(folder / "ptbxl_database.csv", "ecg_id")
    statements = _read(folder / "scp_statements.csv", 0)
    is_diagnostic = statements["diagnostic"] == 1.0
    diagnostic = {str(k): str(v) for k, v in statements["diagnostic_class"][is_diagnostic].items()}
    if site is not None:
        database = database[database["site"] == site]
    column = "filename_lr" if rate_hz == 100 else "filename_hr"
    rows = [
        _row(record, f"{record[column]}.hea", diagnostic)
        for record in database.reset_index().to_dict("records")
        if (folder / f"{record[column]}.hea").is_file()
    ]
    if not rows:
        raise DataError(
            f"No PTB-XL record is in {folder}; download records{rate_hz} beside its tables."
        )
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=(*_COLUMNS, *DISEASE_COLUMNS))
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)


def _read(path: Path, index: str | int) -> pd.DataFrame:
    if not path.is_file():
        raise DataError(f"{path} is missing; PTB-XL comes with it.")
    return pd.read_csv(path, index_col=index)


def _row(record: Mapping[Hashable, Any], ecg: str, diagnostic: dict[str, str]) -> dict[str, object]:
    age = _within(record["age"], (0.0, 120.0))  # 300 stands for "over 89" and is dropped
    return {
        "patient_id": str(int(float(str(record["patient_id"])))),
        "study_id": record["ecg_id"],
        "ecg": ecg,
        "age": age,
        "sex": 1 - int(str(record["sex"])),  # PTB-XL: 0 male, 1 female
        "height_cm": _within(record["height"], _HEIGHT_CM),
        "weight_kg": _within(record["weight"], _WEIGHT_KG),
    } | _diseases(str(record["scp_codes"]), diagnostic)


def _diseases(text: str, diagnostic: dict[str, str]) -> dict[str, int | str]:
    """Return disease column -> 1, 0 or "" (unknown), from a record's `scp_codes`."""
    likelihoods: dict[str, float] = ast.literal_eval(text)
    stated = {code for code, value in likelihoods.items() if code in diagnostic and value > 0}
    classes = {diagnostic[code] for code in stated}
    labels: dict[str, int | str] = {}
    for code, name in SUPERCLASSES.items():
        labels[name] = int(code in classes) if stated else ""
    for code, name in STATEMENTS.items():
        labels[name] = int(code in stated) if stated else ""
    for code, name in RHYTHMS.items():
        labels[name] = int(code in likelihoods)
    return labels


def _within(value: object, limits: tuple[float, float]) -> float | str:
    number = float(str(value))
    return number if limits[0] <= number <= limits[1] else ""
