"""What `cardionets-site budget show` prints of a ledger."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cardionets_core.errors import PrivacyError
from cardionets_core.privacy.ledger_entries import counted
from cardionets_core.privacy.order import added, first_charge
from cardionets_core.privacy.population import known, outgrown
from cardionets_core.privacy.schedule import quoted
from cardionets_core.privacy_config import LARGE_EPSILON
from client.checks.budget import is_far_off

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from cardionets_core.privacy.ledger import Ledger
    from cardionets_core.privacy.ledger_entries import Item

BAR_WIDTH = 40

COUNTED = "What is counted is the account of it, and no promise of its own."


def shown(ledger: Ledger, declared: int, refused: Sequence[str]) -> RenderableType:
    """Return what is counted of a ledger's budget, by run and stage, and what else is to be known.

    Args:
        ledger: opened to be read.
        declared: patients, by the site's YAML.
        refused: why every private task is refused (`budget_standing.refusals`).
    """
    spent = ledger.epsilon()
    lines: list[RenderableType] = [
        Text(f"Every private task is refused: {reason}", style="bold red") for reason in refused
    ]
    lines += [*_spent_of_budget(ledger, spent), _spent_table(ledger), *_raises(ledger)]
    lines += [Text(_of_order(ledger)), Text(f"{_promised(ledger)} {COUNTED}")]
    if ledger.charges:
        quote = quoted(ledger.charges, ledger.delta)
        told = f"All of it, if it stood before round 1, costs {quote.words()}"
        lines.append(Text(f"{told}; that may be quoted then." if quote.prv else f"{told}."))
    lines += _allowed(ledger)
    if max(ledger.budget, spent) >= LARGE_EPSILON:
        lines.append(Text(f"From epsilon {LARGE_EPSILON:g} on nothing is said of who took part."))
    lines += _patients_told(ledger, declared)
    entries, newest = counted(ledger.entries), _date(ledger.written)
    lines.append(Text(f"{ledger.path}: {entries}, newest of {newest}\nhead {ledger.head}"))
    return Group(*lines)


def _spent_of_budget(ledger: Ledger, spent: float) -> list[RenderableType]:
    """Return what is counted of the budget that is in force, and a bar of it on a line of its own.

    A bar ends no line by itself.
    """
    budget = min(ledger.budget, ledger.recorded)
    share = _share(ledger, spent, budget)
    colour = "green" if share < 0.7 else "yellow" if share < 1 else "red"
    told = Text.assemble(
        ("counted ", "bold"),
        (f"{spent:.3f}", f"bold {colour}"),
        f" of epsilon {budget:g} at delta {ledger.delta:g}; {max(0.0, budget - spent):.3f} not "
        "yet used",
    )
    bar = ProgressBar(total=1.0, completed=share, width=BAR_WIDTH, complete_style=colour)
    return [told, bar, Text("")]


def _share(ledger: Ledger, spent: float, budget: float) -> float:
    """Return the share of what a budget has room for that is used up; the conversion is no use."""
    first = first_charge(ledger.delta, ledger.order)
    if budget <= first:
        return 1.0
    return max(0.0, min(1.0, (spent - first) / (budget - first)))


def _of_order(ledger: Ledger) -> str:
    """Return how the ledger counts."""
    first = first_charge(ledger.delta, ledger.order)
    told = (
        f"Counted by RDP at order {ledger.order:g}, which is fixed since the ledger was made: "
        f"{first:.3f} with the first charge, whatever it is, and what each charge adds."
    )
    if min(ledger.budget, ledger.recorded) > first:
        return told
    return f"{told} The budget is not above that, so no charge fits."


def _allowed(ledger: Ledger) -> list[RenderableType]:
    """Return what the ledger allows, where the YAML has less of it."""
    if ledger.budget >= ledger.recorded:
        return []
    told = (
        f"The ledger allows up to epsilon {ledger.recorded:g}, for good; privacy.epsilon "
        f"{ledger.budget:g} in the YAML is in force, and may go up to it without another word."
    )
    if ledger.recorded >= LARGE_EPSILON:
        told += f" From {LARGE_EPSILON:g} on nothing would be said of who took part."
    return [Text(told)]


def _patients_told(ledger: Ledger, declared: int) -> list[RenderableType]:
    """Return how many patients are declared, and whether the ledger has others."""
    try:
        there, too_large = known(ledger.path), outgrown(ledger.path, ledger.delta)
    except PrivacyError:
        return []  # said first, as what refuses every task
    told = f"patients: {declared:,} declared, {there:,} known to the ledger"
    if declared != ledger.terms.patients:
        told += f"; {ledger.terms.patients:,} were declared when it was made"
    lines: list[RenderableType] = [Text(told)]
    if is_far_off(declared, there):
        told += ". Steps are divided and updates weighed by the declared number: correct "
        lines = [Text(f"{told}privacy.patients if it is a slip.", style="yellow")]
    return [*lines, Text(too_large, style="red")] if too_large else lines


def _raises(ledger: Ledger) -> list[RenderableType]:
    """Return a row for each raised budget."""
    rows = (
        f"raised {_date(r.time)}: epsilon {r.before:g} -> {r.epsilon:g} (entry {r.entry})"
        for r in ledger.raises
    )
    return [Text(row) for row in rows]


def _promised(ledger: Ledger) -> str:
    """Return what is promised: the budget that was fixed before the first charge."""
    if ledger.promised == ledger.recorded:
        return "What is promised is the budget, however its charges were chosen."
    return (
        f"What is promised is epsilon {ledger.promised:g}, which was fixed before the first "
        "charge, however its charges were chosen. The budget was raised afterwards: what is spent "
        "beyond was promised to nobody, where results led to the raise (docs/privacy.md)."
    )


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _spent_table(ledger: Ledger) -> Table:
    """Return one row for each run, stage and kind of task, in the order of their first charge."""
    table = Table(
        "run", "stage", "for", "tasks", "steps", "noise", "rate", "adds",
        box=None, pad_edge=False, header_style="dim",
    )  # fmt: skip
    for column in table.columns[3:]:
        column.justify = "right"
    groups: dict[tuple[str, str, str], list[Item]] = {}
    for item in ledger.items:
        groups.setdefault((item.run, item.stage, item.what), []).append(item)
    for (run, stage, what), items in groups.items():
        charges = [item.charge for item in items]
        table.add_row(
            run, stage, what, str(len(items)), f"{sum(c.steps for c in charges):,}",
            _span([c.noise for c in charges]), _span([c.rate for c in charges]),
            f"{added(charges, ledger.order):.3f}",
        )  # fmt: skip
    if not groups:
        table.add_row("nothing is charged yet")
    return table


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.4g}" if low == high else f"{low:.4g}-{high:.4g}"
