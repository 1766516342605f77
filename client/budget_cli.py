"""`cardionets-site budget`: the privacy budget of a hospital, made, shown, raised and planned."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cardionets_core.cli import told_plainly
from cardionets_core.privacy_config import LARGE_EPSILON
from cardionets_core.site_config import load_site_config
from client import budget_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from cardionets_core.privacy.ledger import Item, Ledger
    from cardionets_core.site_config import SiteConfig

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="The privacy budget of this hospital's patients: make it, look at it, plan with it.",
)
console = Console()
if not console.is_terminal:
    console = Console(width=140)  # a log file has no edge, and ten columns need room

Config = Annotated[Path, typer.Option(help="The site's YAML, with its section `privacy`.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Hydra overrides, e.g. privacy.epsilon=3", show_default=False),
]

BAR_WIDTH = 40

COUNTED = (
    "What is promised is the budget. What is counted, by RDP, of all that is charged so far is a "
    "promise of its own only if all of it stood before round 1."
)


@app.command()
def init(config: Config, overrides: Overrides = None) -> None:
    """Make the one ledger of this hospital's patients, with the budget of the YAML."""
    from cardionets_core.privacy.ledger import init_ledger

    with told_plainly():
        site = load_site_config(config, overrides or ())
        patients, settings = _patients(site), site.privacy
        head = init_ledger(
            settings,
            patients=patients,
            salt=site.data.salt,
            claim_folder=Path(site.data.cache),
            table=Path(site.data.manifest),
        )
    lines = (
        ("ledger", f"{settings.ledger} (with .head and .patients)"),
        ("patients", f"{len(patients):,} in the table; {settings.patients:,} declared"),
        ("budget", f"epsilon {settings.epsilon:g} at delta {settings.delta:g}"),
        ("head", head),
    )
    for name, value in lines:
        typer.echo(f"{name:10} {value}")
    _tell_large(settings.epsilon)
    typer.echo(
        "\nBack up the three files together, and never put back an old copy: what was spent since "
        "would be forgotten. The coordinator keeps the newest head and notices."
    )


@app.command()
def show(config: Config, overrides: Overrides = None) -> None:
    """Print what is counted of the budget, by run and stage."""
    from cardionets_core.privacy.ledger import Ledger

    with told_plainly():
        site = load_site_config(config, overrides or ())
        with Ledger.read(site.privacy) as ledger:
            shown = _shown(ledger, site.privacy.patients)
    console.print(shown)


@app.command("raise")
def raise_budget(
    config: Config,
    epsilon: Annotated[float, typer.Option(min=0, help="The new budget of all runs together.")],
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing, also for a large one.")] = False,
) -> None:
    """Record a larger budget: an act of the hospital, kept in the ledger for good."""
    from cardionets_core.privacy.ledger import Ledger

    with told_plainly():
        site = load_site_config(config)
        with Ledger.read(site.privacy) as ledger:
            ledger.check_raise(epsilon)
            before = ledger.recorded
    typer.echo(f"budget     epsilon {before:g} -> {epsilon:g}")
    _tell_large(epsilon)
    if epsilon >= LARGE_EPSILON and not yes:
        _ask_to_record(epsilon)  # while the ledger is free: a task may need it
    with told_plainly(), Ledger.read(site.privacy) as ledger:
        ledger.raise_budget(epsilon)
    typer.echo(f"recorded   epsilon {epsilon:g}: the ledger allows as much from now on, for good")
    if site.privacy.epsilon < epsilon:
        typer.echo(f"in force   epsilon {site.privacy.epsilon:g}, as privacy.epsilon in {config}")


def _ask_to_record(epsilon: float) -> None:
    """End the command unless a person wants a large budget.

    Raises:
        typer.Exit: they do not, or nobody is there to say so.
    """
    try:
        if typer.confirm(f"Record epsilon {epsilon:g}? It cannot be taken back", default=False):
            return
    except typer.Abort:
        typer.echo()
    typer.echo(f"nothing was recorded; --yes records epsilon {epsilon:g} without a question")
    raise typer.Exit(1)


def _tell_large(epsilon: float) -> None:
    if epsilon >= LARGE_EPSILON:
        typer.echo(
            f"WARNING    epsilon {epsilon:g} says nothing of who took part: from {LARGE_EPSILON:g} "
            "on it is meant against the reconstruction of images and signals alone"
        )


@app.command("accept-clock")
def accept_clock(config: Config) -> None:
    """Go on after the clock was put back, when you have seen that no entry is missing."""
    from cardionets_core.privacy.ledger import Ledger

    with told_plainly():
        site = load_site_config(config)
        with Ledger.read(site.privacy) as ledger:
            ledger.accept_clock()
            head, entries = ledger.head, ledger.entries
    typer.echo(f"accepted   {entries} entries, head {head}")


app.command("plan")(budget_plan.plan)


def _patients(site: SiteConfig) -> list[str]:
    """Return the ids of all patients of a site's table."""
    from cardionets_core.data.manifest import read_manifest

    manifest = read_manifest(Path(site.data.manifest), Path(site.data.root), check_files=False)
    return [str(patient) for patient in manifest.table["patient_id"].unique()]


# ------------------------------------------------------------------------------------------ show


def _shown(ledger: Ledger, declared: int) -> RenderableType:
    from cardionets_core.privacy.population import outgrown
    from cardionets_core.privacy.schedule import quoted

    spent = ledger.epsilon()
    lines: list[RenderableType] = [*_spent_of_budget(ledger, spent), _spent_table(ledger)]
    lines.append(Text(COUNTED))
    if ledger.charges:
        quote = quoted(ledger.charges, ledger.delta)
        lines.append(
            Text(f"By PRV {quote.prv:.3f}: to be quoted only if all of it stood before round 1.")
            if quote.prv is not None
            else Text(f"No figure by PRV: {quote.why}.")
        )
    lines += _allowed(ledger)
    if max(ledger.budget, spent) >= LARGE_EPSILON:
        lines.append(Text(f"From epsilon {LARGE_EPSILON:g} on nothing is said of who took part."))
    lines += _patients_told(ledger, declared)
    too_large = outgrown(ledger.path, ledger.delta)
    if too_large:
        lines.append(Text(too_large, style="red"))
    newest = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ledger.written))
    lines.append(
        Text(f"{ledger.path}: {ledger.entries} entries, newest of {newest}\nhead {ledger.head}")
    )
    return Group(*lines)


def _spent_of_budget(ledger: Ledger, spent: float) -> list[RenderableType]:
    """Return what is counted of the budget that is in force, after what stops every task."""
    budget = min(ledger.budget, ledger.recorded)
    share = min(1.0, spent / budget)
    colour = "green" if share < 0.7 else "yellow" if share < 1 else "red"
    counted = Text.assemble(
        ("counted ", "bold"),
        (f"{spent:.3f}", f"bold {colour}"),
        f" of epsilon {budget:g} at delta {ledger.delta:g}; {max(0.0, budget - spent):.3f} not "
        "yet used",
    )
    bar = ProgressBar(total=1.0, completed=share, width=BAR_WIDTH, complete_style=colour)
    too_much = ledger.above_recorded()
    if not too_much:
        return [counted, bar]
    return [Text(f"Every private task is refused: {too_much}", style="bold red"), counted, bar]


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
    from cardionets_core.privacy.population import known
    from client.checks.budget import is_far_off

    there = known(ledger.path)
    if there is None:
        told = f"{ledger.path}.patients is missing: every private task is refused. Put back the "
        return [Text(f"{told}newest backup of the ledger's three files.", style="red")]
    told = f"patients: {declared:,} declared, {there:,} known to the ledger"
    if declared != ledger.declared:
        told += f"; {ledger.declared:,} were declared when it was made"
    if not is_far_off(declared, there):
        return [Text(told)]
    told += ". Steps are divided and updates weighed by the declared number: correct "
    return [Text(f"{told}privacy.patients if it is a slip.", style="yellow")]


def _spent_table(ledger: Ledger) -> Table:
    """Return one row for each run, stage and kind of task, in the order of their first charge."""
    from cardionets_core.privacy.accounting import epsilon_rdp

    table = Table(
        "run", "stage", "for", "tasks", "steps", "noise", "rate", "epsilon alone",
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
            f"{epsilon_rdp(charges, ledger.delta):.3f}",
        )  # fmt: skip
    if not groups:
        table.add_row("nothing is charged yet")
    return table


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.4g}" if low == high else f"{low:.4g}-{high:.4g}"
