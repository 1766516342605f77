"""`python -m simulations.faults`: kills, cuts, corruption, and what each of them cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cardionets_core.cli import told_plainly, wide_console
from simulations.faults.page import write_page
from simulations.faults.table import (
    TITLES,
    Facts,
    Outcome,
    chosen,
    exit_code,
    facts,
    measure,
    results,
    verdict,
)
from simulations.measured import plain, write_table
from simulations.measuring import measured_with_bar, print_head
from simulations.process_group import signals_as_exceptions

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = wide_console(180)

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
        print_head(console, above)
        outcomes = _measured(numbers, output.resolve(), above)
    console.print(_table(outcomes))
    console.print(verdict(outcomes, numbers))
    typer.echo(f"table      {output / 'faults.json'}\npage       {output / 'faults.html'}")
    raise typer.Exit(exit_code(outcomes))


def _measured(numbers: Sequence[int], output: Path, above: Facts) -> list[Outcome]:
    def write(so_far: list[Outcome]) -> None:
        write_table(output / "faults.json", above, results(above, so_far))
        write_page(output / "faults.html", above, so_far)

    return measured_with_bar(
        lambda begun, ended: measure(numbers, output, quick=above.quick, begun=begun, ended=ended),
        {number: f"{number:>2} {TITLES[number]}" for number in numbers},
        console=console,
        show=lambda outcome: console.print(_line(outcome), soft_wrap=True, highlight=False),
        write=write,
    )


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
