"""Sums of clipped gradients: chunked vmap (default), one patient at a time, and by buckets.

All engines add up in float64 and clip by the same factor (`clip_factors`), so that they differ by
the rounding of the model's own arithmetic only. A patient is alone in `vmap` and `loop`: an
objective or layer that mixes patients cannot reach across, whatever it does. ghost.py has the
engine for large batches, which has no such wall and is therefore checked before use.

The last bits of a float32 product follow from its shape, and weights exist (whoever sends a task
chooses them) under which they decide where a clipped gradient points. So shapes must not tell who
is there: every pass has the same number of rows (`full_chunks`), and places.py looks whether these
kernels treat all rows of a pass alike.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.linalg import vector_norm
from torch.nn.attention import SDPBackend, sdpa_kernel

from cardionets_core.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from cardionets_core.models.cardionet import CardioNet
    from cardionets_core.training.objective import Noise, Objective

Engine = Literal["vmap", "loop", "ghost"]
"""How gradients of patients are clipped."""

Sums = dict[str, Tensor]
"""Name of a parameter -> float64 sum of clipped gradients, on the model's device."""

SLACK = {torch.float64: 2.0**-30, torch.float32: 2.0**-13}
"""Share of C that nobody uses, by the precision of the gradients.

It is room for rounding in float64: of norms, of factors, and of the sum, which is added up in
another order when somebody leaves. It is no room for others' gradients to change: they must not.
"""


SMALLEST_BUCKET = 2
"""A bucket with fewer patients adds nothing: alone, nobody has a negative."""


def parameters_of(model: nn.Module, trains: Sequence[str]) -> dict[str, nn.Parameter]:
    """Return the parameters of the named parts, by their names in the model."""
    return {n: p for n, p in model.named_parameters() if n.split(".")[0] in trains}


def zeros_for(model: nn.Module, trains: Sequence[str]) -> Sums:
    """Return a sum over nobody."""
    return {
        n: torch.zeros_like(p, dtype=torch.float64) for n, p in parameters_of(model, trains).items()
    }


def clip_factors(norms: Tensor, clip: float, dtype: torch.dtype) -> Tensor:
    """Return what gradients are multiplied by, float64 [B]; not finite norms give exactly 0.

    Args:
        norms: of the gradients, float64 [B].
        clip: C.
        dtype: of the gradients; it decides how far below C they end (SLACK).
    """
    limit = clip * (1.0 - SLACK[dtype])
    factors = (limit / norms.clamp(min=torch.finfo(torch.float64).tiny)).clamp(max=1.0)
    return torch.where(norms.isfinite(), factors, torch.zeros_like(factors))


def clipped_sum(
    model: CardioNet,
    batch: Batch,
    noise: Noise,
    objective: Objective,
    *,
    trains: Sequence[str],
    clip: float,
    chunk: int,
) -> Sums:
    """Return the sum over patients of their clipped gradients, many at a time.

    Args:
        model: on the batch's device; nothing in it changes.
        batch: one study per patient.
        noise: what the objective has drawn for them.
        objective: only patient i's loss is used of what it gives for patient i alone.
        trains: parts whose parameters are differentiated, jointly clipped.
        clip: C.
        chunk: rows of every pass, also of the last one; memory grows with it, time falls.
    """
    total = zeros_for(model, trains)
    gradients_of = each_gradient(model, objective, trains)
    for rows, patients in full_chunks(len(batch), chunk):
        rows = rows.to(batch.ecg.device)
        gradients = gradients_of(batch.rows(rows), {k: v[rows] for k, v in noise.items()})
        add_clipped(total, {n: g[:patients] for n, g in gradients.items()}, clip)
    return total


def full_chunks(patients: int, chunk: int) -> Iterator[tuple[Tensor, int]]:
    """Yield rows to be computed together, always `chunk` of them, and how many of them count.

    The last patient fills up the last chunk. Rows are picked by index, so that they are copied
    to memory of their own: how a slice would be aligned follows from its place.
    """
    for start in range(0, patients, chunk):
        rows = torch.arange(start, start + chunk).clamp(max=patients - 1)
        yield rows, min(chunk, patients - start)


def each_gradient(
    model: CardioNet, objective: Objective, trains: Sequence[str]
) -> Callable[[Batch, Noise], dict[str, Tensor]]:
    """Return (batch, noise) -> the gradient of each patient by itself, [B, ...] by name."""
    parameters = {f"model.{n}": p.detach() for n, p in parameters_of(model, trains).items()}
    one_loss = _LossOfOne(model, objective)

    def loss(values: dict[str, Tensor], tensors: dict[str, Tensor], drawn: Noise) -> Tensor:
        found: Tensor = functional_call(one_loss, values, (tensors, drawn))
        return found

    # `error`: no layer may draw random numbers of its own, for all patients alike.
    mapped = vmap(grad(loss), in_dims=(None, 0, 0), randomness="error")

    def gradients(batch: Batch, noise: Noise) -> dict[str, Tensor]:
        # The other kernels of attention have no rule for vmap. No graph is kept outside of it.
        with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            found = mapped(parameters, _tensors(batch), noise)
        return {n.removeprefix("model."): g for n, g in found.items()}

    return gradients


def looped_sum(
    model: CardioNet,
    batch: Batch,
    noise: Noise,
    objective: Objective,
    *,
    trains: Sequence[str],
    clip: float,
) -> Sums:
    """Return what `clipped_sum` does, one patient after the other: plain PyTorch, the reference."""
    groups = [torch.tensor([i]) for i in range(len(batch))]
    return _summed(model, batch, noise, objective, trains=trains, clip=clip, groups=groups)


def bucket_sum(
    model: CardioNet,
    batch: Batch,
    noise: Noise,
    objective: Objective,
    *,
    trains: Sequence[str],
    clip: float,
    labels: np.ndarray,
) -> Sums:
    """Return the sum over buckets of the clipped gradient of a bucket's mean loss.

    Args:
        labels: independent uniform labels, int [B]; patients with the same one share a bucket. One
            patient more changes one bucket, from norm C to norm C at worst: the sum moves by 2C.
    """
    groups = [torch.from_numpy(np.flatnonzero(labels == k)) for k in np.unique(labels)]
    groups = [g for g in groups if len(g) >= SMALLEST_BUCKET]
    return _summed(model, batch, noise, objective, trains=trains, clip=clip, groups=groups)


def add_clipped(total: Sums, gradients: Mapping[str, Tensor], clip: float) -> None:
    """Add rows of gradients, [B, ...] by name, to a sum, each clipped over all names jointly."""
    rows = {n: g.flatten(1) for n, g in gradients.items()}
    norms = torch.stack([vector_norm(g, dim=1, dtype=torch.float64) for g in rows.values()])
    norms = vector_norm(norms, dim=0)
    factors = clip_factors(norms, clip, next(iter(gradients.values())).dtype)
    used = norms.isfinite()  # 0 times NaN is NaN: such rows are left out
    for name, values in rows.items():
        total[name] += (factors[used] @ values[used].double()).view_as(total[name])


def _summed(
    model: CardioNet,
    batch: Batch,
    noise: Noise,
    objective: Objective,
    *,
    trains: Sequence[str],
    clip: float,
    groups: Sequence[Tensor],
) -> Sums:
    total = zeros_for(model, trains)
    named = parameters_of(model, trains)
    for group in groups:
        rows = group.to(batch.ecg.device)
        losses = objective.loss(model, batch.rows(rows), {k: v[rows] for k, v in noise.items()})
        found = torch.autograd.grad(
            losses.per_patient.mean(), list(named.values()), allow_unused=True
        )
        gradients = {
            n: (torch.zeros_like(p) if g is None else g)[None]
            for (n, p), g in zip(named.items(), found, strict=True)
        }
        add_clipped(total, gradients, clip)
    return total


def _tensors(batch: Batch) -> dict[str, Tensor]:
    return {f.name: getattr(batch, f.name) for f in fields(batch)}


class _LossOfOne(nn.Module):
    """The objective as a module, so that `functional_call` can put parameters into the model."""

    def __init__(self, model: CardioNet, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self._objective = objective

    def forward(self, tensors: dict[str, Tensor], drawn: Noise) -> Tensor:
        batch = Batch(**{k: v[None] for k, v in tensors.items()})
        noise = {k: v[None] for k, v in drawn.items()}
        return self._objective.loss(self.model, batch, noise).per_patient[0]
