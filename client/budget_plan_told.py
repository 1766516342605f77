"""What `cardionets-site budget plan` prints: the plan, its order, and what to hand over."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from cardionets_core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from cardionets_core.privacy.noise_plan import NoisePlan, StageNeed
    from cardionets_core.run_config import RunConfig

FEW = (9, 3)
"""Numbers of phenotypes and diseases of which an evaluation's errors are told beside the run's."""


@dataclass(frozen=True)
class Asked:
    """What a person typed of a plan; None where nothing was."""

    run: tuple[str, ...]
    stages: tuple[str, ...]
    batch: int | None
    epochs: float | None
    releases: bool


@dataclass(frozen=True)
class Found:
    """The run that is planned, its plan, and the noise that was found for it.

    Attributes:
        config: the run.
        plan: what it takes.
        noise: that takes the whole budget, or the least that the site lets in.
        is_run: whether it is a run as it stands, and not stages that were named by hand.
        init: the run's words for `budget init`; None where the site has a ledger.
    """

    config: RunConfig
    plan: NoisePlan
    noise: float
    is_run: bool
    init: tuple[str, ...] | None


def table_of(found: Found, weights: int) -> RenderableType:
    """Return what each stage takes and is charged; with `weights`, noise to signal, too."""
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


def _cells(stage: StageNeed, found: Found, weights: int) -> tuple[str | Text, ...]:
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


def words_of(asked: Asked, config: RunConfig) -> tuple[str, ...]:
    """Return the overrides of the run that is planned; none for a stage without a run."""
    from cardionets_core.privacy.planning import run_words, words_of_stages

    if asked.stages:
        return words_of_stages(asked.run, config)
    return run_words(asked.run) if asked.run else ()


def _order_line(found: Found) -> str:
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


def left_out(found: Found) -> list[str]:
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


def lines_of(found: Found, *, releases: bool) -> list[str]:
    """Return what is said below the table: budget, order, what goes to sums, and what is left."""
    plan, noise = found.plan, found.noise
    lines = [
        f"{plan.patients:,} patients, budget epsilon {plan.epsilon:g} at delta {plan.delta:g}; "
        "add or remove one patient",
        f"noise {noise:g} for every stage{_beside_the_run(found)}: {_cost_of(found)}",
        _order_line(found),
    ]
    lines += _parts(plan)
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


def _parts(plan: NoisePlan) -> list[str]:
    """Return what of the budget is no matter of the noise; at one order the parts add up."""
    from cardionets_core.privacy.order import added, first_charge

    assert plan.order is not None  # of a ledger, or of the one that would be made
    lines = [
        f"of it {plan.cost(plan.spent):.3f} is counted already"
        if plan.spent
        else f"of it {first_charge(plan.delta, plan.order):.3f} is counted with the first charge, "
        "whatever it is"
    ]
    if plan.kept:
        sums = added((charge for _, charge in plan.kept), plan.order)
        lines.append(f"of it {sums:.3f} goes to sums and stages with a noise of their own")
    return lines


def _beside_the_run(found: Found) -> str:
    """Return what the noise is beside that of the run: the budget alone says nothing of it."""
    whole = "" if found.noise == found.plan.least else " takes the whole budget"
    own = found.config.privacy.noise
    if not found.is_run or own == found.noise:
        return whole
    more = "less" if found.noise < own else "more"
    return f"{whole}, with {more} privacy than the plan's noise {own:g}"


def _cost_of(found: Found) -> str:
    """Return what all of it costs; PRV only where nothing is counted: all must stand beforehand."""
    plan, noise = found.plan, found.noise
    if plan.spent:
        cost = plan.cost((*plan.before, *plan.charges(noise)))
        return f"epsilon {cost:.2f} by RDP at order {plan.order:g}, which is the ledger's gate"
    return (
        f"{plan.quote(noise).words()}. The ledger's gate is RDP; PRV is to be quoted if all of it "
        "stands before round 1"
    )


def _metrics_line(found: Found) -> str:
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


def command(words: Sequence[str]) -> str:
    """Return what the coordinator is to type."""
    return f"cardionets-coordinator run {shlex.join(words)}"


def handed(found: Found, asked: Asked) -> str:
    """Return what the coordinator is to type so that the run costs what was planned, at most."""
    from cardionets_core.privacy.planning import words_to_add

    own = ("privacy.mode=patient", f"privacy.noise={found.noise}")
    last = (*(word for word in words_to_add(asked.run) if word not in own), *own)
    steps = ", ".join(f"{s.name} {s.steps:,}" for s in found.plan.stages)
    if not asked.run and not asked.stages:
        rates = [f"privacy.rate={s.rate}" for s in found.plan.stages]
        return f"{shlex.join([*last, *rates])}, with rounds x max_steps: {steps}"
    words = words_of(asked, found.config)
    run = command((*words, *last))
    if not asked.releases:
        run += f" (with the sums it costs more than epsilon {found.plan.epsilon:g})"
    elif asked.stages:
        run += f" (rounds and max_steps may be others, with rounds x max_steps: {steps})"
    return run
