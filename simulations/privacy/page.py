"""The privacy table as a page: the same rows as on the screen and in privacy.json."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.report.page import NONE, Picture, Row, Section, Table, Text, duration, render
from simulations.measured import conditions_section
from simulations.privacy.table import SECTIONS, WORK, Entry, Facts, Outcome, verdict

if TYPE_CHECKING:
    from pathlib import Path

TITLE = "CardioNets: privacy, measured"
COLUMNS = ("What", "Target", "Measured", "Met", "Seeds")
WORDS = {
    "met": "yes",
    "not met": "NO",
    "told": NONE,
    "not measured": "not measured here",
    "failed": "NO (broke)",
}
CONTROL_WORDS = {"met": "failed, as it must", "not met": "NOT FOUND"}
LEGEND = (
    "A row that begins with “Control” measures a mechanism that was broken on purpose: it must "
    "fail, and one that is not found makes the rows beside it worthless. “os” as a seed: the "
    "operating system's randomness, which nobody can repeat, as in production. Attacks and audits "
    "give lower bounds: they can show that a promise is broken, never that it holds; the promise "
    "itself rests on the proofs in docs/privacy.md."
)


def write_page(path: Path, above: Facts, outcomes: list[Outcome]) -> None:
    """Write the page; it needs no other file."""
    path.write_text(page(above, outcomes, path.parent / WORK), encoding="utf-8")


def page(above: Facts, outcomes: list[Outcome], work: Path) -> str:
    """Return the page as HTML; the sections' pictures lie in their folders below `work`."""
    lead = (Text(f"{verdict(outcomes, above.planned)}.", "key"), Text(LEGEND, "note"))
    sections = [_section(outcome, work / outcome.section) for outcome in outcomes]
    return render(title=TITLE, lead=lead, sections=(*sections, conditions_section(above)))


def words(entry: Entry) -> str:
    """Return whether a row is met, as a reader is told; a control's success is its failure."""
    if entry.row.control and entry.state in CONTROL_WORDS:
        return CONTROL_WORDS[entry.state]
    return WORDS[entry.state]


def head(entry: Entry) -> str:
    """Return what a row measured, marked where it is a control."""
    return f"Control: {entry.row.what}" if entry.row.control else entry.row.what


def _section(outcome: Outcome, folder: Path) -> Section:
    rows = tuple(
        Row(
            head(e),
            (
                e.row.target or NONE,
                f"{e.row.measured}\n{e.row.note}" if e.row.note else e.row.measured,
                words(e),
                e.row.seeds or NONE,
            ),
        )
        for e in outcome.entries
    )
    table = Table(f"Measured in {duration(outcome.seconds)}.", COLUMNS, rows, words=True)
    pictures = (
        Picture((folder / p.file).read_bytes(), p.alt, p.caption, wide=True, kind="svg+xml")
        for p in outcome.pictures
    )
    return Section(outcome.section, SECTIONS[outcome.section].title, (*pictures, table))
