"""The checkpoint: weights (safetensors) and all that gives them meaning (JSON), written atomically.

A folder holds `checkpoint.json`, which names its weights file and that file's SHA-256, and the
weights of this and the previous round. The JSON is replaced last, so a crash leaves the previous
pair in force. It carries a SHA-256 of itself, so that a changed digit is found, too.
`previous.json` names the generation before; a resumed run goes on from it where the last is torn.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from cardionets_core.config_tree import build, to_mapping
from cardionets_core.durable import move_into_place
from cardionets_core.errors import CheckpointError, ConfigError
from cardionets_core.faults import fault_point
from cardionets_core.model_config import ModelConfig
from cardionets_core.models.cardionet import CardioNet, build_model
from cardionets_core.packing import Arrays, Groups
from cardionets_core.tensor_file import tensor_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

FORMAT = 2
UNSEALED = 1
"""The format before this one: the same without a SHA-256 of the JSON; still read."""

FILE_NAME = "checkpoint.json"
PREVIOUS = "previous.json"
SEAL = "seal"


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
    name = f"weights-{number:06d}.safetensors"
    try:
        mark = _write_file(folder / name, tensor_bytes(tensors))
        fault_point("saved_not_committed")
        current = folder / FILE_NAME
        if current.exists():
            _write_file(folder / PREVIOUS, [current.read_bytes()])
        written = to_mapping(info) | {"weights": name, "sha256": mark}
        sealed = written | {SEAL: seal(written)}
        _write_file(current, [json.dumps(sealed, indent=1, allow_nan=False).encode()])
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be written ({error.strerror}); the generation before is whole. "
            "Make room or mend the folder's rights, then resume the run."
        ) from error
    _drop_old(folder)


def has_checkpoint(folder: Path) -> bool:
    """Return whether a folder holds a generation, be it a torn one."""
    return any((folder / name).exists() for name in (FILE_NAME, PREVIOUS))


def read_info(folder: Path, name: str = FILE_NAME) -> CheckpointInfo:
    """Read `checkpoint.json`, or the JSON of the generation before it.

    Raises:
        CheckpointError: absent, unreadable, torn, changed or of another format.
    """
    path = folder / name
    if not path.is_file():
        raise CheckpointError(
            f"{folder} holds no {name}; "
            "name the `checkpoint` folder of a run (outputs/RUN/checkpoint)."
        )
    try:
        values = json.loads(path.read_text())
        if not isinstance(values, dict) or values.get("format") not in (FORMAT, UNSEALED):
            raise ValueError("it is of another format")
        mark = values.pop(SEAL, None)
        if mark != seal(values) and (mark is not None or values["format"] != UNSEALED):
            raise ValueError("it is torn or changed: its SHA-256 is not the one that it names")
        return build(CheckpointInfo, values, name)
    except (ValueError, RecursionError, ConfigError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of format {FORMAT}: {error}") from None


def seal(values: dict[str, Any]) -> str:
    """Return the SHA-256 of an info's values, however the JSON is laid out."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_newest(folder: Path) -> tuple[CheckpointInfo, Arrays, str]:
    """Read the newest whole generation; where it is not the last, put it in force again.

    Returns:
        Info, tensors, and what was wrong with the last generation (empty: nothing).

    Raises:
        CheckpointError: neither this generation nor the one before is whole.
    """
    try:
        info = read_info(folder)
        return info, read_tensors(folder, info), ""
    except CheckpointError as torn:
        try:
            info = read_info(folder, PREVIOUS)
            tensors = read_tensors(folder, info)
        except CheckpointError:
            raise torn from None
        # A later save must never keep the torn generation as its previous one.
        _write_file(folder / FILE_NAME, [(folder / PREVIOUS).read_bytes()])
        return info, tensors, str(torn)


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


def read_checkpoint(folder: Path, needs: Collection[str] | None = None) -> Checkpoint:
    """Read a checkpoint into a model on the CPU, in eval mode.

    Args:
        folder: of the checkpoint.
        needs: parts that must be whole; None is all. What a run has kept at its sites is not in its
            checkpoint, and stays here as the model was built.

    Raises:
        CheckpointError: see `read_info` and `read_tensors`; weights that do not fit the model, or a
            needed part that is not whole.
    """
    info = read_info(folder)
    model = build_model(info.model)
    groups = to_groups(read_tensors(folder, info))
    if info.provenance.get("local_parts"):
        groups = _with_own(folder, info, model, groups, needs)
    load_parts(model, groups)
    return Checkpoint(model.eval(), info)


def _with_own(
    folder: Path,
    info: CheckpointInfo,
    model: CardioNet,
    groups: Groups,
    needs: Collection[str] | None,
) -> Groups:
    """Return the groups with the model's own tensors where the sites have kept theirs."""
    whole: Groups = {}
    for part, child in model.named_children():
        saved = groups.get(part, {})
        if (needs is None or part in needs) and child.state_dict().keys() - saved.keys():
            raise CheckpointError(
                f"{folder} holds no whole {part}: the run kept tensors of it at its sites "
                f"(local_parts: {', '.join(info.provenance['local_parts'])}), and each site has "
                "its own. What needs this part works at those sites only, in their evaluation."
            )
        whole[part] = part_arrays(model, part) | saved
    return whole


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


def _write_file(path: Path, pieces: Iterable[bytes | memoryview]) -> str:
    """Write a file in one move and return its SHA-256."""
    temporary = path.with_name(f".{path.name}.tmp")
    total = hashlib.sha256()
    try:
        with temporary.open("wb") as file:
            for piece in pieces:
                total.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        move_into_place(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)  # half a file must not fill a full disk
        raise
    return total.hexdigest()


def _drop_old(folder: Path) -> None:
    """Delete weights that neither the current nor the previous info names."""
    kept = set()
    for name in (FILE_NAME, PREVIOUS):
        try:
            kept.add(read_info(folder, name).weights)
        except CheckpointError:
            continue  # a torn one names nothing that could be used
    for path in folder.glob("weights-*.safetensors"):
        if path.name not in kept:
            path.unlink()
