"""Tables beside the recordings: a hospital's own, PTB-XL's, MIMIC-IV-ECG's."""

from __future__ import annotations

from pathlib import Path

from cardionets_core.sources.table_facts import Table, TableNotes
from cardionets_core.sources.table_hospital import read_table
from cardionets_core.sources.table_keys import path_key
from cardionets_core.sources.table_mimic import RECORDS, read_mimic_table
from cardionets_core.sources.table_ptbxl import DATABASE, read_ptbxl_table

__all__ = ["Table", "TableNotes", "find_table", "path_key", "read_table"]


def find_table(ecg_folder: Path) -> Table | None:
    """Return the table that a public data set keeps in its folder; None where there is none.

    Raises:
        DataError: a file has the name of such a table, but is another.
    """
    if (ecg_folder / DATABASE).is_file():  # a pipe is none
        return read_ptbxl_table(ecg_folder)
    if (ecg_folder / RECORDS).is_file():
        return read_mimic_table(ecg_folder)
    return None
