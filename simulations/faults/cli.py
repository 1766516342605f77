"""`python -m simulations.faults`: kills, cuts, corruption, and what each of them cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cardionets_core.cli import told_plainly
from simulations.faults.page import write_page
from simulations.faults.table import (
    TITLES,
    Facts,
    Outcome,
    chosen,
    exit_code,
    facts,
    measure,
    verdict,
    write_json,
)
from simulations.measured import plain
from simulations.process_group import signals_as_exceptions

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()
if not console.is_terminal:
    console = Console(width=180)  # a log file has no edge, and six columns need room

MARKS = {
    "met": "[green]met[/]",
    "missed": "[bold red]met: no[/]",
    "failed": "[bold red]met: no (broke)[/]",
    "not measured": "[yellow]not measured here[/]",
}


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def main(
    only: Annotated[str, typer.Option(help="Figures to measure, e.g. 1,2,8; all without.")] = "",
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer repeats and smaller numbers: a look.")
    ] = False,
    output: Annotated[
        Path, typer.Option(help="Folder of the table, the page and the figures' own files.")
    ] = Path("outputs/faults"),
) -> None:
    """Measure what faults cost CardioNets and plain Flower, figure by figure, in one table.

    Exit code 0: every figure that can be measured here meets its target. 1: one does not.
    Ctrl-C and SIGTERM end it within seconds; what it started ends with it.
    """
    with signals_as_exceptions(), told_plainly():
        numbers = chosen(only)
        output.mkdir(parents=True, exist_ok=True)
        above = facts(numbers, quick=quick)
        _head(above)
        outcomes = _with_progress(numbers, output.resolve(), above)
    console.print(_table(outcomes))
    console.print(verdict(outcomes, numbers))
    typer.echo(f"table      {output / 'faults.json'}\npage       {output / 'faults.html'}")
    raise typer.Exit(exit_code(outcomes))


def _with_progress(numbers: Sequence[int], output: Path, above: Facts) -> list[Outcome]:
    """Measure with a bar over the figures; both files are written again after each of them."""
    columns = (
        TextColumn("{task.description:<44}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    so_far: list[Outcome] = []
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", total=len(numbers))

        def begun(number: int) -> None:
            progress.update(task, description=f"{number:>2} {TITLES[number]}")

        def ended(outcome: Outcome) -> None:
            so_far.append(outcome)
            progress.console.print(_line(outcome), soft_wrap=True, highlight=False)
            progress.advance(task)
            write_json(output / "faults.json", above, so_far)
            write_page(output / "faults.html", above, so_far)

        return measure(numbers, output, quick=above.quick, begun=begun, ended=ended)


def _head(above: Facts) -> None:
    for key, value in above.lines().items():
        console.print(f"{key:<10} {value}", soft_wrap=True, highlight=False, markup=False)


def _line(outcome: Outcome) -> str:
    found = outcome.row.ours if outcome.row is not None else outcome.reason
    return (
        f"{outcome.figure:>3} {TITLES[outcome.figure]:<36} {MARKS[outcome.state]}  "
        f"{plain(found)}  ({outcome.seconds:.0f} s)"
    )


def _table(outcomes: Sequence[Outcome]) -> Table:
    table = Table("", "figure", "target", "CardioNets", "plain Flower", "", show_lines=True)
    for outcome in outcomes:
        row = outcome.row
        cells = (row.target, row.ours, row.flower) if row else ("", outcome.reason, "")
        what = f"{TITLES[outcome.figure]}\n[dim]{plain(row.what)}[/]" if row else ""
        table.add_row(
            str(outcome.figure),
            what or TITLES[outcome.figure],
            *map(plain, cells),
            MARKS[outcome.state],
        )
    return table
