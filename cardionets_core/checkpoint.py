"""The checkpoint: weights (safetensors) and all that gives them meaning (JSON), written atomically.

A folder holds `checkpoint.json`, which names its weights file and that file's SHA-256, and the
weights of this and the previous round. The JSON is replaced last, so a crash leaves the previous
pair in force.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from cardionets_core.config_tree import build, to_mapping
from cardionets_core.errors import CheckpointError, ConfigError
from cardionets_core.faults import fault_point
from cardionets_core.model_config import ModelConfig
from cardionets_core.models.cardionet import CardioNet, build_model
from cardionets_core.packing import Arrays, Groups

FORMAT = 1
FILE_NAME = "checkpoint.json"


@dataclass(frozen=True)
class CheckpointInfo:
    """What stands in `checkpoint.json` beside the weights.

    Attributes:
        model: the model's config, preprocessing included.
        phenotypes: names in the order of the phenotype head's outputs.
        diseases: likewise for the disease head (logits).
        scaler_mean: mean of each phenotype over the federation's training patients, in its unit.
        scaler_sd: likewise the standard deviation.
        residual_sd: sd of the phenotype head's error on validation patients, in z units; empty
            before the evaluate stage.
        provenance: run name, config hash, seed, stages done, sites with their counts, versions.
        metrics: summary of the evaluate stage.
        state: the server's position in the run, for resuming.
        weights: file name of the weights.
        sha256: of that file.
        format: version of this layout.
    """

    model: ModelConfig
    phenotypes: tuple[str, ...]
    diseases: tuple[str, ...]
    scaler_mean: tuple[float, ...] = ()
    scaler_sd: tuple[float, ...] = ()
    residual_sd: tuple[float, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    weights: str = ""
    sha256: str = ""
    format: int = FORMAT


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back: the model with its weights, and the info."""

    model: CardioNet
    info: CheckpointInfo


def write_checkpoint(folder: Path, info: CheckpointInfo, tensors: Arrays, *, number: int) -> None:
    """Write weights and info so that a reader never sees one without the other.

    Args:
        folder: made if absent.
        info: `weights` and `sha256` are filled in here.
        tensors: named arrays; model weights under `model.`, other server state beside them.
        number: grows with every call of a run; names the weights file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = save_tensors(tensors)
    name = f"weights-{number:06d}.safetensors"
    written = to_mapping(info) | {"weights": name, "sha256": hashlib.sha256(data).hexdigest()}
    _write_file(folder / name, data)
    fault_point("saved_not_committed")
    current = folder / FILE_NAME
    if current.exists():
        _write_file(folder / "previous.json", current.read_bytes())
    _write_file(current, json.dumps(written, indent=1, allow_nan=False).encode())
    _drop_old(folder)


def read_info(folder: Path) -> CheckpointInfo:
    """Read `checkpoint.json`.

    Raises:
        CheckpointError: absent, unreadable or of another format.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise CheckpointError(
            f"{folder} holds no {FILE_NAME}; "
            "name the `checkpoint` folder of a run (outputs/RUN/checkpoint)."
        )
    try:
        values = json.loads(path.read_text())
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ValueError("it is of another format")
        return build(CheckpointInfo, values, FILE_NAME)
    except (ValueError, ConfigError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of format {FORMAT}: {error}") from None


def read_tensors(folder: Path, info: CheckpointInfo) -> Arrays:
    """Read the weights that `info` names and check their SHA-256.

    Raises:
        CheckpointError: the file is absent, torn or changed.
    """
    path = folder / Path(info.weights).name
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; copy the whole checkpoint folder.")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != info.sha256:
        raise CheckpointError(
            f"{path} is torn or changed: its SHA-256 is not the one in {FILE_NAME}."
        )
    try:
        tensors: Arrays = load_tensors(data)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from None
    return tensors


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint into a model on the CPU, in eval mode.

    Raises:
        CheckpointError: see `read_info` and `read_tensors`, or weights that do not fit the model.
    """
    info = read_info(folder)
    model = build_model(info.model)
    load_parts(model, to_groups(read_tensors(folder, info)))
    return Checkpoint(model.eval(), info)


def part_arrays(model: CardioNet, part: str) -> Arrays:
    """Return the parameters and buffers of a part as NumPy arrays, by name."""
    state = model.get_submodule(part).state_dict()
    return {k: np.array(v.detach().cpu().numpy()) for k, v in state.items()}


def load_parts(model: CardioNet, groups: Groups) -> None:
    """Load parts into the model, strictly.

    Raises:
        CheckpointError: a part or tensor that the model does not have, or another shape.
    """
    import torch

    for part, arrays in groups.items():
        try:
            state = {k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}
            model.get_submodule(part).load_state_dict(state, strict=True)
        except (AttributeError, RuntimeError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise CheckpointError(
                f"weights of part {part!r} do not fit the model: {reason}"
            ) from None


def to_tensors(groups: Groups, prefix: str = "model") -> Arrays:
    """Flatten part -> name -> array into `prefix.part.name` -> array."""
    return {f"{prefix}.{p}.{n}": a for p, arrays in groups.items() for n, a in arrays.items()}


def to_groups(tensors: Arrays, prefix: str = "model") -> Groups:
    """Undo `to_tensors`, leaving tensors of other prefixes out."""
    groups: Groups = {}
    for key, array in tensors.items():
        head, _, rest = key.partition(".")
        part, _, name = rest.partition(".")
        if head == prefix:
            groups.setdefault(part, {})[name] = array
    return groups


def _write_file(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _drop_old(folder: Path) -> None:
    """Delete weights that neither the current nor the previous info names."""
    kept = set()
    for name in (FILE_NAME, "previous.json"):
        if (folder / name).exists():
            kept.add(json.loads((folder / name).read_text())["weights"])
    for path in folder.glob("weights-*.safetensors"):
        if path.name not in kept:
            path.unlink()
