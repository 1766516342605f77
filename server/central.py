"""Client-level privacy in a run: what a plan must not combine with it, what it costs, its noise."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cardionets_core.errors import ConfigError
from cardionets_core.models.cardionet import build_model
from cardionets_core.privacy.central import CentralCost, cost_of, noised_mean
from cardionets_core.privacy.rng import PrivacyRandom
from cardionets_core.training.stages import STAGES, configured

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cardionets_core.messages import Update
    from cardionets_core.packing import Groups
    from cardionets_core.run_config import RunConfig


def check_central_plan(config: RunConfig) -> None:
    """Check a plan that asks for client-level privacy; any other passes.

    Raises:
        ConfigError: names the key, the cause and what to set instead.
    """
    if not config.central_privacy.is_on:
        return
    if config.strategy.robust or config.strategy.name == "scaffold":
        raise ConfigError(
            f"central_privacy.noise: strategy {config.strategy.name} is no sum of clipped updates, "
            "so its noise would hide nothing. Choose fedavg, fedprox, fedavgm, fedadam or fedyogi."
        )
    if config.screening.norm_factor > 0:
        raise ConfigError(
            "central_privacy.noise: screening.norm_factor judges an update by those of other "
            "hospitals, so that one of them could move more than its own part of the sum. Set "
            "screening.norm_factor=0; every update is clipped to central_privacy.clip anyway."
        )
    if config.secure_aggregation.enabled:
        raise ConfigError(
            "central_privacy.noise: with secure_aggregation the coordinator sees no single update "
            "that it could clip. Choose one of the two."
        )
    for name in config.stages:
        if name in STAGES and config.stage[name].partial == "fednova":
            raise ConfigError(
                f"stage.{name}.partial=fednova weighs sites by their steps, central_privacy all "
                "alike. Set partial=weight."
            )


def planned_cost(config: RunConfig, sites: int) -> CentralCost:
    """Return what client-level privacy costs a run with so many sites."""
    model = build_model(config.sized_model(), device="meta")
    trained = [name for name in config.stages if name in STAGES]
    sizes = [
        sum(p.numel() for part in stage.trains for p in model.get_submodule(part).parameters())
        for stage in (configured(n, config.stage[n].options, config.model) for n in trained)
    ]
    return cost_of(
        config.central_privacy,
        sites=sites,
        rounds=sum(config.stage[name].rounds for name in trained),
        weights=max(sizes),
    )


def with_central_noise(
    config: RunConfig, delta: Groups, updates: Mapping[str, Update], *, sites: int
) -> Groups:
    """Return the update of a round, noised for client-level privacy where the plan asks for it.

    Args:
        config: the plan.
        delta: the mean of clipped updates, per part over the sites that gave it.
        updates: those that are in it.
        sites: that were asked, the planned divisor.
    """
    if not config.central_privacy.is_on:
        return delta
    owners = {part: sum(part in u.examples for u in updates.values()) for part in delta}
    rng = PrivacyRandom()
    return noised_mean(delta, owners, sites=sites, plan=config.central_privacy, rng=rng)


def central_record(config: RunConfig, sites: int) -> dict[str, Any]:
    """Return what a round's record says of client-level privacy: its cost for the whole plan."""
    if not config.central_privacy.is_on:
        return {}
    return {"central_privacy": asdict(planned_cost(config, sites))}
