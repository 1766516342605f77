"""Who trains what: the sites that serve a stage, their parts of it, and whether those are enough.

Sites differ: one has ECGs, one cines, one both. Each is asked for the parts that it has records
for, and every part must have owners enough of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cardionets_core.errors import ConfigError, RunError
from cardionets_core.privacy.plan import check_private_plan
from cardionets_core.training.stages import STAGES, Stage, check_plan, configured
from server.central import check_central_plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cardionets_core.messages import TaskHeader, Update
    from cardionets_core.run_config import RunConfig, StageConfig
    from server.exchange import Run
    from server.state import RunState, SiteRecord

Shares = dict[str, dict[str, int]]
"""Site -> part that it is asked to train -> training studies that it declared for it."""


def shares_of(config: RunConfig, stage: Stage, sites: Mapping[str, SiteRecord]) -> Shares:
    """Return what each site that can serve a stage is asked for; other sites are not in it."""
    found = {n: _share(record, stage, config.min_patients) for n, record in sorted(sites.items())}
    return {site: share for site, share in found.items() if share}


def _share(record: SiteRecord, stage: Stage, least: int) -> dict[str, int]:
    """Return part -> declared studies of one site.

    Of a stage with members, those are left out that the site has too few studies for: its other
    ones go on. A stage of its own is asked for all the same, and the site says what it lacks.
    """
    share: dict[str, int] = {}
    for member in stage.at(record.modalities):
        studies = declared(record, member)
        if not stage.members or studies >= max(least, 1):
            share |= dict.fromkeys(member.trains, studies)
    return share


def declared(record: SiteRecord, stage: Stage) -> int:
    """Return the training studies that a site declared for a stage (no member of it).

    A site that named no number for a modality is held to all of its training studies.
    """
    studies = record.counts.get("train_studies", 0)
    needs = {stage.modality, *stage.needs}
    return min([studies, *(record.counts.get(f"train_{need}", studies) for need in needs)])


def head_for(head: TaskHeader, parts: Iterable[str]) -> TaskHeader:
    """Return the header of a site that trains `parts` only: no other trained part travels to it."""
    trains = tuple(parts)
    others = set(head.trains) - set(trains)
    marks = {part: mark for part, mark in head.parts.items() if part not in others}
    return replace(head, trains=trains, parts=marks)


def part_examples(update: Update) -> dict[str, int]:
    """Return part -> training studies behind it."""
    return dict(update.examples or dict.fromkeys(update.delta, update.num_examples))


def with_quorum(config: RunConfig, name: str, sites: Mapping[str, SiteRecord]) -> StageConfig:
    """Return the settings of a stage with its quorum in numbers, where the plan gives none.

    That is the run's `min_sites`, for the stage and for each of its parts; but no more than the
    sites that can serve it by what they said in a handshake, or a stage that needs pairs could
    never be run in a federation where not all have them. One that is away just now counts.

    Args:
        config: the run's plan.
        name: of the stage.
        sites: all that ever came in.
    """
    settings = config.stage[name]
    if settings.min_sites:
        return settings
    stage, least = configured(name, settings.options, config.model), max(config.min_patients, 1)
    able = {
        site: [part for part, studies in share.items() if studies >= least]
        for site, share in shares_of(config, stage, sites).items()
    }
    able = {site: parts for site, parts in able.items() if parts}
    owners = owners_of(stage.trains, able)
    parts = {part: max(1, min(config.min_sites, len(held))) for part, held in owners.items()}
    needed = max(1, min(config.min_sites, len(able)))
    return replace(settings, min_sites=needed, part_sites=parts | settings.part_sites)


def part_quorum(config: RunConfig, settings: StageConfig, part: str) -> int:
    """Return how many sites must have trained a part in a round."""
    least = config.strategy.sites_needed()[0] if config.strategy.robust else 0
    return max(settings.sites_for(part), least)


def short_parts(
    config: RunConfig, settings: StageConfig, owners: Mapping[str, Iterable[str]]
) -> dict[str, str]:
    """Return the parts with too few owners, each with `OWNERS of NEEDED`.

    Args:
        config: the run's plan.
        settings: of the stage.
        owners: every part of the stage -> the sites that trained it.
    """
    counts = {part: len(list(sites)) for part, sites in owners.items()}
    needs = {part: part_quorum(config, settings, part) for part in owners}
    return {p: f"{n} of {needs[p]}" for p, n in counts.items() if n < needs[p]}


def owners_of(parts: Iterable[str], shares: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Return each of `parts` -> the sites that hold it, sorted.

    Args:
        parts: of a stage.
        shares: site -> the parts that it trains, or has trained.
    """
    held = {site: set(share) for site, share in shares.items()}
    return {part: sorted(s for s, share in held.items() if part in share) for part in parts}


def require_sites(run: Run, state: RunState) -> None:
    """Check that every stage to come has the sites that it and the strategy need.

    Better said before the first round than after the last but one. A site counts that is away just
    now: a round waits for it.

    Raises:
        ConfigError: the strategy, or the quorum of a part, asks for more sites than there are.
        RunError: a stage has fewer sites than its `min_sites`.
    """
    check_plan(run.config)
    check_private_plan(run.config)
    check_central_plan(run.config)
    for index, name in enumerate(run.config.stages):
        if index < state.stage or name not in STAGES:
            continue
        settings = with_quorum(run.config, name, state.sites)
        stage = configured(name, settings.options, run.config.model)
        _require_stage(run.config, settings, stage, shares_of(run.config, stage, state.sites))


def _require_stage(config: RunConfig, settings: StageConfig, stage: Stage, shares: Shares) -> None:
    strategy, count = config.strategy, len(shares)
    needed, why = strategy.sites_needed()
    offer = f"stage {stage.name}: {count} sites offer {stage.modality!r}"
    if strategy.robust and count < needed:
        raise ConfigError(
            f"{offer} ({', '.join(sorted(shares)) or 'none'}), and strategy {strategy.name} needs "
            f"{needed} ({why}). Enrol more sites, leave the stage out, or choose another strategy."
        )
    least = max(1, settings.min_sites)
    if count < least:
        raise RunError(f"{offer}, {least} are needed. Leave the stage out, or lower its min_sites.")
    owners = owners_of(stage.trains, shares)
    for part, few in short_parts(config, settings, owners).items():
        lower = f"lower stage.{stage.name}.part_sites.{part}"
        way_out = "choose another strategy" if strategy.robust else lower
        raise ConfigError(
            f"stage {stage.name}: {few} sites needed can train {part} "
            f"({', '.join(owners[part]) or 'none'}). Enrol sites with what it is trained on, plan "
            f"stages that the sites can serve, or {way_out}."
        )
