"""M&Ms: CODE/CODE_sa.nii.gz and CODE/CODE_sa_gt.nii.gz, and one CSV with a row per CODE.

Layout: Campello et al., IEEE Trans Med Imaging 2021;40:3543. ED and ES are counted from 0. Masks:
1 left ventricle, 2 myocardium, 3 right ventricle; empty but for two phases.
"""

from __future__ import annotations

import csv
import io
import re
from functools import lru_cache
from math import isfinite
from pathlib import Path

from cardionets_core.data.mask_phenotypes import MaskLabels
from cardionets_core.data.paths import file_inside
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.sources.cine_groups import MNMS_PATHOLOGIES
from cardionets_core.sources.cmr_item import CmrItem
from cardionets_core.sources.masked_cine import number, read_masked
from cardionets_core.sources.plausible import age_of, height_of, sex_of, weight_of
from cardionets_core.sources.recording import Facts, Person, SourceCmr

LABELS = MaskLabels(lv=1, myo=2, rv=3)

_CODE_COLUMNS = ("external code", "external_code", "code", "subject_code")
_MOST_BYTES = 4 * 2**20
_CINE = re.compile(r"(?P<code>[A-Za-z0-9]{3,12})_sa\.nii(\.gz)?$", re.ASCII)


def code_of(folder: str, names: frozenset[str]) -> str:
    """Return the code of a folder of M&Ms, "" where it is none."""
    for name in names:
        match = _CINE.match(name)
        if match and match["code"].lower() == folder.lower():
            return folder
    return ""


def is_table(head: str) -> bool:
    """Return whether a CSV that begins with `head` is the data set's table."""
    columns = {cell.strip().strip('"').lower() for cell in re.split(r"[,;]", head)}
    return bool(columns & set(_CODE_COLUMNS)) and {"ed", "es"} <= columns


def read_mnms(item: CmrItem, *, root: Path) -> SourceCmr:
    """Read one study.

    Raises:
        RecordRefused: `missing_file`.
    """
    cine = _ending(item, "_sa.nii")
    if cine is None:
        raise RecordRefused("missing_file")
    table = next((m for m in item.members if m.lower().endswith(".csv")), None)
    row = _rows(file_inside(root, table)).get(item.patient.lower(), {}) if table else {}
    masks = _ending(item, "_sa_gt.nii")
    diastole = number(row.get("ed", ""))
    return read_masked(
        [root / cine],
        [root / masks] if masks else [],
        labels=LABELS,
        root=root,
        facts=_facts(row, item.patient),
        diastole=int(diastole) if isfinite(diastole) and 0 <= diastole <= 1000 else None,
    )


def _ending(item: CmrItem, stem: str) -> str | None:
    return next((m for m in item.members if m.lower().removesuffix(".gz").endswith(stem)), None)


def _facts(row: dict[str, str], patient: str) -> Facts:
    height, weight = number(row.get("height", "")), number(row.get("weight", ""))
    person = Person(
        patient_id=patient,
        sex=sex_of(row.get("sex", "")),
        age=age_of(number(row.get("age", ""))),
        height_cm=height_of(height),
        weight_kg=weight_of(weight),
    )
    pathology = row.get("pathology", row.get("disease", "")).upper()
    return Facts(person=person, values=MNMS_PATHOLOGIES.get(pathology, {}))


@lru_cache(maxsize=4)
def _rows(path: Path) -> dict[str, dict[str, str]]:
    """Return the rows of the table by code, cells by lower-case column."""
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise RecordRefused("too_large", "table")
    text = data.decode("utf-8-sig", "replace")
    separator = (
        ";" if text.partition("\n")[0].count(";") > text.partition("\n")[0].count(",") else ","
    )
    found: dict[str, dict[str, str]] = {}
    try:
        for cells in csv.DictReader(io.StringIO(text), delimiter=separator):
            row = {str(k).strip().lower(): str(v or "").strip() for k, v in cells.items()}
            code = next((row[c] for c in _CODE_COLUMNS if row.get(c)), "")
            found[code.lower()] = row
    except csv.Error:
        raise RecordRefused("header") from None
    return found
