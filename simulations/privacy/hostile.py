"""Weights that a coordinator could send so that rounding decides where gradients point.

Every MLP of the ECG encoder folds the one number that a token carries, like dough: stretched, and
laid over itself some ninety times. What differs in the last bit grows with each block, and after
five it is as large as the number itself. All of it is float32 and finite, and the model, the
objective and the layers are ours.
"""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import TYPE_CHECKING, cast

import torch

from cardionets_core.batch import Batch
from cardionets_core.models.cardionet import build_model
from cardionets_core.models.ecg_encoder import EcgVit, LeadSpectrumEmbed
from cardionets_core.privacy.model_randomness import made_up_patients, moved
from cardionets_core.privacy.objectives import private_objective
from cardionets_core.privacy_config import PrivateTask
from cardionets_core.training.loop import freeze_all_but
from cardionets_core.training.stages import STAGES
from simulations.privacy.held import small_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from cardionets_core.models.blocks import Block, Mlp
    from cardionets_core.models.cardionet import CardioNet
    from cardionets_core.privacy.engines import Sums
    from cardionets_core.training.objective import Noise, Objective

CLIP = 1.0
STAGE, DEPTH = "ecg_masked", 5
TRAINS = STAGES[STAGE].trains
SHARES = (0.15, 0.3)
"""How much of the tokens' mean the attention mixes in: without any of it, a token would depend on
itself alone and many more blocks would be needed."""

SIZES = (9, 10, 17, 18)
"""Patients: in chunks of 8, a last one of one or two."""

STEEP, REACH = 2000.0, 3.6
"""Of the folds: how sharp they are, and the range of the number, in sd, over which they lie."""

Given = tuple["CardioNet", Batch, "Noise", "Objective"]
"""Model, patients, what they draw, and the objective, as an engine takes them."""


def hostile(share: float, patients: int = max(SIZES)) -> Given:
    """Return a small CardioNet with folding weights, and patients of random numbers.

    Args:
        share: of the attention (SHARES).
        patients: how many.
    """
    plan = small_plan(f"model.ecg_encoder.depth={DEPTH}")
    honest = moved(build_model(plan.model, seed=0))
    objective = private_objective(STAGE, {}, 0.0, task=PrivateTask(1.0, 0.5, CLIP, 1), bank=None)
    batch = _patients(honest, objective, patients)
    noise = objective.draw(honest, batch, torch.Generator().manual_seed(1))
    model = folding(honest, share)
    freeze_all_but(model, TRAINS)
    return model, batch, noise, objective


def largest_move(given: Given, summed: Callable[[Given], Sums]) -> float:
    """Return how far the sum moves, in C, when the first or the last of n patients leaves.

    Args:
        given: of `hostile`.
        summed: an engine.
    """
    return max(
        float(torch.cat([(v - less[n]).flatten() for n, v in whole.items()]).norm()) / CLIP
        for rows, left in _leavings()
        for whole, less in [(summed(those(given, rows)), summed(those(given, left)))]
    )


def those(given: Given, rows: Sequence[int]) -> Given:
    """Return some of the patients, in this order."""
    model, batch, noise, objective = given
    index = torch.tensor(rows)
    return model, batch.rows(index), {k: v[index] for k, v in noise.items()}, objective


def folding(model: CardioNet, share: float) -> CardioNet:
    """Return a copy of a model whose ECG encoder folds."""
    found = copy.deepcopy(model)
    encoder = cast(EcgVit, found.ecg_encoder)
    source = torch.Generator().manual_seed(2)
    width = encoder.norm.weight.numel()
    angle = 2 * torch.pi * torch.arange(width) / width
    carrier, fixed = (w / w.norm() for w in (angle.cos(), angle.sin()))
    with torch.no_grad():
        _carry(encoder, carrier, fixed, source)
        for block in encoder.transformer.blocks:
            _fold(cast("Block", block), carrier, share, source)
    return found


def _carry(encoder: EcgVit, carrier: Tensor, fixed: Tensor, source: torch.Generator) -> None:
    """Let a token carry a number along one direction, beside a constant that sets its scale."""
    embed = cast(LeadSpectrumEmbed, encoder.embed)
    read = torch.randn(embed.weight.shape[1], generator=source)
    embed.weight.copy_((read / read.norm())[:, None] * carrier / 2)
    embed.bias.zero_()
    encoder.time.weight.zero_()
    encoder.lead.weight.copy_(fixed.expand_as(encoder.lead.weight))


def _fold(block: Block, carrier: Tensor, share: float, source: torch.Generator) -> None:
    """Let the MLP add a zigzag of the number that a token carries, by steps of slope +1 and -1."""
    mixed = torch.randn(len(carrier), generator=source)
    block.attention.out.weight.copy_(share * carrier[:, None] * mixed)
    block.attention.out.bias.zero_()
    mlp: Mlp = block.mlp
    bends = torch.linspace(-REACH, REACH, mlp.up.out_features)
    slopes = torch.full_like(bends, 2.0)
    slopes[1::2], slopes[0] = -2.0, 1.0
    mlp.up.weight.copy_((STEEP * carrier).expand_as(mlp.up.weight))
    mlp.up.bias.copy_(-STEEP * bends)
    mlp.down.weight.copy_(carrier[:, None] * slopes / float(bends[1] - bends[0]) / STEEP)
    mlp.down.bias.copy_(-carrier / 2)


def _leavings() -> Iterator[tuple[list[int], list[int]]]:
    """Yield rows, and the same without the first or the last."""
    for size in SIZES:
        rows = list(range(size))
        yield rows, rows[1:]
        yield rows, rows[:-1]


def _patients(model: CardioNet, objective: Objective, count: int) -> Batch:
    """Return patients who have everything; signals and images are random numbers."""
    one, _ = made_up_patients(model, objective)
    source = torch.Generator().manual_seed(5)

    def repeated(values: Tensor) -> Tensor:
        shape = (count, *values.shape[1:])
        if values.is_floating_point():
            return torch.randn(shape, generator=source)
        return values[:1].expand(shape).clone()

    return Batch(**{f.name: repeated(getattr(one, f.name)) for f in fields(Batch)})
