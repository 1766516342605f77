"""The FedAvg rounds of one training stage."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from cardionets_core.checkpoint import load_parts, part_arrays
from cardionets_core.errors import RunError
from cardionets_core.messages import TrainPlan, Update
from cardionets_core.models.cardionet import build_model
from cardionets_core.training.stages import HEADS, Stage, configured
from server.aggregation import ExactMean, screen
from server.exchange import Run, header, round_record, send_round
from server.state import RunState, save_state
from server.strategies import fedavg, moving_average

if TYPE_CHECKING:
    from cardionets_core.run_config import RunConfig, StageConfig

TRIES = 2
"""How often a round is tried before too few replies end the run."""

log = logging.getLogger("cardionets.server")


def train_stage(run: Run, state: RunState, name: str) -> RunState:
    """Run the rounds of one training stage that are still to do."""
    settings = run.config.stage[name]
    stage = configured(name, settings.options, run.config.model)
    sites = [n for n in sorted(run.nodes) if stage.modality in state.sites[n].modalities]
    if len(sites) < settings.min_sites:
        raise RunError(
            f"stage {name}: {len(sites)} sites offer {stage.modality!r}, {settings.min_sites} "
            "are needed. Leave the stage out, or lower its min_sites."
        )
    if state.round == 0:
        state = _prepared(state, stage, run.config)
    for round_index in range(state.round, settings.rounds):
        state = train_round(run, state, stage, settings, sites=sites, round_index=round_index)
        state = save_state(replace(state, round=round_index + 1), run.config, run.checkpoint)
    return state


def _prepared(state: RunState, stage: Stage, config: RunConfig) -> RunState:
    """Start a head from the aligned encoder."""
    part = HEADS.get(stage.name)
    if part is None:
        return state
    model = build_model(config.sized_model())
    load_parts(model, {p: state.weights[p] for p in ("ecg_encoder", "ecg_projector", part)})
    model.start_head(part)
    return replace(state, weights=state.weights | {part: part_arrays(model, part)})


def train_round(
    run: Run,
    state: RunState,
    stage: Stage,
    settings: StageConfig,
    *,
    sites: list[str],
    round_index: int,
) -> RunState:
    """Run one FedAvg round and return the state with the new global weights."""
    plan = TrainPlan(
        local_epochs=settings.local_epochs,
        batch_size=settings.batch_size,
        lr=settings.lr_at(round_index),
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        max_steps=settings.max_steps,
        progress=round_index / settings.rounds,
        options=settings.options,
    )
    head = header(
        run,
        state,
        stage.name,
        number=round_index + 1,
        trains=stage.trains,
        parts=stage.parts,
        plan=plan,
    )
    expected = {p: state.weights[p] for p in stage.trains}
    for attempt in range(1, TRIES + 1):
        mean, updates = ExactMean(), dict[str, Update]()

        def accept(
            site: str, update: Update, mean: ExactMean = mean, updates: dict[str, Update] = updates
        ) -> str | None:
            if (update.site, update.run, update.round) != (site, run.config.name, head.round):
                return "identity"
            studies = state.sites[site].counts.get("train_studies", 0)
            reason = screen(update, expected=expected, max_examples=studies)
            if reason is None:
                mean.fold(update.delta, update.num_examples)
                updates[site] = replace(update, delta={})
            return reason

        result = send_round(run, state, dict.fromkeys(sites, head), accept, settings.deadline_s)
        if len(result.accepted) >= settings.min_sites:
            break
        log.warning(
            "stage %s round %d: try %d had too few replies", stage.name, head.round, attempt
        )
    else:
        raise RunError(
            f"stage {stage.name}, round {head.round}: {len(result.accepted)} of "
            f"{settings.min_sites} sites needed gave a usable update "
            f"(refused: {result.refused or 'none'}). "
            "The run can be resumed from its last round."
        )
    weights = fedavg(expected, mean.mean())
    record = round_record(stage.name, head.round, settings.rounds, result, updates)
    state = replace(state, weights=state.weights | weights, history=(*state.history, record))
    state = _averaged(state, stage, settings, mean.weight)
    run.report(record)
    return state


def _averaged(state: RunState, stage: Stage, settings: StageConfig, patients: int) -> RunState:
    if settings.ema_half_life <= 0:
        return state
    newest = {p: state.weights[p] for p in stage.trains}
    average = {p: state.average.get(p, newest[p]) for p in newest}
    average = moving_average(
        average, newest, examples=patients * settings.local_epochs, half_life=settings.ema_half_life
    )
    return replace(state, average=state.average | average)
