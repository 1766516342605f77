"""`cardionets-site budget`: the privacy budget of a hospital, made, shown, raised and planned."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cardionets_core.cli import told_plainly
from cardionets_core.errors import ConfigError
from cardionets_core.privacy_config import LARGE_EPSILON, PrivacyRequest
from cardionets_core.site_config import load_site_config

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from cardionets_core.privacy.accounting import Charge
    from cardionets_core.privacy.ledger import Item, Ledger
    from cardionets_core.privacy.noise_plan import NoisePlan
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
    """Print what is spent and left, by run and stage."""
    from cardionets_core.privacy.ledger import Ledger

    with told_plainly():
        site = load_site_config(config, overrides or ())
        with Ledger.read(site.privacy) as ledger:
            shown = _shown(ledger)
    console.print(shown)


@app.command("raise")
def raise_budget(
    config: Config,
    epsilon: Annotated[float, typer.Option(min=0, help="The new budget of all runs together.")],
) -> None:
    """Record a larger budget: an act of the hospital, kept in the ledger for good."""
    from cardionets_core.privacy.ledger import Ledger

    with told_plainly():
        site = load_site_config(config)
        with Ledger.read(site.privacy) as ledger:
            before = ledger.recorded
            ledger.raise_budget(epsilon)
    typer.echo(f"recorded   epsilon {epsilon:g} (before: {before:g})")
    _tell_large(epsilon)
    if site.privacy.epsilon < epsilon:
        typer.echo(f"in force   epsilon {site.privacy.epsilon:g}, as privacy.epsilon in {config}")


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


@dataclass(frozen=True)
class _Budget:
    """What a plan may spend, from the flags or from the site's own ledger."""

    patients: int
    epsilon: float
    delta: float
    before: tuple[Charge, ...]


@app.command()
def plan(
    overrides: Overrides = None,
    config: Annotated[
        Path | None, typer.Option(help="Take patients, budget and what is spent from this site.")
    ] = None,
    patients: Annotated[int, typer.Option(min=0, help="Declared number of patients.")] = 0,
    epsilon: Annotated[float, typer.Option(min=0, help="Budget; default 8, or the site's.")] = 0.0,
    delta: Annotated[float, typer.Option(min=0, help="Default min(1e-5, 1/(10 n)).")] = 0.0,
    batch: Annotated[int, typer.Option(min=1, help="Expected patients in a step.")] = 256,
    epochs: Annotated[float, typer.Option(min=0, help="Of the only stage.")] = 50.0,
    stage: Annotated[
        list[str] | None,
        typer.Option(help="NAME=EPOCHS[,batch=N][,bucket=S]; repeat it.", show_default=False),
    ] = None,
    releases: Annotated[
        int, typer.Option(min=0, help="Private sums: 1 in the handshake, 2 in an evaluation.")
    ] = 0,
    release_noise: Annotated[
        float, typer.Option(help="Noise multiplier of each.")
    ] = PrivacyRequest.evaluation_noise,
    weights: Annotated[
        float, typer.Option(min=0, help="Trainable weights, for noise to signal; e.g. 5e6.")
    ] = 0.0,
    plot: Annotated[Path, typer.Option(help="The picture to write.")] = Path("budget_plan.png"),
) -> None:
    """Say how much noise a training needs for a budget, and draw what it spends."""
    from cardionets_core.privacy.accounting import Charge
    from cardionets_core.privacy.noise_plan import NoisePlan, stage_needs, usual_delta
    from client.budget_picture import plan_picture

    with told_plainly(), console.status("planning") as status:
        budget = _site_budget(config, overrides or ()) if config else None
        if budget is None and not patients:
            raise ConfigError("A plan needs --patients, or --config of a site that declares them.")
        number = patients or (budget.patients if budget else 0)
        before = budget.before if budget else ()
        if releases:
            before = (*before, Charge(release_noise, 1.0, releases))
        made = NoisePlan(
            patients=number,
            epsilon=epsilon or (budget.epsilon if budget else 8.0),
            delta=delta or (budget.delta if budget else usual_delta(number)),
            stages=stage_needs(stage or (), epochs=epochs, batch=batch),
            before=before,
        )
        noise = made.noise()
        status.update("planning: the tighter accountant")
        table = _plan_table(made, noise, round(weights))
        plot.write_bytes(plan_picture(made, noise, told=status.update))
    console.print(table)
    console.print(f"plot       {plot}", soft_wrap=True)


def _site_budget(config: Path, overrides: Sequence[str]) -> _Budget:
    """Return what a site declares and has spent; a ledger that is not made yet holds nothing."""
    from cardionets_core.privacy.ledger import Ledger

    settings = load_site_config(config, overrides).privacy
    before: tuple[Charge, ...] = ()
    if settings.ledger and Path(settings.ledger).exists():
        with Ledger.read(settings) as ledger:
            before = ledger.charges
    return _Budget(settings.patients, settings.epsilon, settings.delta, before)


def _patients(site: SiteConfig) -> list[str]:
    """Return the ids of all patients of a site's table."""
    from cardionets_core.data.manifest import read_manifest

    manifest = read_manifest(Path(site.data.manifest), Path(site.data.root), check_files=False)
    return [str(patient) for patient in manifest.table["patient_id"].unique()]


# ------------------------------------------------------------------------------------------ show


def _shown(ledger: Ledger) -> RenderableType:
    from cardionets_core.privacy.schedule import quoted

    spent = ledger.epsilon()
    share = min(1.0, spent / ledger.budget)
    colour = "green" if share < 0.7 else "yellow" if share < 1 else "red"
    bar = ProgressBar(total=1.0, completed=share, width=BAR_WIDTH, complete_style=colour)
    left = max(0.0, ledger.budget - spent)
    first = Text.assemble(
        ("spent ", "bold"),
        (f"{spent:.3f}", f"bold {colour}"),
        f" of epsilon {ledger.budget:g} at delta {ledger.delta:g}; left {left:.3f}",
    )
    lines: list[RenderableType] = [first, bar, _spent_table(ledger)]
    if ledger.charges:
        quote = quoted(ledger.charges, ledger.delta)
        lines.append(
            Text(f"By PRV {quote.prv:.3f}: to be quoted only if all of it stood before round 1.")
            if quote.prv is not None
            else Text(f"No figure by PRV: {quote.why}.")
        )
    if max(ledger.budget, spent) >= LARGE_EPSILON:
        lines.append(Text(f"From epsilon {LARGE_EPSILON:g} on nothing is said of who took part."))
    if ledger.budget > ledger.recorded:
        lines.append(Text(_above_recorded(ledger), style="red"))
    newest = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ledger.written))
    lines.append(
        Text(f"{ledger.path}: {ledger.entries} entries, newest of {newest}\nhead {ledger.head}")
    )
    return Group(*lines)


def _above_recorded(ledger: Ledger) -> str:
    return (
        f"privacy.epsilon is {ledger.budget:g}, but the ledger records {ledger.recorded:g}: every "
        "private task is refused until one of the two changes (`budget raise`)."
    )


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
        table.add_row("nothing is spent yet")
    return table


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.4g}" if low == high else f"{low:.4g}-{high:.4g}"


# ------------------------------------------------------------------------------------------ plan


def _plan_table(plan: NoisePlan, noise: float, weights: int) -> RenderableType:
    table = Table(
        "stage", "epochs", "batch", "rate", "steps", "clipped", "noise", "std of the sum",
        *(("noise / signal",) if weights else ()),
        box=None, pad_edge=False, header_style="dim",
    )  # fmt: skip
    for column in (*table.columns[1:5], *table.columns[6:]):
        column.justify = "right"
    for stage in plan.stages:
        steps = stage.steps(plan.patients)
        table.add_row(
            stage.name, f"{stage.epochs:g}", f"{stage.batch:,}",
            f"{stage.rate(plan.patients):.4g}", f"{steps:,}",
            f"bucket of {stage.bucket}" if stage.bucket else "patient", f"{noise:g}",
            f"{noise * stage.sensitivity:.4g} C",
            *([_ratio(stage.noise_to_signal(noise, plan.patients, weights))] if weights else []),
        )  # fmt: skip
    return Group(table, *(Text(line) for line in _plan_lines(plan, noise)))


def _ratio(value: float) -> Text:
    from cardionets_core.privacy.noise_plan import COMFORTABLE, HOPELESS

    style = "green" if value < COMFORTABLE else "red" if value > HOPELESS else "yellow"
    return Text(f"{value:.2g}", style=style)


def _plan_lines(plan: NoisePlan, noise: float) -> list[str]:
    before = plan.spent_before()
    lines = [
        f"{plan.patients:,} patients, budget epsilon {plan.epsilon:g} at delta {plan.delta:g}; "
        "add or remove one patient",
        f"noise {noise:g} for every stage: epsilon {plan.spent(noise):.3f} by RDP (the ledger's "
        f"gate), {plan.spent(noise, 'prv'):.3f} by PRV (to be quoted if all of it stands before "
        "round 1)",
    ]
    if plan.before:
        lines.insert(1, f"of it {before:.3f} is spent, or kept for releases, before these stages")
    return lines
