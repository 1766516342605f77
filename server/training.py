"""The rounds of one training stage."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from cardionets_core.checkpoint import load_parts, part_arrays
from cardionets_core.codec import decode
from cardionets_core.errors import RunError
from cardionets_core.faults import fault_place, fault_point
from cardionets_core.messages import TaskHeader, TrainPlan, Update
from cardionets_core.models.cardionet import build_model
from cardionets_core.training.stages import HEADS, Stage, configured
from server.exchange import Run, header, round_record, send_round
from server.owners import (
    head_for,
    owners_of,
    part_examples,
    present,
    require_sites,
    shares_of,
    short_parts,
)
from server.screening import Asked, Firewall, learned_names
from server.state import RunState, save_state
from server.strategies.averaging import fedavg, moving_average
from server.strategies.combine import Combiner, combining
from server.strategies.optimizers import MOMENTS, optimise, start_moments

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cardionets_core.packing import Groups
    from cardionets_core.run_config import RunConfig, StageConfig
    from cardionets_core.wire_config import Codec
    from server.rounds import RoundResult

TRIES = 2
"""How often a round is tried before too few replies end the run."""

SPOOL = "spool"
"""Folder in the run's folder where robust rules keep the updates of a round."""

log = logging.getLogger("cardionets.server")


def train_stage(run: Run, state: RunState, name: str) -> RunState:
    """Run the rounds of one training stage that are still to do.

    Raises:
        ConfigError: this or a later stage has too few sites for the strategy, or for a part.
        RunError: too few sites offer what the stage needs, or too few answered a round.
    """
    require_sites(run, state)
    settings = run.config.stage[name]
    stage = configured(name, settings.options, run.config.model)
    sites = list(shares_of(run.config, stage, present(run, state)))
    if state.round == 0:
        state = _prepared(state, stage, run.config)
    for round_index in range(state.round, settings.rounds):
        fault_place(stage=name, number=round_index + 1)
        fault_point("between_rounds")
        state = train_round(run, state, stage, settings, sites=sites, round_index=round_index)
        fault_point("aggregated_not_saved")
        state = save_state(replace(state, round=round_index + 1), run.config, run.checkpoint)
        fault_point("committed_not_announced")
        # Told after it is saved: what a reader has seen, no kill can take back.
        run.report(state.history[-1])
    # What the optimizer remembers is of this stage's loss; the next one begins anew.
    return replace(state, moments={})


def _prepared(state: RunState, stage: Stage, config: RunConfig) -> RunState:
    """Start a head from the aligned encoder, and the memory of a server optimizer."""
    part = HEADS.get(stage.name)
    if part is not None:
        model = build_model(config.sized_model())
        load_parts(model, {p: state.weights[p] for p in ("ecg_encoder", "ecg_projector", part)})
        model.start_head(part)
        state = replace(state, weights=state.weights | {part: part_arrays(model, part)})
    if config.strategy.name not in MOMENTS:
        return state
    weights = {p: state.weights[p] for p in stage.trains}
    learned = learned_names(config.sized_model(), stage.trains)
    return replace(state, moments=start_moments(config.strategy, weights, learned))


def train_round(
    run: Run,
    state: RunState,
    stage: Stage,
    settings: StageConfig,
    *,
    sites: list[str],
    round_index: int,
) -> RunState:
    """Run one round and return the state with the new global weights."""
    head = header(
        run,
        state,
        stage.name,
        number=round_index + 1,
        trains=stage.trains,
        parts=stage.parts,
        plan=train_plan(run.config, settings, round_index),
    )
    before = {p: state.weights[p] for p in stage.trains}
    learned = learned_names(head.model, stage.trains)
    shares = shares_of(run.config, stage, {site: state.sites[site] for site in sites})
    asked = Asked(
        run.config.name,
        stage.name,
        head.round,
        expected=before,
        sites=len(sites),
        learned=learned,
        shares=shares,
        together=[member.trains for member in stage.members],
    )
    firewall = Firewall(
        asked, config=run.config.screening, settings=settings, records=state.history
    )
    heads = {site: head_for(head, share) for site, share in shares.items()}
    result, updates, delta, chosen = _gathered(run, state, head, heads, firewall)
    if state.moments:
        weights, moments = optimise(run.config.strategy, before, delta, state.moments)
        state = replace(state, moments=moments)
    else:
        weights = fedavg(before, delta)
    record = round_record(stage.name, head.round, settings.rounds, result, updates)
    record["screening"] = firewall.record(result.accepted)
    if stage.members:
        record["examples"] = {site: u.examples for site, u in sorted(updates.items())}
    if chosen:
        record["chosen"] = chosen
    state = replace(state, weights=state.weights | weights, history=(*state.history, record))
    return _averaged(state, stage, settings, updates)


def train_plan(config: RunConfig, settings: StageConfig, round_index: int) -> TrainPlan:
    """Return what the sites must know of a round (0-based)."""
    return TrainPlan(
        local_epochs=settings.local_epochs,
        batch_size=settings.batch_size,
        lr=settings.lr_at(round_index),
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        max_steps=settings.max_steps,
        progress=round_index / settings.rounds,
        options=settings.options,
        proximal_mu=config.strategy.numbers().get("mu", 0.0),
        codec=config.wire.codec,
    )


Gathered = tuple["RoundResult", dict[str, Update], "Groups", list[str]]
"""Of a round: its result, the updates without their arrays, the combined update, chosen sites."""


def _gathered(
    run: Run,
    state: RunState,
    head: TaskHeader,
    heads: Mapping[str, TaskHeader],
    firewall: Firewall,
) -> Gathered:
    """Ask the sites until enough of them answered, for every part.

    Args:
        head: of the whole round; a site's own, in `heads`, asks for the parts that it can train.

    Raises:
        RunError: too few did, TRIES times.
    """
    settings = run.config.stage[head.stage]
    needed = max(settings.min_sites, run.config.strategy.sites_needed()[0])
    for attempt in range(1, TRIES + 1):
        updates: dict[str, Update] = {}
        firewall.start_try()
        with combining(run.config.strategy, run.folder / SPOOL) as combiner:
            accept = _gate(state, firewall, combiner, updates, codec=run.config.wire.codec)
            result = send_round(run, state, heads, accept, settings.deadline_s)
            owners = owners_of(head.trains, {s: updates[s].examples for s in result.accepted})
            short = short_parts(run.config, settings, owners)
            if len(result.accepted) >= needed and not short:
                return result, updates, combiner.combined(), combiner.chosen()
        log.warning(
            "stage %s round %d: try %d had too few replies", head.stage, head.round, attempt
        )
    lacking = "".join(f"{part} came back from {few} sites needed. " for part, few in short.items())
    raise RunError(
        f"stage {head.stage}, round {head.round}: {len(result.accepted)} of "
        f"{needed} sites needed gave a usable update "
        f"(refused: {result.refused or 'none'}). {lacking}"
        "The run can be resumed from its last round."
    )


def _gate(
    state: RunState,
    firewall: Firewall,
    combiner: Combiner,
    updates: dict[str, Update],
    *,
    codec: Codec,
) -> Callable[[str, Update], str | None]:
    """Return what takes an update into the round, or says why it must stay out."""

    def accept(site: str, update: Update) -> str | None:
        # Raises WireError, which the round turns into `unreadable`.
        update = replace(update, delta=decode(update.delta, codec))
        most = state.sites[site].counts.get("train_studies", 0)
        reason = firewall.judge(site, update, max_examples=most)
        if reason is None:
            studies = part_examples(update)
            combiner.fold(site, update.delta, studies)
            updates[site] = replace(update, delta={}, examples=studies)
            fault_point("mid_aggregation")
        return reason

    return accept


def _averaged(
    state: RunState, stage: Stage, settings: StageConfig, updates: Mapping[str, Update]
) -> RunState:
    """Return the state with the moving average of each part moved by the studies behind it."""
    if settings.ema_half_life <= 0:
        return state
    average = dict(state.average)
    for part in stage.trains:
        newest = {part: state.weights[part]}
        average |= moving_average(
            {part: average.get(part, newest[part])},
            newest,
            examples=settings.local_epochs * sum(u.examples.get(part, 0) for u in updates.values()),
            half_life=settings.ema_half_life,
        )
    return replace(state, average=average)
