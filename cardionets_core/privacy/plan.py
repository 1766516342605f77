"""What a private run cannot be, said before anything is started.

Every refusal here has its reason in docs/privacy.md. A site checks for itself what it is asked
(client/policy.py); this is for the person who plans.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from cardionets_core.errors import ConfigError, nearest
from cardionets_core.privacy.accounting import Charge, epsilon_rdp
from cardionets_core.privacy.evaluation import private_options
from cardionets_core.privacy.latents import MEASURED
from cardionets_core.privacy.metrics import release_charge
from cardionets_core.privacy.noise_plan import USUAL_DELTA
from cardionets_core.privacy.secure_aggregation.plan import check_secure_plan
from cardionets_core.privacy_config import LARGE_EPSILON, Modality, PrivateTask
from cardionets_core.training.stages import STAGES

if TYPE_CHECKING:
    from collections.abc import Collection

    from cardionets_core.run_config import RunConfig

LATENTS = "latents"
"""Name in a schedule of the release of the tokenizer's latent statistics."""

EVERYTHING: tuple[Modality, ...] = get_args(Modality)
"""What a site may offer at most: the one that a plan costs most."""


def check_private_plan(config: RunConfig) -> None:
    """Check a plan that asks for differential privacy or secure aggregation; any other passes.

    Raises:
        ConfigError: names the key, the cause and what to set instead.
    """
    check_secure_plan(config)
    request = config.privacy
    if not request.is_on:
        return
    if config.strategy.name == "scaffold":
        raise ConfigError(
            "strategy.name=scaffold: its control variates correct every local step by numbers that "
            "are no part of a private step. Choose fedavg, or another strategy, with "
            f"privacy.mode={request.mode}."
        )
    trained = [name for name in config.stages if name in STAGES]
    for name in request.stages:
        if name not in trained:
            raise ConfigError(
                f"privacy.stages.{name}: the plan trains no such stage{nearest(name, trained)}. "
                f"It trains: {', '.join(trained) or 'none'}."
            )
    for name in trained:
        _check_stage(config, name)
    if "evaluate" in config.stages:
        private_options(config.evaluation)
    _check_profile(config)


@dataclass(frozen=True)
class Planned:
    """What one stage of a plan releases of a site's patients.

    Attributes:
        stage: its name; LATENTS for the tokenizer's statistics.
        releases: answers that leave a site: one for each round.
        charge: of all of them.
    """

    stage: str
    releases: int
    charge: Charge


def planned_charges(config: RunConfig, modalities: Collection[str]) -> tuple[Charge, ...]:
    """Return the charges of `planned`, in the order of the stages."""
    return tuple(stage.charge for stage in planned(config, modalities))


def planned(config: RunConfig, modalities: Collection[str]) -> tuple[Planned, ...]:
    """Return what a private plan charges a site, if every task is answered at the first time.

    It follows from the plan and from what the site declares, before round 1: so a PRV epsilon may
    be quoted for it (privacy/schedule.py).

    Args:
        config: the plan.
        modalities: what the site declares to offer.
    """
    request = config.privacy
    stages: list[Planned] = []
    if "phenotypes" in modalities:
        stages.append(Planned("handshake", 1, Charge(request.sums_noise, 1.0, 1)))
    for name in config.stages:
        members = STAGES[name].at(modalities) if name in STAGES else ()
        if members:
            rounds = config.stage[name].rounds
            steps = rounds * config.stage[name].max_steps * len(members)
            charge = Charge(request.of(name, "noise"), request.of(name, "rate"), steps)
            stages.append(Planned(name, rounds, charge))
        if members and measuring_noise(config, name):
            stages.append(Planned(LATENTS, 1, release_charge(measuring_noise(config, name))))
    if "evaluate" in config.stages and "ecg" in modalities:
        # fit and score
        stages.append(Planned("evaluate", 2, Charge(request.evaluation_noise, 1.0, 2)))
    return tuple(stages)


def measuring_noise(config: RunConfig, stage: str) -> float:
    """Return the noise on what the last round of a stage measures, too; 0 where it does not."""
    measures = stage in STAGES and MEASURED in STAGES[stage].trains
    return config.privacy.latent_noise if measures else 0.0


def private_task(config: RunConfig, stage: str, action: str, number: int = 1) -> PrivateTask | None:
    """Return what a task of a round asks of privacy; None where the run is not private."""
    request = config.privacy
    if not request.is_on:
        return None
    if action != "train":
        noise = request.sums_noise if action == "describe" else request.evaluation_noise
        return PrivateTask(noise=noise, rate=1.0, clip=1.0, steps=1, profile=request.profile)
    return PrivateTask(
        noise=request.of(stage, "noise"),
        rate=request.of(stage, "rate"),
        clip=request.of(stage, "clip"),
        steps=config.stage[stage].max_steps,
        contrastive=request.contrastive,
        bucket_size=request.bucket_size,
        # Once, at the end: no training of the tokenizer itself reads its statistics.
        latent_noise=measuring_noise(config, stage) * (number == config.stage[stage].rounds),
        profile=request.profile,
    )


def _check_profile(config: RunConfig) -> None:
    """Refuse a plan whose epsilon says nothing of who took part, unless it says so itself."""
    if config.privacy.profile != "membership":
        return
    epsilon = epsilon_rdp(planned_charges(config, EVERYTHING), USUAL_DELTA)
    if epsilon >= LARGE_EPSILON:
        raise ConfigError(
            f"privacy.noise: the plan costs a site up to epsilon {epsilon:.0f} at delta "
            f"{USUAL_DELTA:g}; from {LARGE_EPSILON:g} on it says nothing of who took part. Ask for "
            "more noise, a smaller rate or fewer steps (`cardionets-site budget plan`); if images "
            "are only to be kept from being reconstructed, say so: "
            "privacy.profile=anti_reconstruction_only."
        )


def _check_stage(config: RunConfig, name: str) -> None:
    settings = config.stage[name]
    if settings.max_steps < 1:
        raise ConfigError(
            f"stage.{name}.max_steps is 0: a private round takes a fixed number of noisy steps, "
            f"which no count of patients may choose. Set stage.{name}.max_steps, for instance to "
            f"local_epochs / rate ({max(1, round(1 / config.privacy.of(name, 'rate')))} steps are "
            "one pass in expectation)."
        )
    if settings.budget_s > 0:
        raise ConfigError(
            f"stage.{name}.budget_s: a private round takes all of its steps, or its number would "
            f"tell about the data. Leave it at 0; stage.{name}.deadline_s bounds the round."
        )
