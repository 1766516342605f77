"""`cardionets-site budget plan`: the noise that a run, or stages named by hand, need."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from cardionets_core.cli import told_plainly, wide_console
from cardionets_core.errors import ConfigError
from cardionets_core.privacy_config import LARGE_EPSILON
from client.budget_plan_told import (
    Asked,
    Found,
    command,
    handed,
    left_out,
    lines_of,
    table_of,
    words_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from cardionets_core.privacy.noise_plan import NoisePlan
    from cardionets_core.privacy.planning import Allowance
    from cardionets_core.site_config import SiteConfig

console = wide_console(140)
"""Of all commands of `budget`: ten columns need room."""

USUAL_BATCH, USUAL_EPOCHS = 256, 50.0

ALONE = "training"
"""Name of a stage that was not named."""

MOST = 10**9
"""Patients of a hospital, at most: a number with more digits is a slip."""


def plan(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Hydra overrides of the site's YAML (--config).", show_default=False),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Take patients, budget, limits and what is counted from this site."),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            help="Override of the coordinator's run, e.g. plan=private; repeat it. All stages of "
            "the run are planned, with one noise.",
            show_default=False,
        ),
    ] = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=EPOCHS[,batch=N][,bucket=S] in place of the run's stages; repeat it.",
            show_default=False,
        ),
    ] = None,
    patients: Annotated[
        int | None, typer.Option(max=MOST, help="Declared number of patients.")
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Budget of all runs; default 8, or the site's.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Default min(1e-5, 1/(10 n)), or the site's.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Expected patients in a step; default 256.")
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Of one stage, without --run and --stage; default 50.")
    ] = None,
    releases: Annotated[
        bool, typer.Option(help="Charge the sums of handshake and evaluation, as a run does.")
    ] = True,
    weights: Annotated[
        float, typer.Option(help="Trainable weights, for noise to signal; e.g. 5e6.")
    ] = 0.0,
    plot: Annotated[Path, typer.Option(help="The picture to write.")] = Path("budget_plan.png"),
    no_plot: Annotated[
        bool, typer.Option("--no-plot", help="Draw none: it takes longest.")
    ] = False,
) -> None:
    """Say how much noise a training needs for a budget, and draw what it spends."""
    from cardionets_core.privacy.planning import with_noise
    from cardionets_core.site_config import load_site_config
    from client.budget_allowance import BudgetAsked, allowance
    from client.budget_gate import require_admitted

    asked = Asked(tuple(run or ()), tuple(stage or ()), batch, epochs, releases)
    budget = BudgetAsked(patients, epsilon, delta)
    with told_plainly(), console.status("planning") as status:
        if not (math.isfinite(weights) and weights >= 0):
            raise ConfigError(f"--weights is {weights}; name a number, for instance 5e6.")
        site = None if config is None else load_site_config(config, overrides or ())
        found = _found(asked, allowance(budget, site))
        if site is None:
            _check_profile(found)
        else:
            count, small = found.plan.patients, found.plan.delta
            site = replace(site, privacy=replace(site.privacy, patients=count, delta=small))
            require_admitted(with_noise(found.config, found.noise), site, releases=releases)
        status.update("planning: the tighter accountant")
        fits = found.is_run and _tell_unchanged(found, asked, site)
        lines = lines_of(found, releases=releases) + left_out(found)
        console.print(table_of(found, round(weights)), *(Text(line) for line in lines), sep="\n")
        label = "all of it " if fits else "hand over "
        console.print(Text(f"{label} {handed(found, asked)}"), soft_wrap=True)
        if no_plot:
            return
        _draw(found, plot, told=status.update)
    console.print(f"plot       {plot}", soft_wrap=True)


def _tell_unchanged(found: Found, asked: Asked, site: SiteConfig | None) -> bool:
    """Say first what a run costs as it stands; return whether it fits, and so is to be handed over.

    Args:
        found: the run and its plan.
        asked: what was typed.
        site: the hospital, or None.
    """
    from client.budget_unchanged import handed_unchanged, to_fill_in, unchanged

    as_it_is = unchanged(found.config, found.plan, site)
    console.print(Text(as_it_is.words(), style="bold"))
    words = handed_unchanged(asked.run)
    if as_it_is.fits:
        console.print(Text(f"hand over  {command(words)}"), soft_wrap=True)
    if to_fill_in(words):
        console.print(Text(to_fill_in(words)))
    console.print()
    return as_it_is.fits


# ------------------------------------------------------------------------------- what is planned


def _found(asked: Asked, allowed: Allowance) -> Found:
    """Solve for the noise of what was asked."""
    from cardionets_core.privacy.noise_plan import StageNeed
    from cardionets_core.privacy.plan import check_private_plan
    from cardionets_core.privacy.planning import plan_of, run_to_plan, with_noise, with_stages
    from client.budget_unchanged import why_not_at_all

    _check_words(asked)
    more: tuple[StageNeed, ...] = ()
    config = run_to_plan(asked.run)
    batch = USUAL_BATCH if asked.batch is None else asked.batch
    if asked.stages:
        config = with_stages(config, asked.stages, patients=allowed.patients, batch=batch)
    elif not asked.run:
        epochs = USUAL_EPOCHS if asked.epochs is None else asked.epochs
        config = replace(config, stages=("handshake", "evaluate"))
        more = (StageNeed.of_epochs(ALONE, epochs, batch=batch, patients=allowed.patients),)
    plan = plan_of(config, allowed, *more, releases=asked.releases)
    try:
        plan = _at_an_order(plan, asked)
        noise = plan.noise()
    except ConfigError as error:
        raise (why_not_at_all(config, plan, error) if asked.run else error) from None
    check_private_plan(with_noise(config, noise))
    init = None if allowed.order else words_of(asked, config)
    return Found(config, plan, noise, bool(asked.run and not asked.stages), init)


def _check_profile(found: Found) -> None:
    """Refuse to plan what every hospital of such a budget refuses."""
    profile, epsilon = found.config.privacy.profile, found.plan.epsilon
    if profile == "membership" or epsilon >= LARGE_EPSILON:
        return
    raise ConfigError(
        f"privacy.profile={profile}: hospitals whose privacy.epsilon is below "
        f"{LARGE_EPSILON:g} refuse such a plan, and it is asked for epsilon {epsilon:g}. "
        f"Plan with --epsilon {LARGE_EPSILON * 1.5:g}, if that is meant, or another run, for "
        "example --run plan=private."
    )


def _at_an_order(plan: NoisePlan, asked: Asked) -> NoisePlan:
    """Return the plan at the order of its ledger, or at the one that `budget init` would fix."""
    from cardionets_core.privacy.order import usual_order

    if plan.order is not None:
        return plan
    is_run = asked.run or asked.stages
    return replace(
        plan, order=plan.best_order() if is_run else usual_order(plan.epsilon, plan.delta)
    )


def _check_words(asked: Asked) -> None:
    """Refuse an option that would do nothing."""
    if asked.epochs is not None and (asked.run or asked.stages):
        raise ConfigError(
            "--epochs is of one stage without --run and --stage. Write --stage NAME=EPOCHS, or "
            "--run stage.NAME.rounds=N."
        )
    if asked.batch is not None and asked.run and not asked.stages:
        raise ConfigError(
            "--batch is of --stage; a run samples by its rate. Write --run privacy.rate=0.05."
        )


def _draw(found: Found, plot: Path, *, told: Callable[[str], None]) -> None:
    from client.budget_picture import plan_picture

    picture = plan_picture(found.plan, found.noise, told=told)
    try:
        plot.write_bytes(picture)
    except OSError as error:
        raise ConfigError(
            f"The picture cannot be written to {plot} ({error.strerror}); name another file with "
            "--plot. The plan above stands."
        ) from None
