"""The types that objectives are made of; objectives.py has the rules and the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from cardionets_core.batch import Batch
    from cardionets_core.models.cardionet import CardioNet

Noise = dict[str, Tensor]
"""All randomness of one batch by name; every tensor has leading dimension B."""


@dataclass(frozen=True)
class Losses:
    """What an objective gives for a batch.

    Attributes:
        per_patient: [B], fp32; the objective is its mean.
        terms: the addends of it and things worth a curve, each [B], detached.
    """

    per_patient: Tensor
    terms: dict[str, Tensor]


class Draw(Protocol):
    """Draws the randomness of one batch."""

    def __call__(self, model: CardioNet, batch: Batch, generator: torch.Generator) -> Noise:
        """Return tensors with leading dimension B on the batch's device."""


class Loss(Protocol):
    """The loss of one batch under given randomness."""

    def __call__(self, model: CardioNet, batch: Batch, noise: Noise) -> Losses:
        """Return the loss of every patient."""


@dataclass(frozen=True)
class Objective:
    """An objective with its options set.

    Attributes:
        name: of its kind.
        draw: see Draw.
        loss: see Loss.
        per_patient: True where row i of the loss depends on patient i (and noise row i) only.
    """

    name: str
    draw: Draw
    loss: Loss
    per_patient: bool


@dataclass(frozen=True)
class ObjectiveKind:
    """One line of the table of objectives.

    Attributes:
        name: what stages call it.
        needs: what a patient must have (words of SiteDataset.indices).
        parts: the parts that are trained by default.
        defaults: options and their default values.
        make: (options, progress) -> Objective.
    """

    name: str
    needs: frozenset[str]
    parts: tuple[str, ...]
    defaults: dict[str, float]
    make: Callable[[dict[str, float], float], Objective]


def draw_uniform(
    shape: tuple[int, ...], generator: torch.Generator, device: torch.device
) -> Tensor:
    """Draw numbers in [0, 1) on the generator's device and move them."""
    return torch.rand(shape, generator=generator, device=generator.device).to(device)


def no_noise(model: CardioNet, batch: Batch, generator: torch.Generator) -> Noise:
    """Draw nothing."""
    return {}


def make_losses(per_patient: Tensor, **terms: Tensor) -> Losses:
    """Return Losses with detached terms."""
    return Losses(per_patient, {name: term.detach() for name, term in terms.items()})
