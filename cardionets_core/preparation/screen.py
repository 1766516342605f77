"""The summary of a preparation in words, for the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from cardionets_core.data.refusal import REASONS
from cardionets_core.preparation.quarantine import FILE_NAME as QUARANTINE
from cardionets_core.preparation.report import FOLDER as REPORT
from cardionets_core.preparation.report import PAGE
from cardionets_core.preparation.summary import PrepareSummary, Voltages
from cardionets_core.quality.grades import USUAL_RANGE_MV
from cardionets_core.sources.tables import folders_of_tables

MOST_SUSPECT = 0.2
"""Share of the ECGs with an unusual voltage above which the gain is probably wrong: 0.003 usually
have one."""

TextTable = tuple[str, tuple[str, ...], list[tuple[str, ...]]]


def tables(summary: PrepareSummary) -> Iterator[TextTable]:
    """Yield (title, header, rows)."""
    yield (
        "Recordings",
        ("", "used", "partly", "refused"),
        [
            (modality.upper(), *(str(summary.items.get(f"{modality} {s}", 0)) for s in _STATUS))
            for modality in ("ecg", "cmr")
            if any(name.startswith(modality) for name in summary.items)
        ],
    )
    if summary.refused:
        yield (
            "Refused",
            ("what", "count", "why", "next step"),
            [
                (what, str(n), *REASONS[code])
                for (what, code), n in ((name.split(), n) for name, n in summary.refused.items())
            ],
        )


_STATUS = ("used", "partly", "refused")


def lines(summary: PrepareSummary, out: Path, ecg: Path | None = None) -> Iterator[str]:
    """Yield what else there is to say, and what to do next.

    Args:
        summary: of the preparation.
        out: the prepared folder.
        ecg: the folder of the ECGs.
    """
    splits = ", ".join(f"{n} {name}" for name, n in summary.splits.items())
    yield f"patients    {summary.patients} ({splits}); no patient stands in two splits"
    yield f"studies     {summary.studies}, {summary.pairs} of them an ECG with its CMR"
    if summary.present:
        common = list(summary.present.items())[:6]
        yield f"diseases    {', '.join(f'{name} {n}' for name, n in common)}"
    yield (
        f"this run    {summary.new} read, {summary.unchanged} unchanged, "
        f"{summary.gone} no longer there; {summary.seconds:.0f} s"
    )
    yield from _remarks(summary)
    if ecg is not None and summary.patient_unknown and not summary.table:
        yield from _tables_below(ecg)
    yield from _about_voltages(summary.voltages)
    if summary.items and any(name.endswith(("refused", "partly")) for name in summary.items):
        yield f"quarantine  {out / QUARANTINE} (cardionets prepare ... --find ITEM names the file)"
    yield f"report      {out / REPORT / PAGE} (stays at the site)"
    if summary.used:
        yield "Put into the site's YAML:"
        yield "  data:"
        yield f"    prepared: {out.resolve()}"
    else:
        yield "Nothing can be used yet: follow the next steps above and run the same command again."


def _tables_below(ecg: Path) -> Iterator[str]:
    folders = folders_of_tables(ecg)
    if not folders:
        return
    yield (
        "tables      a public data set keeps its own table below --ecg, which was not used; "
        "prepare its folder by itself, into an --out of its own:"
    )
    for folder in folders:
        yield f"            --ecg {shlex.quote(str(folder))}"


def _about_voltages(found: Voltages) -> Iterator[str]:
    low, high = USUAL_RANGE_MV
    is_unusual = found.ecgs > 0 and not low <= found.median_mv <= high
    if is_unusual or found.suspect > MOST_SUSPECT * found.ecgs:
        yield (
            f"voltages    {found.suspect} of {found.ecgs} ECGs have a voltage outside of {low:g} "
            f"to {high:g} mV (median of all: {found.median_mv:.3g} mV): the gain or the unit of "
            "the export is wrong"
        )
        yield (
            "            they are used as they are: compare one with its printout (10 mm are "
            "1 mV), and export again with the device's own gain"
        )


def _remarks(summary: PrepareSummary) -> Iterator[str]:
    copies = summary.copies
    if summary.table:
        yield f"table       {', '.join(f'{n} {what}' for what, n in summary.table.items())}"
        if summary.unused_columns:
            yield f"            not used: {', '.join(summary.unused_columns)}"
        if not summary.table["recordings it names"]:
            yield (
                "            it names none of these recordings: write paths relative to the folder "
                "(columns ecg, cmr), or patient ids exactly as the recordings have them"
            )
    if copies.extra:
        yield (
            f"copies      {copies.extra} recordings are exact copies of others; "
            f"{copies.across_patients} signals stand under several patients, "
            f"{copies.across_splits} of them in several splits"
        )
    if copies.across_splits:
        yield (
            "            a test result would be too good: give both the same patient id in a table "
            "(--table), or take one away"
        )
    if summary.same_again:
        yield (
            f"once more   {summary.same_again} recordings are left out: another one of the same "
            "patient in another format or rate, or an exact copy"
        )
    if summary.patient_unknown:
        yield (
            f"persons     {summary.patient_unknown} recordings name no patient: every file name "
            "counts as a person, and one person may stand in two splits; name them in a table "
            "(--table)"
        )
    if summary.contradicting_patients:
        yield (
            f"ids         {summary.contradicting_patients} patient ids stand for persons of both "
            "sexes: several people share an id, or a header is wrong"
        )
    if summary.crowded_patients:
        yield (
            f"ids         {summary.crowded_patients} patient ids have so many recordings that none "
            "of them were paired: is it the id of a ward or a device?"
        )
    if summary.unmapped:
        total = sum(summary.unmapped.values())
        common = ", ".join(list(summary.unmapped)[:5])
        yield f"codes       {len(summary.unmapped)} unknown, {total} times (most: {common})"
    if summary.values_dropped:
        yield f"values      {summary.values_dropped} stated values are out of range and left out"
    if summary.others:
        held = ", ".join(f"{n} {name}" for name, n in list(summary.others.items())[:6])
        yield f"other files {held}: no recordings"
    if summary.unread:
        yield (
            f"not read    {summary.unread} files cannot be read now; what they gave before is "
            "kept: see to them (a copy under way, a broken disk) and run again"
        )
    if summary.closed_folders:
        yield (
            f"closed      {summary.closed_folders} folders cannot be opened; correct their "
            "permissions and run again"
        )
