"""`python -m simulations.privacy`: what docs/privacy.md claims, measured on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cardionets_core.cli import told_plainly, wide_console
from simulations.measured import plain, write_table
from simulations.measuring import measured_with_bar, print_head
from simulations.privacy.page import head, words, write_page
from simulations.privacy.table import (
    SECTIONS,
    Entry,
    Facts,
    Outcome,
    chosen,
    exit_code,
    facts,
    measure,
    results,
    verdict,
)
from simulations.process_group import signals_as_exceptions

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = wide_console(160)

COLOURS = {"met": "green", "not met": "bold red", "failed": "bold red", "not measured": "yellow"}


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def main(
    only: Annotated[str, typer.Option(help="Sections, e.g. noise,audit; all without.")] = "",
    output: Annotated[
        Path, typer.Option(help="Folder of the table, the page and the sections' own files.")
    ] = Path("outputs/privacy"),
) -> None:
    """Measure what the privacy page claims, section by section, in one table.

    Exit code 0: every target that can be measured here is met. 1: one is not, or a section broke.
    Ctrl-C and SIGTERM end it within seconds; what it started ends with it.
    """
    with signals_as_exceptions(), told_plainly():
        names = chosen(only)
        output.mkdir(parents=True, exist_ok=True)
        above = facts(names)
        print_head(console, above)
        outcomes = _measured(names, output.resolve(), above)
    console.print(verdict(outcomes, names), highlight=False, soft_wrap=True)
    typer.echo(f"table      {output / 'privacy.json'}\npage       {output / 'privacy.html'}")
    raise typer.Exit(exit_code(outcomes))


def _measured(names: Sequence[str], output: Path, above: Facts) -> list[Outcome]:
    def write(so_far: list[Outcome]) -> None:
        write_table(output / "privacy.json", above, results(above, so_far))
        write_page(output / "privacy.html", above, so_far)

    return measured_with_bar(
        lambda begun, ended: measure(names, output, begun=begun, ended=ended),
        {name: SECTIONS[name].title for name in names},
        console=console,
        show=lambda outcome: console.print(_table(outcome)),
        write=write,
    )


def _table(outcome: Outcome) -> Table:
    title = f"{SECTIONS[outcome.section].title} ({outcome.seconds:.0f} s)"
    table = Table("what", "target", "measured", "met", "seeds", title=title, title_justify="left")
    for entry in outcome.entries:
        row = entry.row
        note = f"\n[dim]{plain(row.note)}[/]" if row.note else ""
        cells = (plain(head(entry)), plain(row.target), f"{plain(row.measured)}{note}")
        table.add_row(*cells, _mark(entry), plain(row.seeds))
    return table


def _mark(entry: Entry) -> str:
    colour = COLOURS.get(entry.state)
    return f"[{colour}]{words(entry)}[/]" if colour else words(entry)
