"""Which recordings a hospital's folders hold, and where one of them lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from cardionets_core.errors import ConfigError, DataError
from cardionets_core.labels.vocabularies import LABELS_VERSION
from cardionets_core.preparation.identity import Salt, has_salt, read_or_make_salt
from cardionets_core.preparation.journal import Journal
from cardionets_core.preparation.neutral_files import NeutralFiles
from cardionets_core.preparation.request import PrepareRequest, check_request
from cardionets_core.preparation.scan import Found, Scan, Sighting, count_others
from cardionets_core.preparation.table_states import TableStates
from cardionets_core.sources.tables import Table, find_table, read_table

PREPARATION_VERSION = 2
"""Raised with every change of a reader or of what is written: everything is then read again."""

Progress = Callable[[str, int, int], None]
"""Called with the stage, how much of it is done, and its size (0 where it is not known)."""


@dataclass(frozen=True)
class Seen:
    """What the scan found.

    Attributes:
        todo: items to read.
        keys: all items, by their keys.
        paths: item -> where it lies; empty unless source names are kept.
        sighting: what there is besides items.
    """

    todo: list[Found]
    keys: set[str]
    paths: dict[str, str] = field(repr=False)
    sighting: Sighting


def open_table(request: PrepareRequest) -> Table | None:
    """Return the hospital's table, given or found in the folder of the ECGs.

    Raises:
        DataError: it is none that is read here.
    """
    if request.table is not None:
        table = request.table.resolve()
        return read_table(table, root=table.parent)
    return find_table(request.roots["ecg"]) if "ecg" in request.roots else None


def look(
    request: PrepareRequest,
    salt: Salt,
    journal: Journal | None,
    tables: TableStates | None,
    progress: Progress,
) -> Seen:
    """Walk through the folders.

    Raises:
        DataError: no recording is in them.
    """
    told = partial(_told_headers, progress)
    seen = Seen([], set(), {}, Sighting(told=told))
    for found in _all_items(request, salt, journal, tables, seen.sighting):
        item = found.work.item
        seen.keys.add(item)
        if request.keep_source_names:
            seen.paths[item] = found.work.source.path
        if not found.is_done:
            seen.todo.append(found)
        if len(seen.keys) % 1000 == 0:
            progress("scan", len(seen.keys), 0)
    progress("scan", len(seen.keys), len(seen.keys))
    if not seen.keys:
        if "cmr" in request.roots:
            count_others(request.roots["cmr"], seen.sighting)
        raise DataError(_nothing(seen.sighting))
    return seen


def _told_headers(progress: Progress, read: int) -> None:
    progress("image headers", read, 0)


def _all_items(
    request: PrepareRequest,
    salt: Salt,
    journal: Journal | None,
    tables: TableStates | None,
    sighting: Sighting,
) -> Iterator[Found]:
    roots = request.roots
    settings = f"{PREPARATION_VERSION} {LABELS_VERSION}"
    left_out = [request.table.resolve()] if request.table is not None else []
    if "cmr" in roots and roots["cmr"] != roots.get("ecg"):
        left_out.append(roots["cmr"])
    changed: dict[str, TableStates] = {}
    if journal is not None and tables is not None:
        changed = {m: tables for m in roots if journal.fact(table_fact(m)) != tables.digest}
    neutral = NeutralFiles(request.out)
    scan = Scan(salt, settings, journal, frozenset(left_out), neutral, changed)
    if "ecg" in roots:
        yield from scan.ecgs(roots["ecg"], sighting)
    if "cmr" in roots:
        yield from scan.cmrs(roots["cmr"], sighting)


def table_fact(modality: str) -> str:
    """Return the journal's name for the digest of the table that all items were told by."""
    return f"table {modality}"


def _nothing(sighting: Sighting) -> str:
    held = ", ".join(f"{n} x {name}" for name, n in sighting.others.most_common(8)) or "no files"
    return (
        f"No recording was recognised; the folders hold {held}. Read are: ECGs as WFDB (.hea), "
        "DICOM, HL7 aECG, Philips Sierra, GE MUSE and CardioSoft XML, and arrays with a declared "
        "schema (--ecg); CMRs as NIfTI and DICOM (--cmr)."
    )


def find(request: PrepareRequest, item: str) -> str:
    """Return where the item of a report or of quarantine.csv lies: for the terminal alone.

    Raises:
        ConfigError, DataError: the folders cannot be searched, or hold no such item.
    """
    check_request(request)
    if not has_salt(request.out):
        raise ConfigError(
            f"--out {request.out} was not made by `cardionets prepare`; give the --out of the run "
            "that named the item."
        )
    salt = read_or_make_salt(request.out, request.salt_file)
    for found in _all_items(request, salt, None, None, Sighting()):
        if found.work.item == item:
            source = found.work.source
            path = str(request.roots[found.work.modality] / source.path)
            shown = f"{path} {source.part}".strip()
            return shown.encode("utf-8", "backslashreplace").decode()
    raise DataError(
        f"No recording of these folders has the key {item}; give the folders and the --out of the "
        "run that named it."
    )
