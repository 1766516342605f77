"""Beginning a run with the weights of an earlier one: what fits, and in which units it speaks."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cardionets_core.checkpoint import CheckpointInfo, read_info, read_tensors, to_groups
from cardionets_core.config_tree import to_mapping
from cardionets_core.data.dataset import Scaler
from cardionets_core.errors import CheckpointError, ConfigError, nearest
from cardionets_core.local_parts import is_local
from cardionets_core.models.cardionet import PARTS, build_model
from cardionets_core.training.stages import HEADS, STAGES

if TYPE_CHECKING:
    from collections.abc import Collection

    from cardionets_core.model_config import ModelConfig
    from cardionets_core.packing import Arrays, Groups
    from cardionets_core.run_config import RunConfig

READOUTS = {"phenotype_head": "readout", "ecg_projector": "regress", "cmr_projector": "regress"}
"""Part -> its layers that end in z-scored phenotypes (models/heads.py)."""

MADE_OF = {
    "ecg_encoder": ("ecg", "ecg_encoder"),
    "ecg_decoder": ("ecg", "ecg_encoder", "ecg_decoder"),
    "ecg_projector": ("ecg", "ecg_encoder", "alignment"),
    "cmr_encoder": ("cine", "cmr_encoder"),
    "cmr_decoder": ("cine", "cmr_encoder", "cmr_decoder"),
    "cmr_projector": ("cine", "cmr_encoder", "alignment"),
    "tokenizer": ("cine", "tokenizer"),
    "generator": ("ecg", "ecg_encoder", "cine", "tokenizer", "alignment", "generator"),
    "phenotype_head": ("ecg", "ecg_encoder", "phenotype_head"),
    "disease_head": ("ecg", "ecg_encoder", "disease_head"),
}
"""Part -> sections of ModelConfig that its weights were trained for: shapes alone do not tell."""

FREE = {
    "ecg": ("test_crops",),
    "generator": ("noise_draws", "mask_ratio_min", "ar_steps", "head_steps", "guidance"),
}
"""Section -> keys that say how training or sampling is done, and not what the weights mean."""

BUILT_ON = {
    "ecg_decoder": ("ecg_encoder",),
    "ecg_projector": ("ecg_encoder",),
    "cmr_decoder": ("cmr_encoder",),
    "cmr_projector": ("cmr_encoder",),
    "generator": ("tokenizer", "ecg_encoder", "ecg_projector"),
}
"""Part -> the parts whose outputs it was trained on."""


def pinned(config: RunConfig) -> RunConfig:
    """Return the plan with what its start is: the parts, and the SHA-256 of their weights.

    Raises:
        CheckpointError: no checkpoint, or a torn one.
        ConfigError: a part that it does not hold whole, that nobody has trained, or that does not
            fit this run's model.
    """
    start = config.start
    if not start.is_on:
        return config
    folder = Path(start.checkpoint).expanduser().resolve()
    info = read_info(folder)
    groups = to_groups(read_tensors(folder, info))
    trained = _trained(config, info)
    parts = start.parts or tuple(p for p in PARTS if p in groups and p in trained)
    for part in parts:
        _require_fit(config, info, groups, part, taken=parts)
        _require_trained(config, part, trained)
    done = _stages_done(info)
    stages = tuple(n for n in STAGES if n in done and set(STAGES[n].trains) <= set(parts))
    # Of a checkpoint that does not say so, nobody knows that no virtual heart trained it.
    virtual = info.provenance.get("virtual") is not False
    found = replace(
        start,
        checkpoint=str(folder),
        parts=parts,
        sha256=info.sha256,
        stages=stages,
        virtual=virtual,
    )
    return replace(config, start=found, virtual=config.virtual or virtual)


def start_of(config: RunConfig) -> dict[str, Any]:
    """Return which weights a run began with; not where they lay, which is the coordinator's."""
    start = to_mapping(config.start)
    return {k: v for k, v in start.items() if k != "checkpoint"} if config.start.is_on else {}


def start_weights(config: RunConfig) -> Groups:
    """Read the weights that a pinned plan begins with, part -> name -> array.

    Raises:
        CheckpointError: the checkpoint is no longer the one that was planned with.
    """
    groups = to_groups(read_tensors(Path(config.start.checkpoint), _info(config)))
    return {p: groups[p] for p in config.start.parts}


def start_in_units_of(config: RunConfig, weights: Groups, scaler: Scaler) -> Groups:
    """Return those of the started parts that predict phenotypes, in the z-scores of the run.

    Args:
        config: nothing is returned where it starts from nothing.
        weights: part -> name -> array, as the run began.
        scaler: of the run, which its sites' phenotypes have just given.

    Raises:
        CheckpointError: the checkpoint is no longer the one that was planned with.
    """
    known = {p: weights[p] for p in READOUTS if p in config.start.parts}
    if not known or not config.phenotypes:
        return {}
    info = _info(config)
    before = Scaler(np.array(info.scaler_mean), np.array(info.scaler_sd))
    return {p: rescaled(arrays, READOUTS[p], before, scaler) for p, arrays in known.items()}


def _info(config: RunConfig) -> CheckpointInfo:
    start = config.start
    info = read_info(Path(start.checkpoint))
    if info.sha256 != start.sha256:
        raise CheckpointError(
            f"{start.checkpoint} no longer holds the weights that this run was planned with "
            f"(SHA-256 {start.sha256[:12]}, now {info.sha256[:12]}). Submit a new run."
        )
    return info


def rescaled(arrays: Arrays, layer: str, before: Scaler, after: Scaler) -> Arrays:
    """Return a part that predicts the same phenotypes in the z-scores of another scaler.

    Its readout gives z for the value mean + sd z. In other z-scores that value is (mean + sd z -
    other mean) / other sd: linear in z, and so a matter of its last layer.

    Args:
        arrays: name -> array.
        layer: the readout: one linear layer, or an MLP whose last one is `down`.
        before: what the part was trained with.
        after: of the z-scores to come.
    """
    ratio = before.sd / after.sd
    shift = (before.mean - after.mean) / after.sd
    last = f"{layer}.down" if f"{layer}.down.weight" in arrays else layer
    weight, bias = arrays[f"{last}.weight"], arrays[f"{last}.bias"]
    return arrays | {
        f"{last}.weight": (weight * ratio[:, None]).astype(weight.dtype),
        f"{last}.bias": (bias * ratio + shift).astype(bias.dtype),
    }


def _built_on(model: ModelConfig, part: str) -> tuple[str, ...]:
    """Return the parts whose outputs a part reads; a head may have an encoder of its own."""
    if part in HEADS.values() and getattr(model, part).encoder != "own":
        return ("ecg_encoder",)
    return BUILT_ON.get(part, ())


def _stages_done(info: CheckpointInfo) -> set[str]:
    """Return the stages that are in a checkpoint's weights, those before its own start, too."""
    said = info.provenance
    done = {*said.get("stages_done", ()), *said.get("start", {}).get("stages", ())}
    return done & STAGES.keys()


def _trained(config: RunConfig, info: CheckpointInfo) -> set[str]:
    """Return the parts that were trained, and those that such a part was trained to read.

    Raises:
        ConfigError: there are none.
    """
    parts = {part for name in _stages_done(info) for part in STAGES[name].trains}
    parts |= set(info.provenance.get("start", {}).get("parts", ()))
    if not parts:
        raise ConfigError(
            f"start.checkpoint={config.start.checkpoint}: its run has finished no stage of "
            "training, so its weights are as random as those of a new run. Name another run's."
        )
    return parts | {read for part in parts for read in _built_on(info.model, part)}


def _require_trained(config: RunConfig, part: str, trained: Collection[str]) -> None:
    """Refuse random weights: a site might spend its privacy budget on what is built on them."""
    if part in trained:
        return
    raise ConfigError(
        f"start.checkpoint={config.start.checkpoint}: no stage that its run has finished trained "
        f"{part}, so its weights are random. Trained: "
        f"{', '.join(p for p in PARTS if p in trained)}. Take {part} out of start.parts, or "
        f"name a run with one of the stages {_training(part)}."
    )


def _training(part: str) -> str:
    return ", ".join(name for name, stage in STAGES.items() if part in stage.trains)


def _require_fit(
    config: RunConfig, info: CheckpointInfo, groups: Groups, part: str, *, taken: Collection[str]
) -> None:
    """Refuse a part that is not there, that stays at the sites, or that means something else."""
    where = f"start.checkpoint={config.start.checkpoint}"
    if part not in PARTS:
        raise ConfigError(f"start.parts: {part!r} is no part{nearest(part, PARTS)}.")
    if part not in groups:
        raise ConfigError(
            f"{where} holds no {part}; its parts: {', '.join(groups)}. Take it out of start.parts."
        )
    due = _shapes(config.sized_model())[part]
    own = [n for n in due if is_local(config.local_parts, part, n)]
    if own:
        raise ConfigError(
            f"start.parts: {part}.{own[0]} stays at the sites (local_parts), which begin it "
            f"themselves. {_others(config, info, groups, part)}"
        )
    alone = [p for p in _built_on(config.model, part) if p not in taken]
    if alone:
        raise ConfigError(
            f"start.parts: {part} speaks of what {' and '.join(alone)} gives and means nothing "
            f"beside another one; take {'it' if len(alone) == 1 else 'them'}, too."
        )
    different = _difference(config, info, groups[part], part)
    if different:
        raise ConfigError(
            f"{where}: its {part} does not fit this run's model: {different}. "
            f"{_others(config, info, groups, part)}"
        )


@lru_cache(maxsize=2)  # asked for each part of one model
def _shapes(model: ModelConfig) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return part -> name -> shape; builds no weights."""
    built = build_model(model, device="meta")
    parts = {part: built.get_submodule(part).state_dict() for part in PARTS}
    return {part: {n: tuple(t.shape) for n, t in own.items()} for part, own in parts.items()}


def _meaning(model: ModelConfig, section: str) -> dict[str, Any]:
    """Return those values of a section that trained weights depend on."""
    values = vars(getattr(model, section))
    return {k: v for k, v in values.items() if k not in FREE.get(section, ())}


def _others(config: RunConfig, info: CheckpointInfo, groups: Groups, unfit: str) -> str:
    """Return the next step: which parts can be taken."""
    found = [p for p in PARTS if p in groups and p in _trained(config, info) and p != unfit]
    fit = [p for p in found if not _difference(config, info, groups[p], p)]
    if not fit:
        return "None of its parts does: plan with the model of that run (model=...)."
    return f"Take the parts that fit: start.parts=[{','.join(fit)}]."


def _difference(config: RunConfig, info: CheckpointInfo, arrays: Arrays, part: str) -> str:
    """Return in what a part differs from the model of the run; empty where it fits."""
    model = config.sized_model()
    due = _shapes(model)[part]
    for name in sorted(due.keys() | arrays.keys()):
        there = arrays[name].shape if name in arrays else "absent"
        here = due.get(name, "absent")
        if there != here:
            return f"{name} is {there} there and {here} here"
    for section in MADE_OF[part]:
        earlier, own = _meaning(info.model, section), _meaning(model, section)
        for key, value in earlier.items():
            if value != own[key]:
                return f"model.{section}.{key} is {value} there and {own[key]} here"
    if part in READOUTS and not info.scaler_mean:
        return "its run ended before it knew the phenotypes' mean and sd"
    if part in READOUTS and info.phenotypes != config.phenotypes:
        return "its phenotypes are others, or in another order"
    if part == "disease_head" and info.diseases != config.diseases:
        return "its diseases are others, or in another order"
    return ""
