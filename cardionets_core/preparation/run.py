"""`cardionets prepare`: a hospital's folders in, a prepared site out, as often as one likes.

1. Scan: which recordings are there, and which of them are done already (`scan.py`).
2. Read: every new one in a worker process, into neutral files (`pool.py`, `convert.py`).
3. Neutralise: ids become keys, dates become ages and shifted days (`neutral.py`); into the journal.
4. Assemble: studies, manifest, quarantine (`studies.py`, `manifest_write.py`); old files go.
5. Arrays of the models that were named (`data/cache.py`), then the report.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from cardionets_core.errors import DataError
from cardionets_core.labels.vocabularies import LABELS_VERSION
from cardionets_core.preparation.assemble import Assembled, assemble, build_caches
from cardionets_core.preparation.convert import (
    Converted,
    Places,
    Work,
    converter,
    crashed,
    start_worker,
)
from cardionets_core.preparation.identity import Salt, read_or_make_salt
from cardionets_core.preparation.journal import Journal
from cardionets_core.preparation.neutral import Neutraliser
from cardionets_core.preparation.pool import WorkerPool
from cardionets_core.preparation.request import PrepareRequest, check_request, make_out
from cardionets_core.preparation.scan import Found, Scan, Sighting
from cardionets_core.preparation.summary import PrepareSummary
from cardionets_core.sources.tables import Table, find_table, read_table

PREPARATION_VERSION = 1
"""Raised with every change of a reader or of what is written: everything is then read again."""

TRIED_AGAIN = frozenset({"io_error", "reader_crashed", "too_slow"})
"""Reasons that may pass by themselves: the next run tries these items again."""

_ECG_BYTES, _CMR_BYTES = 1_500_000, 30_000_000
"""Most that the neutral files of one item take: 60 s of twelve leads at 1 kHz; two cines."""

Progress = Callable[[str, int, int], None]
"""Called with the stage, how much of it is done, and its size (0 where it is not known)."""


def prepare(
    request: PrepareRequest,
    progress: Progress = lambda stage, done, total: None,
    *,
    convert: Callable[[Places], Callable[[Work], Converted]] = converter,
) -> PrepareSummary:
    """Prepare a site, or bring a prepared one up to date.

    Args:
        request: what to read and where to write.
        progress: told how far it is.
        convert: makes the function that workers run; another one in tests.

    Raises:
        ConfigError, DataError: what a person can set right. What was prepared until then is kept.
    """
    began = monotonic()
    check_request(request)
    make_out(request.out)
    salt = read_or_make_salt(request.out, request.salt_file)
    with Journal(request.out, mark=salt.mark) as journal:
        table = open_table(request)
        seen = look(request, salt, journal, table, progress)
        check_room(request.out, seen.todo)
        places = Places(request.out.resolve(), request.roots, salt)
        read(seen.todo, Neutraliser(salt, table), journal, request, convert(places), progress)
        gone = drop_what_is_gone(journal, request, seen)
        journal.commit()
        assembled = assemble(request, salt, journal, seen.paths)
        cached = build_caches(request, salt, assembled, progress)
        return _summary(
            seen, assembled, table, gone=gone, cached=cached, seconds=monotonic() - began
        )


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
    table: Table | None,
    progress: Progress,
) -> Seen:
    """Walk through the folders.

    Raises:
        DataError: no recording is in them.
    """
    seen = Seen([], set(), {}, Sighting())
    for found in _all_items(request, salt, journal, table, seen.sighting):
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
        raise DataError(_nothing(seen.sighting))
    return seen


def _all_items(
    request: PrepareRequest,
    salt: Salt,
    journal: Journal | None,
    table: Table | None,
    sighting: Sighting,
) -> Iterator[Found]:
    roots = request.roots
    settings = f"{PREPARATION_VERSION} {LABELS_VERSION} {_digest_of(table)}"
    left_out = [request.table.resolve()] if request.table is not None else []
    if "cmr" in roots and roots["cmr"] != roots.get("ecg"):
        left_out.append(roots["cmr"])
    scan = Scan(salt, settings, journal, frozenset(left_out))
    if "ecg" in roots:
        yield from scan.ecgs(roots["ecg"], sighting)
    if "cmr" in roots:
        yield from scan.cmrs(roots["cmr"], sighting)


def _digest_of(table: Table | None) -> str:
    return "" if table is None else table.sha256


def _nothing(sighting: Sighting) -> str:
    held = ", ".join(f"{n} x {name}" for name, n in sighting.others.most_common(8)) or "no files"
    return (
        f"No recording was recognised; the folders hold {held}. Read are: ECGs as WFDB (.hea), "
        "DICOM, HL7 aECG, Philips Sierra, GE MUSE and CardioSoft XML, and arrays with a declared "
        "schema (--ecg); CMRs as NIfTI and DICOM (--cmr)."
    )


def check_room(out: Path, todo: list[Found]) -> None:
    """Compare the free space with the most that the items can take.

    Raises:
        DataError: there is too little.
    """
    most = {"ecg": _ECG_BYTES, "cmr": _CMR_BYTES}
    # XML and CSV shrink, compressed formats grow: three times the source is more than either does
    need = sum(min(3 * found.size, most[found.work.modality]) for found in todo)
    free = shutil.disk_usage(out).free
    if need > free:
        raise DataError(
            f"The disk of {out} has {free / 1e9:.1f} GB left and up to {need / 1e9:.1f} GB may be "
            "needed; make room, or choose --out on another disk."
        )


def read(
    todo: list[Found],
    neutraliser: Neutraliser,
    journal: Journal,
    request: PrepareRequest,
    convert: Callable[[Work], Converted],
    progress: Progress,
) -> None:
    """Read every new item in a worker and put what became of it into the journal."""
    workers = min(request.processes, max(1, len(todo)))
    pool = WorkerPool(convert, crashed, workers=workers, start=start_worker)
    for k, done in enumerate(pool.run(found.work for found in todo)):
        found = todo[k]
        outcome = neutraliser.outcome(done, found.work.source)
        is_final = not TRIED_AGAIN & {code for _, code in outcome.refused}
        journal.put(outcome, found.state if is_final else "")
        progress("read", k + 1, len(todo))


def drop_what_is_gone(journal: Journal, request: PrepareRequest, seen: Seen) -> int:
    """Forget items whose files are no longer in the folders that were given; return how many."""
    gone = [k for m in request.roots for k in journal.keys(m) if k not in seen.keys]
    for item in gone:
        journal.forget(item)
    return len(gone)


def find(request: PrepareRequest, item: str) -> str:
    """Return where the item of a report or of quarantine.csv lies: for the terminal alone.

    Raises:
        ConfigError, DataError: the folders cannot be searched, or hold no such item.
    """
    check_request(request)
    salt = read_or_make_salt(request.out, request.salt_file)
    for found in _all_items(request, salt, None, None, Sighting()):
        if found.work.item == item:
            source = found.work.source
            path = str(request.roots[found.work.modality] / source.path)
            return f"{path} {source.part}".strip()
    raise DataError(
        f"No recording of these folders has the key {item}; give the folders and the --out of the "
        "run that named it."
    )


def _summary(
    seen: Seen,
    assembled: Assembled,
    table: Table | None,
    *,
    gone: int,
    cached: dict[str, int],
    seconds: float,
) -> PrepareSummary:
    tally = assembled.tally
    return PrepareSummary(
        new=len(seen.todo),
        unchanged=len(seen.keys) - len(seen.todo),
        gone=gone,
        items=dict(sorted(tally.items.items())),
        kinds=dict(tally.kinds.most_common()),
        refused=dict(tally.refused.most_common()),
        views=dict(tally.views.most_common()),
        known=dict(tally.known.most_common()),
        present=dict(tally.present.most_common()),
        unmapped=dict(tally.unmapped.most_common()),
        patient_unknown=tally.patient_unknown,
        values_dropped=tally.values_dropped,
        age_unknown=tally.age_unknown,
        patients=sum(assembled.splits.values()),
        studies=assembled.studies,
        pairs=assembled.pairs,
        splits=assembled.splits,
        copies=assembled.copies,
        table=_about(table),
        others=dict(seen.sighting.others.most_common()),
        closed_folders=seen.sighting.closed,
        manifest_changed=assembled.manifest_changed,
        cached=cached,
        seconds=round(seconds, 1),
    )


def _about(table: Table | None) -> dict[str, int]:
    if table is None:
        return {}
    problems = {f"{name}: {why}": n for (name, why), n in table.problems.items()}
    return {"rows": len(table), "columns not used": len(table.dropped), **problems}
