"""Where a run stands: everything that a restarted server needs to go on, and how it is saved."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cardionets_core.checkpoint import (
    CheckpointInfo,
    part_arrays,
    read_newest,
    to_groups,
    to_tensors,
    write_checkpoint,
)
from cardionets_core.config_tree import digest
from cardionets_core.errors import CheckpointError
from cardionets_core.local_parts import check_local_parts, split
from cardionets_core.models.cardionet import PARTS, build_model
from cardionets_core.runtime import versions
from server.start import start_of, start_weights
from server.strategies.optimizers import FIRST, SECOND
from server.strategies.scaffold import CONTROL

if TYPE_CHECKING:
    from pathlib import Path

    from cardionets_core.packing import Arrays, Groups
    from cardionets_core.run_config import RunConfig
    from server.strategies.optimizers import Moments


@dataclass(frozen=True)
class SiteRecord:
    """What a site said of itself in the handshake."""

    modalities: tuple[str, ...]
    counts: dict[str, int]
    versions: dict[str, str]


@dataclass(frozen=True)
class RunState:
    """The whole state of a run between two rounds.

    Attributes:
        weights: part -> name -> array, the global model.
        average: moving average of the parts that keep one.
        moments: memory of the server optimizer, name -> part -> name -> array; of this stage only.
        scaler_mean: mean of each phenotype; empty before the handshake.
        scaler_sd: likewise.
        residual_sd: see CheckpointInfo.
        sites: what each site said in the handshake.
        stage: index of the stage in hand.
        round: rounds of it that are done.
        history: one record per round, for the summary and the curves.
        metrics: result of the evaluate stage.
        saves: checkpoints written so far.
        notes: what a person should know of how the run went, e.g. that a checkpoint was torn.
    """

    weights: Groups
    average: Groups = field(default_factory=dict)
    moments: Moments = field(default_factory=dict)
    scaler_mean: tuple[float, ...] = ()
    scaler_sd: tuple[float, ...] = ()
    residual_sd: tuple[float, ...] = ()
    sites: dict[str, SiteRecord] = field(default_factory=dict)
    stage: int = 0
    round: int = 0
    history: tuple[dict[str, Any], ...] = ()
    metrics: dict[str, Any] = field(default_factory=dict)
    saves: int = 0
    notes: tuple[str, ...] = ()

    def deployed(self) -> Groups:
        """Return the weights that evaluation and prediction use: the average where there is one."""
        return {**self.weights, **self.average}


def fresh_state(config: RunConfig) -> RunState:
    """Return the state before the first round.

    The weights follow from the config and its seed, and from the checkpoint that it starts from.

    Raises:
        ConfigError: the plan's `local_parts` cannot be.
        CheckpointError: what the plan starts from is no longer what it was.
    """
    check_local_parts(config)
    model = build_model(config.sized_model(), seed=config.seed)
    weights = {part: part_arrays(model, part) for part in PARTS}
    averaged = split(weights, config.local_parts)[0]
    if not config.start.is_on:
        return RunState(weights=averaged)
    return RunState(weights=averaged | start_weights(config))


def save_state(state: RunState, config: RunConfig, folder: Path) -> RunState:
    """Write the checkpoint folder and return the state with its save counted."""
    state = replace(state, saves=state.saves + 1)
    info = CheckpointInfo(
        model=config.sized_model(),
        phenotypes=config.phenotypes,
        diseases=config.diseases,
        scaler_mean=state.scaler_mean,
        scaler_sd=state.scaler_sd,
        residual_sd=state.residual_sd,
        provenance={
            "run": config.name,
            "config_hash": digest(config),
            "seed": config.seed,
            "virtual": config.virtual,
            "local_parts": list(config.local_parts),
            "stages_done": list(config.stages[: state.stage]),
            "start": start_of(config),
            "sites": {n: vars(s) for n, s in state.sites.items()},
            "versions": versions(),
        },
        metrics=state.metrics,
        state={
            "stage": state.stage,
            "round": state.round,
            "saves": state.saves,
            "history": list(state.history),
            "notes": list(state.notes),
        },
    )
    tensors = to_tensors(state.deployed())
    if state.average:
        # Prediction uses the average, training goes on from the raw weights: both are kept.
        raw = {p: state.weights[p] for p in state.average}
        tensors |= to_tensors(raw, "raw")
    for moment, groups in state.moments.items():
        tensors |= to_tensors(groups, moment)
    write_checkpoint(folder, info, tensors, number=state.saves)
    return state


def load_state(config: RunConfig, folder: Path) -> RunState:
    """Read the state back; where it is torn, that of the generation before, with a note.

    Raises:
        CheckpointError: both generations are torn, or of another configuration.
    """
    info, tensors, torn = read_newest(folder)
    if info.provenance.get("config_hash") != digest(config):
        raise CheckpointError(
            f"{folder} belongs to another configuration than this run's config.json; "
            "resume with the run folder as it was written, or start a new run."
        )
    try:
        state = _state_from(info, tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder} does not say where its run stood ({error!r}); it can serve predictions, "
            "not a resumed run."
        ) from None
    if not torn:
        return state
    place = f"stage {state.stage}, round {state.round}"
    note = f"{torn} The run went on from the generation before it ({place})."
    return replace(state, notes=(*state.notes, note))


def _state_from(info: CheckpointInfo, tensors: Arrays) -> RunState:
    deployed, raw = to_groups(tensors), to_groups(tensors, "raw")
    moments = {m: to_groups(tensors, m) for m in (FIRST, SECOND, CONTROL)}
    return RunState(
        weights={**deployed, **raw},
        average={p: deployed[p] for p in raw},
        moments={m: groups for m, groups in moments.items() if groups},
        scaler_mean=info.scaler_mean,
        scaler_sd=info.scaler_sd,
        residual_sd=info.residual_sd,
        sites={
            n: SiteRecord(tuple(s["modalities"]), s["counts"], s["versions"])
            for n, s in info.provenance["sites"].items()
        },
        stage=int(info.state["stage"]),
        round=int(info.state["round"]),
        history=tuple(info.state["history"]),
        metrics=info.metrics,
        saves=int(info.state["saves"]),
        notes=tuple(info.state.get("notes", ())),
    )


def finite(values: np.ndarray) -> list[float | None]:
    """Return floats for JSON, with None where a value is not defined."""
    return [float(v) if np.isfinite(v) else None for v in values]
