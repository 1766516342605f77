"""`cardionets prepare`: a hospital's folders in, a prepared site out, as often as one likes.

1. Scan: which recordings are there, and which of them are done already (`scan.py`).
2. Read: every new one in a worker process, into neutral files (`pool.py`, `convert.py`).
3. Neutralise: ids become keys, dates become ages and shifted days (`neutral.py`); into the journal.
4. Assemble: studies, manifest, quarantine (`studies.py`, `manifest_write.py`); old files go.
5. Arrays of the models that were named (`data/cache.py`), then the report.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic

from cardionets_core.data.manifest import split_of
from cardionets_core.preparation import report
from cardionets_core.preparation.assemble import Assembled, assemble, build_caches, check_free
from cardionets_core.preparation.convert import (
    Converted,
    Places,
    Work,
    converter,
    crashed,
)
from cardionets_core.preparation.identity import Salt, read_or_make_salt
from cardionets_core.preparation.inventory import Progress, Seen, look, open_table
from cardionets_core.preparation.journal import Journal
from cardionets_core.preparation.lock import held
from cardionets_core.preparation.neutral import Neutraliser
from cardionets_core.preparation.pool import WorkerPool
from cardionets_core.preparation.request import (
    PrepareRequest,
    check_out,
    check_request,
    make_out,
    mark_out,
)
from cardionets_core.preparation.scan import Found
from cardionets_core.preparation.summary import PrepareSummary
from cardionets_core.preparation.worker import start_worker
from cardionets_core.sources.tables import Table

TRIED_AGAIN = frozenset({"io_error", "reader_crashed", "too_slow"})
"""Reasons that may pass by themselves: the next run tries these items again."""

_ECG_SHARE = 1.3
"""Neutral bytes per byte of an ECG's source: about one for WFDB, more where it is compressed."""

_CMR_BYTES = 30_000_000
"""Most that the two cines of a study take."""

RunAll = Callable[[Callable[[Work], Converted], list[Work], int], Iterator[Converted]]
"""(what to do with an item, the items, how many workers) -> results in the order of the items."""


def prepare(
    request: PrepareRequest,
    progress: Progress = lambda stage, done, total: None,
    *,
    run_all: RunAll | None = None,
) -> PrepareSummary:
    """Prepare a site, or bring a prepared one up to date.

    Args:
        request: what to read and where to write.
        progress: told how far it is.
        run_all: carries the work out; in worker processes unless a test does it otherwise.

    Raises:
        ConfigError, DataError: what a person can set right. What was prepared until then is kept.
    """
    began = monotonic()
    check_request(request)
    with _for_this_account_alone():
        make_out(request.out)
        with held(request.out):
            check_out(request.out)  # as it is now, with nobody else at work
            salt = read_or_make_salt(request.out, request.salt_file)
            mark_out(request.out)
            with Journal(request.out, mark=salt.mark) as journal:
                return _prepare(request, salt, journal, progress, run_all or in_workers, began)


def _below_table(request: PrepareRequest) -> dict[str, str]:
    """Return the folders that lie below the one of the table, as seen from there."""
    if request.table is None:
        return {}
    place = request.table.resolve().parent
    return {
        modality: root.relative_to(place).as_posix()
        for modality, root in request.roots.items()
        if place in root.parents
    }


def _prepare(
    request: PrepareRequest,
    salt: Salt,
    journal: Journal,
    progress: Progress,
    run_all: RunAll,
    began: float,
) -> PrepareSummary:
    table = open_table(request)
    seen = look(request, salt, journal, table, progress)
    check_room(request.out, seen.todo)
    places = Places(request.out.resolve(), request.roots, salt)
    works = [found.work for found in seen.todo]
    results = run_all(converter(places), works, request.processes)
    read(seen.todo, results, Neutraliser(salt, table, _below_table(request)), journal, progress)
    gone = drop_what_is_gone(journal, request, seen)
    journal.commit()
    assembled = assemble(request, salt, journal, seen.paths)
    cached = build_caches(request, salt, assembled, progress)
    summary = _summary(
        seen, assembled, table, gone=gone, cached=cached, seconds=monotonic() - began
    )
    page = request.out / report.FOLDER / report.PAGE
    if seen.todo or gone or summary.manifest_changed or not page.exists():
        report.write_report(
            request.out,
            outcomes=journal.rows,
            summary=summary.as_mapping(),
            split=partial(split_of, salt=salt.text),
        )
    return summary


@contextmanager
def _for_this_account_alone() -> Iterator[None]:
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def check_room(out: Path, todo: list[Found]) -> None:
    """Compare the free space with what the items will about take.

    Raises:
        DataError: there is too little.
    """
    sizes = {(f.work.modality, f.work.source.path): f.size for f in todo}  # many parts, one file
    need = sum(
        int(_ECG_SHARE * size) if modality == "ecg" else min(size, _CMR_BYTES)
        for (modality, _), size in sizes.items()
    )
    check_free(out, need)


def in_workers(
    act: Callable[[Work], Converted], works: list[Work], workers: int
) -> Iterator[Converted]:
    """Yield what `act` makes of every item, in their order, made in worker processes."""
    workers = min(workers, max(1, len(works)))
    return WorkerPool(act, crashed, workers=workers, start=start_worker).run(works)


def read(
    todo: list[Found],
    results: Iterable[Converted],
    neutraliser: Neutraliser,
    journal: Journal,
    progress: Progress,
) -> None:
    """Put what became of every new item into the journal, without ids and dates."""
    for k, (found, done) in enumerate(zip(todo, results, strict=True)):
        outcome = neutraliser.outcome(done, found.work.source)
        is_final = not TRIED_AGAIN & {code for _, code in outcome.refused}
        journal.put(outcome, found.state if is_final else "")
        progress("read", k + 1, len(todo))


def drop_what_is_gone(journal: Journal, request: PrepareRequest, seen: Seen) -> int:
    """Forget items whose files are no longer in the folders that were given; return how many.

    Where a folder cannot be opened just now, nobody can tell what is gone: all is kept.
    """
    if seen.sighting.closed:
        return 0
    gone = [k for m in request.roots for k in journal.keys(m) if k not in seen.keys]
    for item in gone:
        journal.forget(item)
    return len(gone)


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
        table=_about(table, tally.in_table),
        others=dict(seen.sighting.others.most_common()),
        closed_folders=seen.sighting.closed,
        same_again=assembled.same_again,
        manifest_changed=assembled.manifest_changed,
        cached=cached,
        seconds=round(seconds, 1),
        contradicting_patients=len(tally.contradicting),
        crowded_patients=assembled.crowded_patients,
        voltages=tally.voltages(),
    )


def _about(table: Table | None, named: int) -> dict[str, int]:
    if table is None:
        return {}
    problems = {f"{name}: {why}": n for (name, why), n in table.problems.items()}
    return {
        "rows": len(table),
        "recordings it names": named,
        "columns not used": len(table.dropped),
        **problems,
    }
