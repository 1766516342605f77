"""quarantine.csv: what could not be used, why, and what to do. Stays at the site."""

from __future__ import annotations

import csv
import filecmp
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from cardionets_core.data.refusal import REASONS
from cardionets_core.preparation.outcome import Outcome

FILE_NAME = "quarantine.csv"
COLUMNS = ("item", "modality", "kind", "what", "code", "cause", "next_step")


def write_quarantine(
    out: Path, outcomes: Iterable[Outcome], paths: Mapping[str, str], *, with_paths: bool
) -> None:
    """Write the table of refused items, one line per refusal; in place only where it changed.

    Args:
        out: the prepared folder.
        outcomes: all of them.
        paths: item -> where it lies.
        with_paths: whether the table names them, as the site may ask for.
    """
    new, place = out / f".{FILE_NAME}.new", out / FILE_NAME
    try:
        # a name that is not UTF-8 is shown with its bytes
        with new.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow((*COLUMNS, "path") if with_paths else COLUMNS)
            for outcome in outcomes:
                for what, code in outcome.refused:
                    line = (outcome.item, outcome.modality, outcome.kind, what, code)
                    path = (paths.get(outcome.item, ""),) if with_paths else ()
                    writer.writerow((*line, *REASONS[code], *path))
        if not (place.exists() and filecmp.cmp(new, place, shallow=False)):
            os.replace(new, place)
    finally:
        new.unlink(missing_ok=True)
