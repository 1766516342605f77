"""`cardionets-site budget plan`: the noise that a run, or stages named by hand, need."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cardionets_core.cli import told_plainly
from cardionets_core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from cardionets_core.privacy.noise_plan import NoisePlan, StageNeed
    from cardionets_core.privacy.planning import Allowance
    from cardionets_core.run_config import RunConfig

console = Console()
if not console.is_terminal:
    console = Console(width=140)  # a log file has no edge, and ten columns need room

USUAL_BATCH, USUAL_EPOCHS = 256, 50.0

FEW = (9, 3)
"""Numbers of phenotypes and diseases of which an evaluation's errors are told beside the run's."""

ALONE = "training"
"""Name of a stage that was not named."""

MOST = 10**9
"""Patients of a hospital, at most: a number with more digits is a slip."""


@dataclass(frozen=True)
class _Asked:
    """What a person typed of a plan; None where nothing was."""

    run: tuple[str, ...]
    stages: tuple[str, ...]
    batch: int | None
    epochs: float | None
    releases: bool


@dataclass(frozen=True)
class _Found:
    """The run that is planned, its plan, and the noise that was found for it.

    `init` has the run's words for `budget init`; None where the site has a ledger.
    """

    config: RunConfig
    plan: NoisePlan
    noise: float
    init: tuple[str, ...] | None


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

    asked = _Asked(tuple(run or ()), tuple(stage or ()), batch, epochs, releases)
    budget = BudgetAsked(patients, epsilon, delta)
    with told_plainly(), console.status("planning") as status:
        if not (math.isfinite(weights) and weights >= 0):
            raise ConfigError(f"--weights is {weights}; name a number, for instance 5e6.")
        site = None if config is None else load_site_config(config, overrides or ())
        found = _found(asked, allowance(budget, None if site is None else site.privacy))
        if site is not None:
            count, small = found.plan.patients, found.plan.delta
            planned = replace(site, privacy=replace(site.privacy, patients=count, delta=small))
            require_admitted(with_noise(found.config, found.noise), planned, releases=releases)
        status.update("planning: the tighter accountant")
        lines = _lines(found, releases=releases) + _left_out(found)
        console.print(_table(found, round(weights)), *(Text(line) for line in lines), sep="\n")
        console.print(Text(f"hand over  {_handed(found, asked)}"), soft_wrap=True)
        if no_plot:
            return
        _draw(found, plot, told=status.update)
    console.print(f"plot       {plot}", soft_wrap=True)


# ------------------------------------------------------------------------------- what is planned


def _found(asked: _Asked, allowed: Allowance) -> _Found:
    """Solve for the noise of what was asked."""
    from cardionets_core.privacy.noise_plan import StageNeed
    from cardionets_core.privacy.plan import check_private_plan
    from cardionets_core.privacy.planning import plan_of, run_to_plan, with_noise, with_stages

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
    plan = _at_an_order(plan_of(config, allowed, *more, releases=asked.releases), asked)
    noise = plan.noise()
    check_private_plan(with_noise(config, noise))
    return _Found(config, plan, noise, None if allowed.order else _words_of(asked, config))


def _at_an_order(plan: NoisePlan, asked: _Asked) -> NoisePlan:
    """Return the plan at the order of its ledger, or at the one that `budget init` would fix."""
    from cardionets_core.privacy.order import usual_order

    if plan.order is not None:
        return plan
    is_run = asked.run or asked.stages
    return replace(
        plan, order=plan.best_order() if is_run else usual_order(plan.epsilon, plan.delta)
    )


def _check_words(asked: _Asked) -> None:
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


# ----------------------------------------------------------------------------------- what is told


def _table(found: _Found, weights: int) -> RenderableType:
    table = Table(
        "stage", "epochs", "batch", "rate", "steps", "clipped", "noise", "std of the sum",
        *(("noise / signal",) if weights else ()),
        box=None, pad_edge=False, header_style="dim",
    )  # fmt: skip
    for column in (*table.columns[1:5], *table.columns[6:]):
        column.justify = "right"
    for stage in found.plan.stages:
        table.add_row(*_cells(stage, found, weights))
    for name, charge in found.plan.kept:
        table.add_row(
            name, "", "", f"{charge.rate:.4g}", f"{charge.steps:,}",
            "sums" if charge.rate == 1 else "patient", f"{charge.noise:g}",
        )  # fmt: skip
    return table


def _cells(stage: StageNeed, found: _Found, weights: int) -> tuple[str | Text, ...]:
    patients, noise = found.plan.patients, found.noise
    each = f" ({stage.members} x {stage.steps:,})" if stage.members > 1 else ""
    cells: tuple[str | Text, ...] = (
        stage.name,
        f"{stage.epochs:.3g}",
        f"{stage.batch(patients):,.4g}",
        f"{stage.rate:.4g}",
        f"{stage.charged:,}{each}",
        f"bucket of {stage.bucket}" if stage.bucket else "patient",
        f"{noise:g}",
        f"{noise * stage.sensitivity:.4g} C",
    )
    return (*cells, _ratio(stage.noise_to_signal(noise, patients, weights))) if weights else cells


def _ratio(value: float) -> Text:
    from cardionets_core.privacy.noise_plan import COMFORTABLE, HOPELESS

    style = "green" if value < COMFORTABLE else "red" if value > HOPELESS else "yellow"
    return Text(f"{value:.2g}", style=style)


def _words_of(asked: _Asked, config: RunConfig) -> tuple[str, ...]:
    """Return the overrides of the run that is planned; none for a stage without a run."""
    from cardionets_core.privacy.planning import run_words, words_of_stages

    if asked.stages:
        return words_of_stages(asked.run, config)
    return run_words(asked.run) if asked.run else ()


def _order_line(found: _Found) -> str:
    """Return at which order the plan is charged, and what fixes it."""
    from cardionets_core.privacy.order import usual_order

    plan, order = found.plan, f"order {found.plan.order:g}"
    if found.init is None:
        return f"{order} is the ledger's, and stays"
    if not found.init:
        return f"{order} is what `cardionets-site budget init` fixes for this budget without a run"
    words = shlex.join(w for word in found.init for w in ("--run", word))
    usual = usual_order(plan.epsilon, plan.delta)
    told = f"{order} is what `cardionets-site budget init {words}` fixes"
    if usual == plan.order:
        return told
    return f"{told}; a ledger made without a run has {usual:g}, and needs {_noise_at(plan, usual)}"


def _noise_at(plan: NoisePlan, order: float) -> str:
    try:
        return f"noise {replace(plan, order=order).noise():g}"
    except ConfigError:
        return "a larger budget"


def _left_out(found: _Found) -> list[str]:
    """Return the stages that this site takes no part in, and another one may have to pay."""
    from cardionets_core.training.stages import STAGES

    there = {stage.name for stage in found.plan.stages} | {name for name, _ in found.plan.kept}
    missing = [name for name in found.config.stages if name in STAGES and name not in there]
    if not missing:
        return []
    return [
        f"left out: {', '.join(missing)}, for which this site declares no records; a hospital that "
        "does pays for them, too, and may need more noise"
    ]


def _lines(found: _Found, *, releases: bool) -> list[str]:
    plan, noise = found.plan, found.noise
    lines = [
        f"{plan.patients:,} patients, budget epsilon {plan.epsilon:g} at delta {plan.delta:g}; "
        "add or remove one patient",
        f"noise {noise:g} for every stage: {plan.quote(noise).words()}. The ledger's gate is RDP; "
        "PRV is to be quoted if all of it stands before round 1",
        _order_line(found),
    ]
    if plan.spent:
        lines.append(f"of it {plan.cost(plan.spent):.3f} is counted already")
    if plan.kept:
        lines.append(
            f"of it {plan.epsilon_before():.3f} goes to sums and stages with a noise of their own"
            + (", with what is counted already" if plan.spent else "")
        )
    lines.append(
        f"noise {noise:g} is the site's privacy.min_noise; the budget would do with less"
        if noise == plan.least
        else "the whole budget is planned: a round that is charged again after a crash would end "
        "the run (privacy_spent); plan with a smaller --epsilon to leave room"
    )
    if not releases:
        lines.append("without the sums of handshake and evaluation, which a run charges, too")
    if any(name == "evaluate" for name, _ in plan.kept):
        lines.append(_metrics_line(found))
    return lines


def _metrics_line(found: _Found) -> str:
    """Return what the noise of the releases leaves of an evaluation of this hospital alone."""
    from cardionets_core.privacy.expected_errors import errors_of_site

    noise, told = found.config.privacy.evaluation_noise, []
    own = (len(found.config.phenotypes), len(found.config.diseases))
    for what, (phenotypes, diseases) in (("this run's", own), ("with only", FEW)):
        errors = errors_of_site(
            noise=noise, declared=found.plan.patients, phenotypes=phenotypes, diseases=diseases
        )
        lost = f" (no usable {' or '.join(errors.unusable)})" if errors.unusable else ""
        asked = f"{what} {phenotypes} phenotypes and {diseases} diseases"
        told.append(f"{errors.words()}, {asked}{lost}")
    return f"an evaluation with evaluation_noise {noise:g} has {'; '.join(told)}"


def _handed(found: _Found, asked: _Asked) -> str:
    """Return what the coordinator is to type so that the run costs what was planned, at most."""
    last = ("privacy.mode=patient", f"privacy.noise={found.noise}")
    steps = ", ".join(f"{s.name} {s.steps:,}" for s in found.plan.stages)
    if not asked.run and not asked.stages:
        rates = [f"privacy.rate={s.rate}" for s in found.plan.stages]
        return f"{shlex.join([*last, *rates])}, with rounds x max_steps: {steps}"
    words = _words_of(asked, found.config)
    run = f"cardionets-coordinator run {shlex.join([*words, *last])}"
    if not asked.releases:
        run += f" (with the sums it costs more than epsilon {found.plan.epsilon:g})"
    elif asked.stages:
        run += f" (rounds and max_steps may be others, with rounds x max_steps: {steps})"
    return run


def _draw(found: _Found, plot: Path, *, told: Callable[[str], None]) -> None:
    from client.budget_picture import plan_picture

    picture = plan_picture(found.plan, found.noise, told=told)
    try:
        plot.write_bytes(picture)
    except OSError as error:
        raise ConfigError(
            f"The picture cannot be written to {plot} ({error.strerror}); name another file with "
            "--plot. The plan above stands."
        ) from None
