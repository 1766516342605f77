"""The fault table as a page: the same rows as on the screen and in faults.json."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.report.page import Block, Row, Section, Table, Text, duration, render
from simulations.faults.table import TITLES, Facts, Outcome, verdict
from simulations.measured import conditions_section

if TYPE_CHECKING:
    from pathlib import Path

TITLE = "CardioNets under faults"
COLUMNS = ("figure", "target", "CardioNets, measured", "plain Flower, measured", "met", "took")
WORDS = {"met": "yes", "missed": "NO", "failed": "NO (broke)", "not measured": "not measured here"}
LEGEND = (
    "Every value was measured by the command above, each fault with real processes where the goal "
    "names them. Plain Flower is a bare Flower app with its own FedAvg and a model of the same "
    "size, put through the same fault; “no such thing” means that Flower has nothing that could "
    "be measured there. docs/reliability.md says how each figure is taken."
)


def write_page(path: Path, above: Facts, outcomes: list[Outcome]) -> None:
    """Write the page; it needs no other file."""
    path.write_text(page(above, outcomes), encoding="utf-8")


def page(above: Facts, outcomes: list[Outcome]) -> str:
    """Return the page as HTML."""
    table = Table("Reliability figures", COLUMNS, tuple(map(_row, outcomes)), words=True)
    blocks: tuple[Block, ...] = (table, Text(LEGEND, "note"))
    sections = [Section("figures", "Figures", blocks), conditions_section(above)]
    return render(
        title=TITLE, lead=(Text(_lead(above, outcomes), "key"),), sections=tuple(sections)
    )


def _lead(above: Facts, outcomes: list[Outcome]) -> str:
    quick = " Quick look: fewer repeats and smaller numbers than the goals name." * above.quick
    return f"{verdict(outcomes, above.planned)}.{quick}"


def _row(outcome: Outcome) -> Row:
    head = f"{outcome.figure}. {TITLES.get(outcome.figure, '')}"
    cells: tuple[str, ...] = ("", outcome.reason, "")
    if outcome.row is not None:
        row = outcome.row
        cells = (row.target, f"{row.ours}\n{row.what}", row.flower)
    return Row(head, (*cells, WORDS[outcome.state], duration(outcome.seconds)))
