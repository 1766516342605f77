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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic

from cardionets_core.data.manifest import split_of
from cardionets_core.errors import DataError
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
from cardionets_core.preparation.inventory import (
    Progress,
    Seen,
    look,
    open_table,
    table_fact,
)
from cardionets_core.preparation.journal import Journal, Trace
from cardionets_core.preparation.lock import held
from cardionets_core.preparation.neutral import Neutraliser
from cardionets_core.preparation.neutral_files import NeutralFiles
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
from cardionets_core.preparation.table_states import TableStates
from cardionets_core.preparation.worker import start_worker
from cardionets_core.sources.tables import Table

TRIED_AGAIN = frozenset({"io_error", "reader_crashed", "too_slow"})
"""Reasons that may pass by themselves: the next run tries these items again."""

_MOST_NAMED = 12
"""Columns of a table that are named as not used."""

FEWEST_LOSSES, LARGEST_LOSS = 10, 0.2
"""Recordings, and share of those prepared, that may be gone at once without a question."""

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
    neutraliser = Neutraliser(salt, table, _below_table(request))
    tables = TableStates(salt, neutraliser)
    seen = look(request, salt, journal, tables, progress)
    refuse_losses(journal, request, seen)
    check_room(request.out, seen.todo)
    places = Places(request.out.resolve(), request.roots, salt)
    works = [found.work for found in seen.todo]
    results = run_all(converter(places), works, request.processes)
    _told_by(journal, request, "in change")
    read(seen, results, Reading(request, neutraliser, tables, journal), progress)
    if not (seen.sighting.closed or seen.sighting.unread):
        _told_by(journal, request, tables.digest)
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


def _told_by(journal: Journal, request: PrepareRequest, digest: str) -> None:
    """Keep which table the items go by; a run that is stopped leaves one that no table has."""
    for modality in request.roots:
        journal.put_fact(table_fact(modality), digest)


@dataclass(frozen=True)
class Reading:
    """What results are put away with."""

    request: PrepareRequest
    neutraliser: Neutraliser
    tables: TableStates
    journal: Journal

    def put(self, found: Found, done: Converted) -> bool:
        """Put what became of an item into the journal, without ids and dates.

        Return False where it cannot be read for the moment and what it was before is kept.
        """
        work = found.work
        outcome = self.neutraliser.outcome(done, work.source)
        is_final = not TRIED_AGAIN & {code for _, code in outcome.refused}
        if not is_final and self._was_used(work.item):
            self.journal.try_again(work.item)
            return False
        file = self.neutraliser.salt.file_key(f"{work.modality}/{work.source.path}")
        trace = Trace(file, *self.tables.of(done, work.source))
        self.journal.put(outcome, found.state if is_final else "", trace)
        return True

    def _was_used(self, item: str) -> bool:
        kept = self.journal.kept(item)
        if kept is None or not kept.files:
            return False
        return NeutralFiles(self.request.out).hold(kept.files)


def read(seen: Seen, results: Iterable[Converted], reading: Reading, progress: Progress) -> None:
    """Put what became of every new item into the journal."""
    for k, (found, done) in enumerate(zip(seen.todo, results, strict=True)):
        seen.sighting.unread += not reading.put(found, done)
        progress("read", k + 1, len(seen.todo))


def refuse_losses(journal: Journal, request: PrepareRequest, seen: Seen) -> None:
    """Stop before much of what was prepared is forgotten at once, and anything is read.

    Raises:
        DataError: more is gone than an archive loses by itself.
    """
    if request.accept_losses or seen.sighting.closed:
        return
    for modality, root in request.roots.items():
        prepared = list(journal.used(modality))
        gone = sum(item not in seen.keys for item in prepared)
        if gone >= FEWEST_LOSSES and gone > LARGEST_LOSS * len(prepared):
            raise DataError(
                f"{gone} of the {len(prepared)} recordings that were prepared from --{modality} "
                f"{root} are no longer there; nothing was changed. A share that is not mounted, "
                "an archive that was moved or another folder looks like that: correct the path or "
                "mount it. If they are really gone, add --accept-losses."
            )


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
        unused_columns=tuple(table.dropped)[:_MOST_NAMED] if table is not None else (),
        others=dict(seen.sighting.others.most_common()),
        closed_folders=seen.sighting.closed,
        same_again=assembled.same_again,
        manifest_changed=assembled.manifest_changed,
        cached=cached,
        seconds=round(seconds, 1),
        unread=seen.sighting.unread,
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
