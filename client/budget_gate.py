"""What a site would refuse of a planned run, asked of the functions that let its tasks in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cardionets_core.errors import ConfigError, SiteError
from cardionets_core.messages import TaskHeader, TrainPlan
from cardionets_core.privacy.plan import EVERYTHING, private_task
from cardionets_core.training.stages import STAGES
from client.policy import admit, is_enough, not_admitted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from cardionets_core.run_config import RunConfig
    from cardionets_core.site_config import SiteConfig


def require_admitted(config: RunConfig, site: SiteConfig, *, releases: bool = True) -> None:
    """Refuse a plan of which a site would refuse a task by its own `policy` and `privacy`.

    What only a task itself shows is not asked here: secure sums, the records, the ledger.

    Args:
        config: the plan, with its noise.
        site: the hospital, with the number of patients that is planned for.
        releases: whether the tasks of handshake and evaluation are part of what is planned.

    Raises:
        ConfigError: names the stage and what refuses it.
    """
    for header in _headers(config, site, releases=releases):
        reason = _refusal(header, site)
        if reason:
            raise ConfigError(
                f"{header.stage}: the site would refuse it: {reason}. Change the plan (--run, "
                "--stage), or the site's YAML where the hospital agrees; without --config no "
                "site's limits are asked."
            )


def _headers(config: RunConfig, site: SiteConfig, *, releases: bool) -> Iterator[TaskHeader]:
    """Yield the tasks that a site is sent, one of each kind: of a training stage the last round."""
    offered = site.privacy.modalities or EVERYTHING
    if releases:
        yield _header(config, "handshake", "describe")
    for name in config.stages:
        members = STAGES[name].at(offered) if name in STAGES else ()
        if members:
            trains = tuple(part for member in members for part in member.trains)
            yield _header(config, name, "train", trains)
    if releases and "evaluate" in config.stages and "ecg" in offered:
        yield _header(config, "evaluate", "fit")
        yield _header(config, "evaluate", "score")


def _header(
    config: RunConfig,
    stage: str,
    action: Literal["describe", "train", "fit", "score"],
    trains: tuple[str, ...] = (),
) -> TaskHeader:
    """Return a task as far as a policy looks at it; its hash and seed are not those of a run."""
    number = config.stage[stage].rounds if action == "train" else 1
    return TaskHeader(
        run=config.name,
        config_hash="",
        stage=stage,
        action=action,
        round=number,
        seed=0,
        threads=config.threads,
        model=config.model,
        phenotypes=config.phenotypes,
        diseases=config.diseases,
        trains=trains,
        min_patients=config.min_patients,
        train=_train_plan(config, stage) if action == "train" else None,
        privacy=private_task(config, stage, action, number),
    )


def _train_plan(config: RunConfig, stage: str) -> TrainPlan:
    settings = config.stage[stage]
    return TrainPlan(
        local_epochs=settings.local_epochs,
        batch_size=settings.batch_size,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        max_steps=settings.max_steps,
        progress=0.0,
        budget_s=settings.budget_s,
        partial=settings.budget_s > 0,
    )


def _refusal(header: TaskHeader, site: SiteConfig) -> str:
    """Return why a site would refuse a task; nothing where it would not."""
    policy, privacy = site.policy, site.privacy
    try:
        admit(policy, header)
    except SiteError as refused:
        if refused.code == "refused_stage":
            return f"policy.stages lets in {', '.join(policy.stages)}"
        return f"{refused.code}, and policy.max_local_epochs is {policy.max_local_epochs}"
    if not is_enough(policy, header, privacy.patients):
        return (
            f"{privacy.patients:,} patients are declared (privacy.patients), and policy."
            f"min_patients is {policy.min_patients}, min_patients of the run {header.min_patients}"
        )
    assert header.privacy is not None  # a plan is private
    return not_admitted(privacy, header, header.privacy)
