"""Tables beside the recordings: a hospital's own, PTB-XL's, MIMIC-IV-ECG's."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

from cardionets_core.sources.table_facts import Table, TableNotes
from cardionets_core.sources.table_hospital import read_table
from cardionets_core.sources.table_keys import path_key
from cardionets_core.sources.table_mimic import RECORDS, read_mimic_table
from cardionets_core.sources.table_ptbxl import DATABASE, read_ptbxl_table

__all__ = ["Table", "TableNotes", "find_table", "folders_of_tables", "path_key", "read_table"]

_LEVELS, _MOST_FOLDERS = 4, 2000
"""How far below a folder its tables are looked for: data sets keep them on top."""


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


def folders_of_tables(ecg_folder: Path, *, most: int = 3) -> list[Path]:
    """Return folders below this one that hold such a table, the nearest first.

    Its paths and numbers hold for its own data set, so `find_table` does not use it from above:
    it is for a person to be told of.
    """
    found: list[Path] = []
    waiting, seen = deque([(ecg_folder, 0)]), 0
    while waiting and seen < _MOST_FOLDERS and len(found) < most:
        folder, level = waiting.popleft()
        seen += 1
        try:
            with os.scandir(folder) as entries:
                own = [entry for entry in entries if not entry.name.startswith(".")]
                files = {e.name for e in own if e.is_file(follow_symlinks=False)}
                below = sorted(e.path for e in own if e.is_dir(follow_symlinks=False))
        except OSError:  # closed, or gone; the scan counts those
            continue
        if level and files & {DATABASE, RECORDS}:
            found.append(folder)
        elif level < _LEVELS:
            waiting += [(Path(path), level + 1) for path in below]
    return found
