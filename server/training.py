"""The rounds of one training stage."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from cardionets_core.checkpoint import load_parts, part_arrays
from cardionets_core.faults import fault_place, fault_point
from cardionets_core.local_parts import HEAD_SOURCES, needed_parts, split
from cardionets_core.messages import TrainPlan, Update
from cardionets_core.models.cardionet import build_model
from cardionets_core.packing import fingerprint
from cardionets_core.runtime import return_freed_memory
from cardionets_core.training.stages import HEADS, Stage, configured
from server.central import central_record, with_central_noise
from server.exchange import Run, header, round_record
from server.gathering import gather, sites_needed
from server.handshake import admitted, news_of
from server.norms import learned_names
from server.owners import head_for, require_sites, shares_of, with_quorum
from server.privacy import judged_alike, passes_of, told_of
from server.screening import Asked, Firewall
from server.secure_rounds import gather_securely
from server.state import RunState, save_state
from server.strategies.averaging import fedavg, moving_average
from server.strategies.optimizers import optimise, start_moments
from server.strategies.scaffold import (
    CONTROL,
    begun,
    control_heads,
    scaffold_step,
    start_control,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cardionets_core.packing import Groups
    from cardionets_core.run_config import RunConfig, StageConfig


def train_stage(run: Run, state: RunState, name: str) -> RunState:
    """Run the rounds of one training stage that are still to do.

    Raises:
        ConfigError: this or a later stage has too few sites for the strategy, or for a part.
        RunError: too few sites offer what the stage needs, or too few answered a round.
    """
    require_sites(run, state)
    settings = run.config.stage[name]
    stage = configured(name, settings.options, run.config.model)
    if state.round == 0:
        state = _prepared(state, stage, run.config)
    for round_index in range(state.round, settings.rounds):
        fault_place(stage=name, number=round_index + 1)
        fault_point("between_rounds")
        return_freed_memory()
        state = admitted(run, state)
        sites = list(shares_of(run.config, stage, state.sites))
        state = train_round(run, state, stage, settings, sites=sites, round_index=round_index)
        fault_point("aggregated_not_saved")
        state = save_state(replace(state, round=round_index + 1), run.config, run.checkpoint)
        fault_point("committed_not_announced")
        # Told after it is saved: what a reader has seen, no kill can take back.
        run.report(state.history[-1])
    # What the optimizer remembers is of this stage's loss; the next one begins anew.
    return replace(state, moments={})


def _prepared(state: RunState, stage: Stage, config: RunConfig) -> RunState:
    """Start a head from the aligned encoder, and what the strategy remembers of a stage.

    A head that the run began with is trained on as it is.
    """
    part = HEADS.get(stage.name)
    if part is not None and part not in config.start.parts:
        model = build_model(config.sized_model(), seed=config.seed)
        for name in (*HEAD_SOURCES, part):
            # Of what stays at the sites, nothing is copied into a head that travels.
            load_parts(model, {name: part_arrays(model, name) | state.weights.get(name, {})})
        model.start_head(part)
        started, _ = split({part: part_arrays(model, part)}, config.local_parts)
        state = replace(state, weights=state.weights | started)
    weights = averaged(state, stage)
    learned = learned_names(config.sized_model(), weights)
    if config.strategy.name == "scaffold":
        return replace(state, moments={CONTROL: start_control(weights, learned)})
    return replace(state, moments=start_moments(config.strategy, weights, learned))


def averaged(state: RunState, stage: Stage) -> Groups:
    """Return the weights of the stage's parts, less what stays at the sites."""
    return {p: state.weights[p] for p in stage.trains if p in state.weights}


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
        parts=needed_parts(stage, run.config.sized_model(), run.config.local_parts),
        plan=train_plan(run.config, settings, round_index),
    )
    before = averaged(state, stage)
    learned = learned_names(head.model, before)
    shares = shares_of(run.config, stage, {site: state.sites[site] for site in sites})
    asked = Asked(
        run.config.name,
        stage.name,
        head.round,
        expected=before,
        sites=len(sites),
        learned=learned,
        shares={s: {p: n for p, n in share.items() if p in before} for s, share in shares.items()},
        together=[[p for p in member.trains if p in before] for member in stage.members],
    )
    judged = judged_alike(run.config, settings)
    firewall = Firewall(asked, config=run.config.screening, settings=judged, records=state.history)
    heads = {site: head_for(head, share) for site, share in shares.items()}
    if CONTROL in state.moments:
        first = begun(state.history, stage.name, shares)
        heads = control_heads(heads, state.history, first=first)
        if first == head.round:
            state = replace(state, moments={CONTROL: start_control(before, learned)})
    if run.config.secure_aggregation.enabled:
        got = gather_securely(run, state, head, heads, expected=before)
    else:
        got = gather(run, state, head, heads, firewall)
    noised = with_central_noise(run.config, got.delta, got.updates, sites=len(heads))
    got = replace(got, delta=noised)
    if CONTROL in state.moments:
        weights, control = scaffold_step(
            before,
            state.moments[CONTROL],
            got.delta,
            lr=run.config.strategy.numbers()["lr"],
            local_lr=settings.lr_at(round_index),
            shares={p: len(got.result.accepted) / len(heads) for p in before},
        )
        state = replace(state, moments={CONTROL: control})
    elif state.moments:
        weights, moments = optimise(run.config.strategy, before, got.delta, state.moments)
        state = replace(state, moments=moments)
    else:
        weights = fedavg(before, got.delta)
    record = round_record(stage.name, head.round, settings.rounds, got.result, got.updates)
    record |= {"tries": got.tries, "deadline_s": round(got.deadline_s, 3)}
    quorum = with_quorum(run.config, stage.name, state.sites)
    record["sites_needed"] = sites_needed(run.config, quorum)
    record["weights"] = mark_of_parts(weights)
    if got.secure:
        record["secure_aggregation"] = got.secure  # no update was there to be judged
    else:
        record["screening"] = firewall.record(got.result.accepted)
    record |= told_of(run.ledgers, heads) | central_record(run.config, len(heads))
    record |= news_of(run)
    if stage.members:
        record["examples"] = {site: u.examples for site, u in sorted(got.updates.items())}
    if got.chosen:
        record["chosen"] = got.chosen
    state = replace(state, weights=state.weights | weights, history=(*state.history, record))
    return _averaged(state, stage, settings, got.updates, passes_of(run.config, stage.name))


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
        optimizer="sgd" if config.strategy.name == "scaffold" else "adamw",
        codec=config.wire.codec,
        budget_s=settings.budget_s,
        partial=settings.budget_s > 0,
    )


def mark_of_parts(groups: Groups) -> str:
    """Return the SHA-256 that two runs are compared by: over part names and fingerprints."""
    marks = "".join(f"{part}|{fingerprint(groups[part])}|" for part in sorted(groups))
    return hashlib.sha256(marks.encode()).hexdigest()


def _averaged(
    state: RunState,
    stage: Stage,
    settings: StageConfig,
    updates: Mapping[str, Update],
    passes: float,
) -> RunState:
    """Return the state with the moving average of each part moved by the studies behind it."""
    if settings.ema_half_life <= 0:
        return state
    average = dict(state.average)
    for part in averaged(state, stage):
        newest = {part: state.weights[part]}
        average |= moving_average(
            {part: average.get(part, newest[part])},
            newest,
            examples=round(passes * sum(u.examples.get(part, 0) for u in updates.values())),
            half_life=settings.ema_half_life,
        )
    return replace(state, average=average)
