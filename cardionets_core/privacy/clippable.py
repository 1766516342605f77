"""What cannot be trained privately is refused before anything is charged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from cardionets_core.errors import PrivacyError
from cardionets_core.models.blocks import LearnedTokens
from cardionets_core.models.ecg_encoder import LeadSpectrumEmbed
from cardionets_core.privacy.engines import SLACK, parameters_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cardionets_core.models.cardionet import CardioNet
    from cardionets_core.privacy.engines import Engine
    from cardionets_core.privacy.mechanism import Grouping
    from cardionets_core.training.objective import Objective

MIXING = (nn.modules.batchnorm._BatchNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
"""Layers that normalise over a batch, or keep statistics of it as buffers."""

DRAWING = (nn.modules.dropout._DropoutNd, nn.RReLU)
"""Layers that draw random numbers from PyTorch's global stream."""

GHOST_LAYERS: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    LearnedTokens,
    LeadSpectrumEmbed,
)
"""Layers whose gradient per patient follows from their input and the gradient of their output."""


def require_clippable(
    model: CardioNet,
    objective: Objective,
    *,
    trains: Sequence[str],
    grouping: Grouping,
    engine: Engine,
) -> None:
    """Refuse an objective, a layer or weights that per-patient clipping cannot cover.

    Nothing here looks at records, so what it refuses tells nothing about them.

    Raises:
        PrivacyError: `privacy_plan`, with the thing, the cause and what to do.
    """
    if grouping == "patient" and not objective.per_patient:
        raise _refused(
            f"the loss of {objective.name!r} mixes patients: clipping each one's gradient would "
            "not bound what one of them changes in the others'. Set privacy.contrastive to "
            "`bucket`, or to `public_negatives` with a bank"
        )
    parameters = parameters_of(model, trains)
    if not parameters:
        raise _refused(f"{', '.join(trains)} has nothing to train. Leave the stage out")
    for name, parameter in parameters.items():
        if parameter.dtype not in SLACK:
            raise _refused(f"{name} is {parameter.dtype}; private training needs float32 weights")
        if not bool(torch.isfinite(parameter).all()):
            raise _refused(f"{name} holds numbers that are not finite. Start from other weights")
    for name, module in model.named_modules():
        _require_alone(name, module)
    if grouping == "patient" and engine == "ghost":
        _require_ghost_layers(model, trains)


def pick_engine(model: CardioNet, trains: Sequence[str], device: torch.device) -> Engine:
    """Return the engine for a device: ghost on a GPU, where all layers are made for it."""
    if device.type != "cuda":
        return "vmap"
    try:
        _require_ghost_layers(model, trains)
    except PrivacyError:
        return "vmap"
    return "ghost"


def _require_alone(name: str, module: nn.Module) -> None:
    if isinstance(module, MIXING):
        raise _refused(
            f"{name} ({type(module).__name__}) normalises over patients or keeps statistics of "
            "them. Use GroupNorm or LayerNorm"
        )
    if isinstance(module, DRAWING) and getattr(module, "p", 1.0) > 0:
        raise _refused(
            f"{name} ({type(module).__name__}) draws random numbers of its own. Let the "
            "objective's `draw` make them, or set p to 0"
        )


def _require_ghost_layers(model: CardioNet, trains: Sequence[str]) -> None:
    owner: dict[int, str] = {}
    for name, module in _trained_modules(model, trains):
        # Opacus' rule for LayerNorm reads its bias.
        bare = isinstance(module, nn.LayerNorm) and module.bias is None
        if bare or type(module) not in GHOST_LAYERS:
            raise _refused(
                f"{name} ({type(module).__name__}) has no gradient per patient in the ghost "
                "engine. Use the engine `vmap`"
            )
        for own, parameter in module.named_parameters(recurse=False):
            if id(parameter) in owner:
                raise _refused(
                    f"{name}.{own} is the same tensor as {owner[id(parameter)]}, which the ghost "
                    "engine cannot clip. Use the engine `vmap`"
                )
            owner[id(parameter)] = f"{name}.{own}"


def _trained_modules(model: CardioNet, trains: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules(remove_duplicate=False):
        if name.split(".")[0] in trains and list(module.parameters(recurse=False)):
            yield name, module


def _refused(text: str) -> PrivacyError:
    return PrivacyError("privacy_plan", f"private training: {text}.")
