"""A whole run's plan, or stages named by hand, as a noise plan: charged just as a run charges.

What a site pays for follows from `privacy.plan.planned` alone, so that a plan that fits here fits
the site's ledger, too: each member of a stage, the sums of the handshake, the evaluation's two
releases and the tokenizer's latent statistics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cardionets_core.errors import ConfigError, nearest
from cardionets_core.privacy.mechanism import MIXING_STAGES
from cardionets_core.privacy.noise_plan import NoisePlan, StageNeed
from cardionets_core.privacy.plan import EVERYTHING, check_private_plan, planned
from cardionets_core.run_config import CONF, StageConfig, compose, run_config_from
from cardionets_core.training.stages import STAGES, check_plan

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from cardionets_core.privacy.accounting import Charge
    from cardionets_core.run_config import RunConfig

USUAL_PLAN = "plan=private"
"""Of a run that names none."""

CHECKPOINT = "start.checkpoint=outputs/PUBLIC/checkpoint"
"""Word to fill in of a plan that begins with parts of another model."""

MUCH = 1e6
"""Noise with which a plan is checked before its noise is known."""

NOT_ASKED = {
    "privacy.mode=none": "a plan without privacy has no noise",
    "privacy.noise=": "that is what is looked for",
}
"""Begin of an override -> why it cannot be one of a plan."""


@dataclass(frozen=True)
class Allowance:
    """What a plan may spend, by the flags of a person or by a site's YAML and ledger.

    Attributes:
        patients: declared number.
        epsilon: budget of all runs together.
        delta: of the guarantee.
        spent: what the ledger holds already.
        modalities: what the site declares to offer.
        max_rate: largest sampling rate that the site lets in.
        min_noise: smallest noise multiplier that it lets in; 0 where no site was named.
        order: of the site's ledger; None where there is none yet.
    """

    patients: int
    epsilon: float
    delta: float
    spent: tuple[Charge, ...] = ()
    modalities: tuple[str, ...] = EVERYTHING
    max_rate: float = 1.0
    min_noise: float = 0.0
    order: float | None = None


def run_to_plan(words: Sequence[str]) -> RunConfig:
    """Return the private run that overrides of run.yaml name; its noise does not matter yet.

    Args:
        words: Hydra overrides; without a `plan=` among them they are of `plan=private`.

    Raises:
        ConfigError: as the coordinator's command.
    """
    for word in words:
        for begin, why in NOT_ASKED.items():
            if word.startswith(begin):
                raise ConfigError(f"--run {word}: {why}; leave it out.")
    values = _composed(words)
    values.pop("start", None)  # a hospital has no checkpoint, and the noise needs none
    config = run_config_from(values)
    config = replace(config, privacy=replace(config.privacy, mode="patient"))
    check_plan(config)
    check_private_plan(with_noise(config, MUCH))
    return config


def words_to_add(words: Sequence[str]) -> tuple[str, ...]:
    """Return what a private run of a plan needs besides its own words.

    Args:
        words: as of `run_to_plan`.

    Returns:
        `privacy.mode=patient` where the plan does not say so, and where it begins with parts of
        another model a checkpoint, to be filled in.
    """
    values = _composed(words)
    start = values.get("start") or {}
    more = () if values["privacy"]["mode"] == "patient" else ("privacy.mode=patient",)
    lacks = start.get("parts") and not start.get("checkpoint")
    return (*more, CHECKPOINT) if lacks else more


def _composed(words: Sequence[str]) -> dict[str, Any]:
    return compose("run", ["name=plan", *run_words(words)], package=CONF)


def run_words(words: Sequence[str]) -> tuple[str, ...]:
    """Return the overrides with a plan among them."""
    return tuple(words) if any(w.startswith("plan=") for w in words) else (USUAL_PLAN, *words)


def with_noise(config: RunConfig, noise: float) -> RunConfig:
    """Return the plan with a noise multiplier for all stages that name none of their own."""
    return replace(config, privacy=replace(config.privacy, noise=noise))


def with_stages(config: RunConfig, words: Sequence[str], *, patients: int, batch: int) -> RunConfig:
    """Return a run of the stages that `NAME=EPOCHS[,batch=N][,bucket=S]` name.

    Args:
        config: of all else: noise of sums, contrastive form, bucket size.
        words: one for each stage, in their order.
        patients: declared number.
        batch: expected patients in a step of stages that name none.

    Raises:
        ConfigError: a word cannot be read, or names no stage.
    """
    stages, request = dict(config.stage), config.privacy
    names: list[str] = []
    for word in words:
        name, epochs, options = _read(word)
        if name in names:
            raise ConfigError(f"--stage {word!r}: {name} stands twice; add its epochs up.")
        size = options.get("batch", batch)
        need = StageNeed.of_epochs(name, epochs, batch=size, patients=patients)
        names.append(name)
        stages[name] = replace(stages.get(name, StageConfig()), rounds=1, max_steps=need.steps)
        own = {**request.stages.get(name, {}), "rate": need.rate}
        request = replace(request, stages={**request.stages, name: own})
        if "bucket" in options:
            request = replace(request, bucket_size=options["bucket"], contrastive="bucket")
    order = ("handshake", *names, "evaluate")
    return replace(config, stages=order, stage=stages, privacy=request)  # type: ignore[arg-type]


def words_of_stages(run: Sequence[str], config: RunConfig) -> tuple[str, ...]:
    """Return the overrides of a run whose stages were named by hand (`with_stages`).

    A round is about one pass over the patients; all rounds together are at most the planned steps.

    Args:
        run: overrides that were typed; what they say of the stages' order is left out.
        config: what `with_stages` made of them.
    """
    words = [word for word in run_words(run) if not word.startswith("stages=")]
    words.append(f"stages=[{','.join(config.stages)}]")
    request = config.privacy
    for name in (n for n in config.stages if n in STAGES):
        settings, rate = config.stage[name], request.of(name, "rate")
        steps = settings.rounds * settings.max_steps
        each = max(1, steps // max(1, round(steps * rate)))
        words += [
            f"stage.{name}.rounds={steps // each}",
            f"stage.{name}.max_steps={each}",
            f"privacy.stages.{name}.rate={rate}",
        ]
    if MIXING_STAGES & set(config.stages):
        words.append(f"privacy.contrastive={request.contrastive}")
        words.append(f"privacy.bucket_size={request.bucket_size}")
    return tuple(words)


def plan_of(
    config: RunConfig, allowed: Allowance, *more: StageNeed, releases: bool = True
) -> NoisePlan:
    """Return the noise plan of a run at one site.

    Args:
        config: the run.
        allowed: what it may spend.
        more: stages besides those of the run.
        releases: whether the sums of handshake, latents and evaluation are charged, as in a run.

    Raises:
        ConfigError: there is no stage whose noise could be looked for, or the site would refuse
            the plan as it is.
    """
    stages: list[StageNeed] = list(more)
    kept: list[tuple[str, Charge]] = []
    for row in planned(config, allowed.modalities):
        if row.stage in STAGES and "noise" not in config.privacy.stages.get(row.stage, {}):
            stages.append(_need(config, row.stage, allowed.modalities))
        elif row.stage in STAGES or releases:
            kept.append((row.stage, row.charge))
    if not stages:
        raise ConfigError(
            "The plan trains no stage at this site whose noise is open: the site offers "
            f"{', '.join(allowed.modalities) or 'nothing'}, and the plan is "
            f"{', '.join(config.stages)}. Name other stages, or take privacy.stages.*.noise out."
        )
    _check_caps(stages, kept, allowed)
    return NoisePlan(
        patients=allowed.patients,
        epsilon=allowed.epsilon,
        delta=allowed.delta,
        stages=tuple(stages),
        spent=allowed.spent,
        kept=tuple(kept),
        least=allowed.min_noise,
        order=allowed.order,
    )


def _need(config: RunConfig, name: str, modalities: Collection[str]) -> StageNeed:
    settings, request = config.stage[name], config.privacy
    bucketed = name in MIXING_STAGES and request.contrastive == "bucket"
    return StageNeed(
        name=name,
        rate=request.of(name, "rate"),
        steps=settings.rounds * settings.max_steps,
        members=len(STAGES[name].at(modalities)),
        bucket=request.bucket_size if bucketed else 0,
    )


def _check_caps(
    stages: Sequence[StageNeed], kept: Sequence[tuple[str, Charge]], allowed: Allowance
) -> None:
    """Refuse what the site's own YAML would refuse, whatever the noise."""
    trained = [(s.name, s.rate) for s in stages]
    trained += [(name, charge.rate) for name, charge in kept if name in STAGES]
    for name, rate in trained:
        if rate > allowed.max_rate:
            raise ConfigError(
                f"{name}: rate {rate:g} is above the site's privacy.max_rate {allowed.max_rate:g}, "
                "and the site would refuse it. Plan a rate of at most that (batches of "
                f"{math.floor(allowed.max_rate * allowed.patients):,} patients)."
            )
    for name, charge in kept:
        if charge.noise < allowed.min_noise:
            raise ConfigError(
                f"{name}: noise {charge.noise:g} is below the site's privacy.min_noise "
                f"{allowed.min_noise:g}, and the site would refuse it. Ask for more (--run "
                "privacy.sums_noise, evaluation_noise, latent_noise or stages.NAME.noise)."
            )


def _read(word: str) -> tuple[str, float, dict[str, int]]:
    """Return name, epochs and options of a word."""
    first, *options = word.split(",")
    name, _, number = (part.strip() for part in first.partition("="))
    try:
        epochs = float(number)
        pairs = (option.partition("=") for option in options)
        values = {key.strip(): int(value) for key, _, value in pairs}
        if not set(values) <= {"batch", "bucket"}:
            raise ValueError("an option that there is not")
    except ValueError:
        raise ConfigError(
            f"--stage {word!r} cannot be read; write NAME=EPOCHS[,batch=N][,bucket=S], for example "
            "contrastive=50,batch=256,bucket=4."
        ) from None
    if name not in STAGES:
        raise ConfigError(
            f"--stage {word!r}: there is no stage {name!r}{nearest(name, STAGES)}. Stages: "
            f"{', '.join(STAGES)}."
        )
    if "bucket" in values and (name not in MIXING_STAGES or values["bucket"] < 2):
        raise ConfigError(
            f"--stage {word!r}: a bucket needs at least 2 patients, and only "
            f"{', '.join(sorted(MIXING_STAGES))} has buckets."
        )
    return name, epochs, values
