"""MIMIC-IV-ECG's tables (Gow et al., PhysioNet 2023): who, when, and what the encounter was for.

`record_list.csv` (subject_id, study_id, file_name, ecg_time, path) says whose recording each path
is. Diagnoses, sex and age come with `records_w_diag_icd10.csv` of MIMIC-IV-ECG-Ext-ICD (Strodthoff
et al. 2024), if someone copied it beside; its `all_diag_all` holds the ICD-10-CM codes of the
encounter, `[]` where there is none. Ages above 89 are made up there (91 stands for all older
patients), so they are unknown here. `machine_measurements.csv` is not read: it holds sentences.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cardionets_core.data.paths import file_inside
from cardionets_core.sources.table_cells import (
    Parsed,
    code_lists,
    dates,
    identifiers,
    numbers,
    sexes,
)
from cardionets_core.sources.table_columns import Parse, columns_of, read_columns, table_of
from cardionets_core.sources.table_facts import Table
from cardionets_core.sources.table_keys import path_key

RECORDS = "record_list.csv"
DIAGNOSES = "records_w_diag_icd10.csv"
_OLDEST = 89.0


def read_mimic_table(folder: Path) -> Table:
    """Read the tables of a MIMIC-IV-ECG folder.

    Raises:
        DataError: a table is not MIMIC's.
    """
    parts = [read_columns(file_inside(folder, RECORDS), partial(_CHOOSE, wanted=_OF_RECORDS))]
    if (folder / DIAGNOSES).is_file():
        path = file_inside(folder, DIAGNOSES)
        parts.append(read_columns(path, partial(_CHOOSE, wanted=_OF_DIAGNOSES)))
    return table_of(parts)


def _keys(cells: Sequence[str]) -> Parsed:
    """Return paths from `files/` on: the diagnoses' table has the data set's name before it."""
    return Parsed([path_key(cell[max(cell.find("files/"), 0) :]) for cell in cells], {})


_OF_RECORDS: dict[str, tuple[str, Parse]] = {
    "subject_id": ("patient_id", identifiers),
    "path": ("path:ecg", _keys),
    "ecg_time": ("recorded", dates),
}
_OF_DIAGNOSES: dict[str, tuple[str, Parse]] = {
    "subject_id": ("patient_id", identifiers),
    "file_name": ("path:ecg", _keys),
    "gender": ("sex", sexes),
    "age": ("age", partial(numbers, low=0.0, high=_OLDEST)),
    "all_diag_all": ("codes:icd10", partial(code_lists, system="icd10")),
}
_CHOOSE = partial(columns_of, whose="MIMIC-IV-ECG", source="physionet.org/content/mimic-iv-ecg")
