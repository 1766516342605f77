"""What cannot be had where the server sees no single update, said before anything is started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cardionets_core.errors import ConfigError, nearest
from cardionets_core.training.stages import STAGES

if TYPE_CHECKING:
    from cardionets_core.run_config import RunConfig

ON = "secure_aggregation.enabled=true hides every single update"
"""How each refusal here begins: its cause."""


def check_secure_plan(config: RunConfig) -> None:
    """Check a plan that asks for secure aggregation; any other plan passes.

    Raises:
        ConfigError: names the key, the cause and what to set instead.
    """
    if not config.secure_aggregation.enabled:
        return
    if config.strategy.robust or config.strategy.name == "scaffold":
        raise ConfigError(
            f"{ON}, and strategy.name={config.strategy.name} is computed from each of them. Choose "
            "fedavg, fedprox, fedavgm, fedadam or fedyogi, which need the mean alone."
        )
    for name in ("norm_factor", "max_norm"):
        if getattr(config.screening, name) > 0:
            raise ConfigError(
                f"{ON}, and screening.{name} bounds the norm of each of them. Set "
                f"screening.{name}=0; each site clips its own values to secure_aggregation.clip."
            )
    if config.wire.codec != "float32":
        raise ConfigError(
            f"{ON} behind random numbers of 32 bits, which wire.codec={config.wire.codec} cannot "
            "shorten. Set wire.codec=float32."
        )
    trained = [name for name in config.stages if name in STAGES]
    for name in trained:
        _check_stage(config, name)
    parts = {part for name in trained for part in STAGES[name].trains}
    for part in config.secure_aggregation.clips:
        if part not in parts:
            raise ConfigError(
                f"secure_aggregation.clips: the plan trains no part {part!r}{nearest(part, parts)}."
            )


def _check_stage(config: RunConfig, name: str) -> None:
    settings, stage = config.stage[name], STAGES[name]
    if stage.members:
        raise ConfigError(
            f"{ON}, and in stage {name} sites train different parts: a part that few of them train "
            f"would be hidden among few. Plan {', '.join(m.name for m in stage.members)} instead."
        )
    if settings.budget_s > 0 or settings.partial == "fednova":
        raise ConfigError(
            f"{ON}, and stage.{name}.budget_s and partial=fednova weigh each by the steps behind "
            f"it. Set stage.{name}.budget_s=0 and partial=weight; deadline_s bounds the round."
        )
