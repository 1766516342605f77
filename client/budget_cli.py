"""`cardionets-site budget`: the privacy budget of a hospital, made, shown, raised and planned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cardionets_core.cli import told_plainly
from cardionets_core.privacy.accounting import Charge
from cardionets_core.privacy.ledger_entries import counted
from cardionets_core.privacy_config import LARGE_EPSILON
from cardionets_core.site_config import load_site_config
from client import budget_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cardionets_core.privacy.ledger import Ledger
    from cardionets_core.privacy_config import SitePrivacy
    from cardionets_core.site_config import SiteConfig

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="The privacy budget of this hospital's patients: make it, look at it, plan with it.",
)
console = budget_plan.console

Config = Annotated[Path, typer.Option(help="The site's YAML, with its section `privacy`.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Hydra overrides, e.g. privacy.epsilon=3", show_default=False),
]

Run = Annotated[
    list[str] | None,
    typer.Option(
        help="Override of the run that this ledger is made for, e.g. plan=private; repeat it. Its "
        "order is then the best one for that run.",
        show_default=False,
    ),
]

SUMS = (Charge(1.0, 1.0, 1),)
"""What a raised budget is judged by where nothing is charged yet; all sums are alike in this."""


@app.command()
def init(config: Config, overrides: Overrides = None, run: Run = None) -> None:
    """Make the one ledger of this hospital's patients, with the budget of the YAML."""
    from cardionets_core.privacy.new_ledger import init_ledger
    from cardionets_core.privacy.order import usual_order

    with told_plainly():
        site = load_site_config(config, overrides or ())
        patients, settings = _patients(site), site.privacy
        usual = usual_order(settings.epsilon, settings.delta)
        order = _order_for(run, settings) if run else usual
        head = init_ledger(
            settings,
            patients=patients,
            salt=site.data.salt,
            order=order,
            claim_folder=Path(site.data.cache),
            table=Path(site.data.manifest),
        )
    best = "the best for this run" if run else "the usual one; --run fixes the best for a run"
    lines = (
        ("ledger", f"{settings.ledger} (with .head and .patients)"),
        ("patients", f"{len(patients):,} in the table; {settings.patients:,} declared"),
        ("budget", f"epsilon {settings.epsilon:g} at delta {settings.delta:g}"),
        ("order", f"{order:g}, of Renyi DP, for all that will be charged: {best}"),
        ("head", head),
    )
    for name, value in lines:
        typer.echo(f"{name:10} {value}")
    _tell_large(settings.epsilon)
    typer.echo(
        "\nBack up the three files together, and never put back an old copy: what was spent since "
        "would be forgotten. The coordinator keeps the newest head and notices."
    )


def _order_for(run: Sequence[str], settings: SitePrivacy) -> float:
    """Return the best order for a run of this hospital that takes the whole budget.

    Raises:
        ConfigError: no noise makes the run fit, or it is none.
    """
    from cardionets_core.privacy.planning import plan_of, run_to_plan
    from client.budget_allowance import stated

    return plan_of(run_to_plan(run), stated(settings)).best_order()


@app.command()
def show(config: Config, overrides: Overrides = None) -> None:
    """Print what is counted of the budget, by run and stage."""
    from client.budget_shown import shown
    from client.budget_standing import refusals, to_look_at

    with told_plainly():
        site = load_site_config(config, overrides or ())
        with to_look_at(site) as ledger:
            refused = refusals(ledger, site)
            told = shown(ledger, site.privacy.patients, refused)
    console.print(told)
    if refused:
        raise typer.Exit(2)


@app.command("raise")
def raise_budget(
    config: Config,
    epsilon: Annotated[float, typer.Option(min=0, help="The new budget of all runs together.")],
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing, also for a large one.")] = False,
) -> None:
    """Record a larger budget: an act of the hospital, kept in the ledger for good."""
    from client.budget_standing import require_whole, to_look_at

    with told_plainly():
        site = load_site_config(config)
        with to_look_at(site) as ledger:
            require_whole(ledger, site)
            ledger.check_raise(epsilon)
            before = ledger.recorded
            order, promised = _order_kept(ledger, epsilon), _promised(ledger)
    typer.echo(f"budget     epsilon {before:g} -> {epsilon:g}")
    typer.echo(f"order      {order}")
    typer.echo(f"promised   {promised}")
    _tell_large(epsilon)
    if epsilon >= LARGE_EPSILON and not yes:
        _ask_to_record(epsilon)  # while the ledger is free: a task may need it
    with told_plainly(), to_look_at(site) as ledger:
        require_whole(ledger, site)
        ledger.raise_budget(epsilon)
    typer.echo(f"recorded   epsilon {epsilon:g}: the ledger allows as much from now on, for good")
    if site.privacy.epsilon < epsilon:
        typer.echo(f"in force   epsilon {site.privacy.epsilon:g}, as privacy.epsilon in {config}")


def _order_kept(ledger: Ledger, epsilon: float) -> str:
    """Return what a larger budget loses by the order that was fixed for a smaller one."""
    from cardionets_core.privacy.order import share_of_best

    kind = ledger.charges or SUMS
    best, share = share_of_best(kind, epsilon=epsilon, delta=ledger.delta, order=ledger.order)
    stays = f"{ledger.order:g} stays, as it was fixed for epsilon {ledger.terms.epsilon:g}"
    what = "what is charged so far" if ledger.charges else "sums over all patients"
    return f"{stays}: of {what}, {share:.0%} of what order {best:g} would let in fits"


def _promised(ledger: Ledger) -> str:
    """Return what a raise does to what was promised."""
    if not ledger.charges:
        return "the new budget: nothing is charged yet, so it is fixed beforehand"
    return (
        f"epsilon {ledger.promised:g}, which stood before the first charge: what is spent beyond "
        "it was promised to nobody, where results led to the raise (docs/privacy.md)"
    )


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
    from client.budget_standing import require_whole, to_look_at

    with told_plainly():
        site = load_site_config(config)
        with to_look_at(site) as ledger:
            require_whole(ledger, site)
            ledger.accept_clock()
            head, entries = ledger.head, counted(ledger.entries)
    typer.echo(f"accepted   {entries}, head {head}")


app.command("plan")(budget_plan.plan)


def _patients(site: SiteConfig) -> list[str]:
    """Return the ids of all patients of a site's table."""
    from cardionets_core.data.manifest import read_manifest

    manifest = read_manifest(Path(site.data.manifest), Path(site.data.root), check_files=False)
    return [str(patient) for patient in manifest.table["patient_id"].unique()]
