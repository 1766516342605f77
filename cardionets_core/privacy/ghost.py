"""Clipping without a gradient per patient in memory, for large batches and GPUs.

For a Linear layer the norm of a patient's gradient follows from the layer's input and the gradient
of its output alone ("ghost norm", Li et al. 2022); Opacus has the gradients per patient of the
layers for which there is no such formula. One backward pass serves norms and sum ("book
keeping", Bu et al. 2023): the clipped sum is built from the same tensors as the norms, in float64,
so that what is added and what was measured cannot differ. Norms are bounds from above: what float64
may have lost in them is added, so that terms which cancel cannot hide a large gradient.

Rows must be patients. Where a part of the model folds views or tokens into the batch, they are
folded back here: left alone, each view or token would be clipped as if it were a patient, with no
error and no privacy. `require_agreement` compares the whole with one patient at a time before use.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from cardionets_core.errors import PrivacyError
from cardionets_core.models.blocks import LearnedTokens
from cardionets_core.privacy.engines import (
    Sums,
    clip_factors,
    full_chunks,
    looped_sum,
    zeros_for,
)
from cardionets_core.privacy.model_randomness import made_up_patients, moved
from cardionets_core.training.loop import freeze_all_but

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from cardionets_core.batch import Batch
    from cardionets_core.models.cardionet import CardioNet
    from cardionets_core.training.objective import Noise, Objective

TOLERANCE = 1e-3
"""Of `require_agreement`, relative to the norm. float32 agrees to some 1e-7 on a CPU; TF32, which
would need 1e-2, is off in private training (step.py)."""

DRAWS = 2
"""Masks and noise that `require_agreement` tries: one mask may hide the tokens that are mixed."""

SMALL = 1e-6
"""Clip of `require_agreement`: everybody is clipped, or a wrong norm would not be seen."""


def ghost_sum(
    model: CardioNet,
    batch: Batch,
    noise: Noise,
    objective: Objective,
    *,
    trains: Sequence[str],
    clip: float,
    chunk: int,
) -> Sums:
    """Return what `clipped_sum` does; the layers must be those of clippable.GHOST_LAYERS.

    The parameters of `trains` must be those that gradients reach (`freeze_all_but`).
    """
    total = zeros_for(model, trains)
    for rows, patients in full_chunks(len(batch), chunk):
        rows = rows.to(batch.ecg.device)
        drawn = {k: v[rows] for k, v in noise.items()}
        layers = each_layer(model, batch.rows(rows), drawn, objective, trains)
        squares = torch.zeros(chunk, dtype=torch.float64, device=rows.device)
        for layer in layers:
            squares += layer.squares()
        norms = squares.sqrt()
        factors = clip_factors(norms, clip, next(model.parameters()).dtype)
        used = norms.isfinite()
        used[patients:] = False
        for layer in layers:
            for name, value in layer.weighted(factors[used], used).items():
                total[name] += value
    return total


def each_layer(
    model: CardioNet, batch: Batch, noise: Noise, objective: Objective, trains: Sequence[str]
) -> list[_Materialised | _GhostLinear]:
    """Return what every trained layer knows of each patient's gradient, after one backward pass."""
    with _Recorder(model, trains) as recorder:
        losses = objective.loss(model, batch, noise).per_patient
    found = recorder.gradients(losses.sum())
    return [_layer(name, uses, len(losses)) for name, uses in found.items()]


def require_agreement(model: CardioNet, objective: Objective, trains: Sequence[str]) -> None:
    """Refuse a model or objective that ghost clips otherwise than patient by patient.

    It looks at made-up patients, so what it finds tells nothing about real ones.

    Raises:
        PrivacyError: `privacy_plan`.
    """
    changed = moved(model)
    freeze_all_but(changed, trains)
    for seed in range(DRAWS):
        batch, noise = made_up_patients(changed, objective, seed=seed)
        loop = looped_sum(changed, batch, noise, objective, trains=trains, clip=SMALL)
        ghost = ghost_sum(
            changed, batch, noise, objective, trains=trains, clip=SMALL, chunk=len(batch)
        )
        error, size = _length({n: ghost[n] - loop[n] for n in loop}), _length(loop)
        if not error <= TOLERANCE * size:
            raise PrivacyError(
                "privacy_plan",
                f"private training: the ghost engine and one patient at a time differ by "
                f"{error:.2g} of {size:.2g} for {objective.name!r}: a layer or the loss mixes "
                "patients, or folds tokens into the batch. Use the engine `vmap`.",
            )


def _length(sums: Sums) -> float:
    return math.sqrt(sum(float(v.square().sum()) for v in sums.values()))


@dataclass(frozen=True)
class _Use:
    """One call of a layer: the layer, its input (none for tokens) and its output."""

    module: nn.Module
    input: Tensor | None
    output: Tensor


class _Recorder:
    """Notes every call of a trained layer while it is open."""

    def __init__(self, model: nn.Module, trains: Sequence[str]) -> None:
        self._uses: list[tuple[str, _Use]] = []
        self._handles = [
            module.register_forward_hook(self._noting(name))
            for name, module in model.named_modules()
            if name.split(".")[0] in trains and list(module.parameters(recurse=False))
        ]

    def __enter__(self) -> _Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def gradients(self, loss: Tensor) -> dict[str, list[tuple[_Use, Tensor]]]:
        """Return the calls of each layer with the gradient of their outputs."""
        outputs = [use.output for _, use in self._uses]
        gradients = torch.autograd.grad(loss, outputs, allow_unused=True)
        found: dict[str, list[tuple[_Use, Tensor]]] = defaultdict(list)
        for (name, use), gradient in zip(self._uses, gradients, strict=True):
            if gradient is not None:
                found[name].append((use, gradient))
        return found

    def _noting(self, name: str) -> Callable[[nn.Module, tuple[object, ...], Tensor], None]:
        def note(module: nn.Module, args: tuple[object, ...], output: Tensor) -> None:
            if output.requires_grad:
                given = args[0].detach() if isinstance(args[0], Tensor) else None
                self._uses.append((name, _Use(module, given, output)))

        return note


class _Materialised:
    """A layer whose gradients per patient are held: [B, ...] by the parameter's name."""

    def __init__(self, gradients: dict[str, Tensor]) -> None:
        self._gradients = gradients

    def squares(self) -> Tensor:
        """Return the squared norms, float64 [B]."""
        rows = [g.flatten(1).double().square().sum(1) for g in self._gradients.values()]
        return torch.stack(rows).sum(0)

    def weighted(self, factors: Tensor, used: Tensor) -> Sums:
        """Return the sums over the patients of `used`, weighted."""
        return {
            name: (factors @ g[used].flatten(1).double()).view(g.shape[1:])
            for name, g in self._gradients.items()
        }

    def held(self) -> list[Tensor]:
        """Return all that norms and sums are made of, [B, ...] each."""
        return list(self._gradients.values())


ROOM = 2.0**12
"""By how much more than float64 can lose a squared ghost norm is raised (`_GhostLinear`)."""


class _GhostLinear:
    """A Linear of which only inputs [B, T, I] and output gradients [B, T, O] are held.

    It computes in float64. The terms of a ghost norm may cancel all but wholly under weights that
    somebody chose, and a norm found too small would clip too little. So all that rounding may have
    taken away is added: with u = 2^-53, dot products of n terms are off by at most n u times the
    sum of the terms' sizes (Higham 2002, section 3.1), and with s = sum over tokens of |a_t| |g_t|
    the squared norm by (I + O + T^2 + 3) u s^2. ROOM times as much is added: what the weighted sum
    loses is then small, too. Factor times s is at most C / sqrt(ROOM (I + O + T^2 + 3) u), and the
    sum over a pass of B patients of T tokens is off by at most B T u times B such terms,
    B^2 sqrt(u / ROOM) C: below SLACK / 2 of float32 for 64 passes of 64 patients together.
    """

    def __init__(self, name: str, layer: nn.Linear, given: Tensor, gradient: Tensor) -> None:
        self._name, self._layer = name, layer
        self._input, self._gradient = given, gradient

    def squares(self) -> Tensor:
        """Return the squared norms, float64 [B]."""
        given, gradient = self._input.double(), self._gradient.double()
        tokens = given.shape[1]
        lost = ROOM * (given.shape[2] + gradient.shape[2] + tokens**2 + 3) * 2.0**-53
        sizes = gradient.norm(dim=2)
        grams = (given @ given.mT) * (gradient @ gradient.mT)
        squares = grams.sum((1, 2)).clamp(min=0)
        squares += lost * (given.norm(dim=2) * sizes).sum(1).square()
        if self._layer.bias is not None:
            squares += gradient.sum(1).square().sum(1) + lost * sizes.sum(1).square()
        return squares

    def weighted(self, factors: Tensor, used: Tensor) -> Sums:
        """Return the sums over the patients of `used`, weighted."""
        scaled = (self._gradient[used].double() * factors[:, None, None]).flatten(0, 1)
        sums = {f"{self._name}.weight": scaled.T @ self._input[used].double().flatten(0, 1)}
        if self._layer.bias is not None:
            sums[f"{self._name}.bias"] = scaled.sum(0)
        return sums

    def held(self) -> list[Tensor]:
        """Return all that norms and sums are made of, [B, ...] each."""
        return [self._input, self._gradient]


def _layer(
    name: str, uses: list[tuple[_Use, Tensor]], patients: int
) -> _Materialised | _GhostLinear:
    module = uses[0][0].module
    if isinstance(module, nn.Linear):
        given = torch.cat([_by_patient(u.input, patients) for u, _ in uses], dim=1)
        gradient = torch.cat([_by_patient(g, patients) for _, g in uses], dim=1)
        # Two Gram matrices of T x T cost less than a gradient of I x O only for few tokens.
        if 2 * given.shape[1] ** 2 <= given.shape[2] * gradient.shape[2]:
            return _GhostLinear(name, module, given, gradient)
        return _Materialised(_sampled(name, module, given, gradient))
    total: dict[str, Tensor] = {}
    for use, gradient in uses:
        for own, rows in _of_use(name, use, gradient, patients).items():
            total[own] = total[own] + rows if own in total else rows
    return _Materialised(total)


def _of_use(name: str, use: _Use, gradient: Tensor, patients: int) -> dict[str, Tensor]:
    """Return the gradients per patient of one call of a layer."""
    module = use.module
    if isinstance(module, LearnedTokens):
        rows = gradient.reshape(patients, -1, *gradient.shape[1:])
        return {f"{name}.weight": rows.sum(1)}
    assert use.input is not None
    if isinstance(module, nn.LayerNorm):
        given, gradient = _by_patient(use.input, patients), _by_patient(gradient, patients)
        return _sampled(name, module, given, gradient)
    if len(gradient) != patients:
        raise PrivacyError(
            "privacy_plan",
            f"private training: {name} ({type(module).__name__}) saw {len(gradient)} rows for "
            f"{patients} patients. Use the engine `vmap`.",
        )
    return _sampled(name, module, use.input, gradient)


def _by_patient(tensor: Tensor | None, patients: int) -> Tensor:
    """Return [B * k, ..., D] as [B, tokens, D]: views, draws and tokens belong to their patient."""
    assert tensor is not None
    return tensor.reshape(patients, -1, tensor.shape[-1])


def _sampled(name: str, module: nn.Module, given: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Return the gradients per patient by Opacus' rule for the layer, or by vmap of the layer."""
    sampler = GradSampleModule.GRAD_SAMPLERS.get(type(module))
    if sampler is not None:
        names = {id(p): n for n, p in module.named_parameters()}
        found = sampler(module, [given], gradient)
        return {f"{name}.{names[id(p)]}": g for p, g in found.items()}

    def loss(values: dict[str, Tensor], one: Tensor, backwards: Tensor) -> Tensor:
        out: Tensor = functional_call(module, values, (one[None],))
        return (out * backwards[None]).sum()

    values = {n: p.detach() for n, p in module.named_parameters()}
    rows = vmap(grad(loss), in_dims=(None, 0, 0))(values, given, gradient)
    return {f"{name}.{n}": g for n, g in rows.items()}
