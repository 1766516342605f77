"""The rounds of one training stage."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from cardionets_core.checkpoint import load_parts, part_arrays
from cardionets_core.codec import decode
from cardionets_core.errors import ConfigError, RunError
from cardionets_core.faults import fault_place, fault_point
from cardionets_core.messages import TaskHeader, TrainPlan, Update
from cardionets_core.models.cardionet import build_model
from cardionets_core.training.stages import HEADS, STAGES, Stage, configured
from server.exchange import Run, header, round_record, send_round
from server.screening import Asked, Firewall, learned_names
from server.state import RunState, save_state
from server.strategies.averaging import fedavg, moving_average
from server.strategies.combine import Combiner, combining
from server.strategies.optimizers import MOMENTS, optimise, start_moments

if TYPE_CHECKING:
    from collections.abc import Callable

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
        ConfigError: this or a later stage has too few sites for the strategy.
        RunError: too few sites offer what the stage needs, or too few answered a round.
    """
    require_sites(run, state)
    settings = run.config.stage[name]
    stage = configured(name, settings.options, run.config.model)
    sites = serving(run, state, stage)
    if len(sites) < settings.min_sites:
        raise RunError(
            f"stage {name}: {len(sites)} sites offer {stage.modality!r}, {settings.min_sites} "
            "are needed. Leave the stage out, or lower its min_sites."
        )
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


def serving(run: Run, state: RunState, stage: Stage) -> list[str]:
    """Return the sites that can serve a stage, sorted by name."""
    return [n for n in sorted(run.nodes) if stage.modality in state.sites[n].modalities]


def require_sites(run: Run, state: RunState) -> None:
    """Check that every stage to come has the sites that the strategy needs.

    Raises:
        ConfigError: one has not; better said before the first round than after the last but one.
    """
    strategy = run.config.strategy
    needed, why = strategy.sites_needed()
    for name in run.config.stages[state.stage :]:
        if name not in STAGES:
            continue
        stage = configured(name, run.config.stage[name].options, run.config.model)
        sites = serving(run, state, stage)
        if strategy.robust and len(sites) < needed:
            raise ConfigError(
                f"stage {name}: {len(sites)} sites offer {stage.modality!r} "
                f"({', '.join(sites) or 'none'}), and strategy {strategy.name} needs {needed} "
                f"({why}). Enrol more sites, leave the stage out, or choose another strategy."
            )


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
    asked = Asked(run.config.name, stage.name, head.round, before, len(sites), learned)
    firewall = Firewall(
        asked, config=run.config.screening, settings=settings, records=state.history
    )
    result, updates, delta, chosen = _gathered(run, state, head, sites, firewall)
    if state.moments:
        weights, moments = optimise(run.config.strategy, before, delta, state.moments)
        state = replace(state, moments=moments)
    else:
        weights = fedavg(before, delta)
    record = round_record(stage.name, head.round, settings.rounds, result, updates)
    record["screening"] = firewall.record(result.accepted)
    if chosen:
        record["chosen"] = chosen
    state = replace(state, weights=state.weights | weights, history=(*state.history, record))
    patients = sum(u.num_examples for u in updates.values())
    return _averaged(state, stage, settings, patients)


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
    run: Run, state: RunState, head: TaskHeader, sites: list[str], firewall: Firewall
) -> Gathered:
    """Ask the sites until enough of them answered.

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
            heads = dict.fromkeys(sites, head)
            result = send_round(run, state, heads, accept, settings.deadline_s)
            if len(result.accepted) >= needed:
                return result, updates, combiner.combined(), combiner.chosen()
        log.warning(
            "stage %s round %d: try %d had too few replies", head.stage, head.round, attempt
        )
    raise RunError(
        f"stage {head.stage}, round {head.round}: {len(result.accepted)} of "
        f"{needed} sites needed gave a usable update "
        f"(refused: {result.refused or 'none'}). "
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
        studies = state.sites[site].counts.get("train_studies", 0)
        reason = firewall.judge(site, update, max_examples=studies)
        if reason is None:
            combiner.fold(site, update.delta, update.num_examples)
            updates[site] = replace(update, delta={})
            fault_point("mid_aggregation")
        return reason

    return accept


def _averaged(state: RunState, stage: Stage, settings: StageConfig, patients: int) -> RunState:
    if settings.ema_half_life <= 0:
        return state
    newest = {p: state.weights[p] for p in stage.trains}
    average = {p: state.average.get(p, newest[p]) for p in newest}
    average = moving_average(
        average, newest, examples=patients * settings.local_epochs, half_life=settings.ema_half_life
    )
    return replace(state, average=state.average | average)
