"""Training the tokenizer (a KL-VAE) and the generator over its latents."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cardionets_core.models.blocks import gather_tokens
from cardionets_core.models.masking import Visible
from cardionets_core.models.token_heads import draw_normal
from cardionets_core.training.objective import (
    Losses,
    Noise,
    Objective,
    ObjectiveKind,
    draw_uniform,
    make_losses,
)

if TYPE_CHECKING:
    from cardionets_core.batch import Batch
    from cardionets_core.models.cardionet import CardioNet

KL_STARTS = 0.2  # share of the stage without KL, so that the latent is used at all


def latent_shape(model: CardioNet) -> tuple[int, ...]:
    """Return the shape of one patient's latent, (C, k, h, w)."""
    return (model.config.tokenizer.latent_channels, *model.config.latent_grid)


def draw_tokenizer(model: CardioNet, batch: Batch, generator: torch.Generator) -> Noise:
    """Draw the noise of the posterior sample."""
    shape = (len(batch), *latent_shape(model))
    return {"latent": draw_normal(shape, generator, batch.cine.device)}


def tokenizer_loss(model: CardioNet, batch: Batch, noise: Noise, *, kl_weight: float) -> Losses:
    """L1 of the cine plus the KL of the posterior to a standard normal, in nats per voxel.

    Each patient gives one view: the generator's, or the first that there is.
    """
    cine, known = one_view(model, batch)
    mean, log_variance = model.tokenizer.posterior(cine)
    latent = mean + (0.5 * log_variance).exp() * noise["latent"]
    error = (model.tokenizer.reconstruct(latent).float() - cine).abs().flatten(1).mean(1)
    divergence = kl_divergence(mean.float(), log_variance.float()) / cine[0].numel()
    total = (error + kl_weight * divergence) * known
    return make_losses(total, reconstruction=error * known, divergence=divergence * known)


def one_view(model: CardioNet, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return one view per patient [B, K, H, W] and whether it exists, bool [B]."""
    view = model.generated_view
    preferred = torch.zeros_like(batch.view_mask)
    preferred[:, view] = True
    rank = batch.view_mask.long() * 2 + (batch.view_mask & preferred).long()
    chosen = rank.argmax(1)
    index = chosen.view(-1, 1, 1, 1, 1).expand(-1, 1, *batch.cine.shape[2:])
    return batch.cine.gather(1, index)[:, 0], batch.view_mask.any(1)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, exp(log_variance)) || N(0, 1)) summed over each row, [B]."""
    terms = mean.square() + log_variance.exp() - 1.0 - log_variance
    return 0.5 * terms.flatten(1).sum(1)


def draw_generative(
    model: CardioNet, batch: Batch, generator: torch.Generator, *, null_probability: float
) -> Noise:
    """Draw latent noise, order, share masked, dropped conditions, times and head noise."""
    net, size, device = model.generator, len(batch), batch.cine.device
    draws, queries = net.noise_draws, net.query_count
    minimum = net.mask_ratio_min
    ratio = truncated_normal((size,), generator, low=minimum, high=1.0, mean=1.0, sd=0.25)
    return {
        "latent": draw_normal((size, *latent_shape(model)), generator, device),
        "order": draw_uniform((size, net.count), generator, device),
        "mask_ratio": ratio.to(device),
        "dropped": draw_uniform((size,), generator, device) < null_probability,
        "time": net.head.draw_time((size, draws, queries), generator).to(device),
        "noise": draw_normal((size, draws, queries, net.token_values), generator, device),
    }


def truncated_normal(
    shape: tuple[int, ...],
    generator: torch.Generator,
    *,
    low: float,
    high: float,
    mean: float,
    sd: float,
) -> Tensor:
    """Draw from a normal cut to [low, high], by inverting its distribution function."""

    def cumulative(x: float) -> float:
        return 0.5 * (1.0 + math.erf((x - mean) / (sd * math.sqrt(2.0))))

    uniform = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
    share = cumulative(low) + (cumulative(high) - cumulative(low)) * uniform
    drawn = mean + sd * math.sqrt(2.0) * torch.erfinv(2.0 * share - 1.0)
    return drawn.clamp(low, high).float()


def generative_loss(model: CardioNet, batch: Batch, noise: Noise) -> Losses:
    """The head's loss on tokens that are masked, given the others and the ECG.

    The head sees the same number of masked tokens for everybody (the least that is ever masked),
    so a patient's loss does not depend on how much is masked in others.
    """
    net = model.generator
    known_patient = batch.view_mask[:, model.generated_view] & batch.lead_mask.any(1)
    with torch.no_grad():
        latent = model.encode_latent(batch.cine[:, model.generated_view], noise["latent"])
        ecg = model.encode_ecg(batch.ecg, batch.lead_mask)
        aligned = model.project_ecg(ecg.pooled)
    tokens = net.patchify(latent)
    known, query = split_tokens(noise["order"], noise["mask_ratio"], net.query_count)
    source = net(tokens, net.conditions(ecg, aligned, noise["dropped"]), known, query)
    draws = noise["time"].shape[1]
    target = gather_tokens(tokens, query)[:, None].expand(-1, draws, -1, -1)
    source = source[:, None].expand(-1, draws, -1, -1)
    error = net.head.loss(target, source, time=noise["time"], noise=noise["noise"])
    loss = error.flatten(1).mean(1) * known_patient
    return make_losses(loss, generative=loss)


def split_tokens(order: Tensor, mask_ratio: Tensor, queries: int) -> tuple[Visible, Tensor]:
    """Return the known tokens and the masked ones that are trained on.

    Args:
        order: uniform numbers [B, L]; tokens are revealed in this order.
        mask_ratio: [B]; ceil(ratio * L) tokens are masked.
        queries: how many masked tokens per patient the head sees, the last in order.
    """
    count = order.shape[1]
    places = order.argsort(dim=1, stable=True)
    slots = count - queries
    index = places[:, :slots]
    kept = count - (mask_ratio * count).ceil().long()
    used = torch.arange(slots, device=order.device) < kept[:, None]
    return Visible(index, used, used), places[:, slots:]


def _make_tokenizer(options: dict[str, float], progress: float) -> Objective:
    weight = 0.0 if progress < KL_STARTS else options["kl_weight"]
    loss = partial(tokenizer_loss, kl_weight=weight)
    return Objective("tokenizer", draw_tokenizer, loss, per_patient=True)


def _make_generative(options: dict[str, float], progress: float) -> Objective:
    draw = partial(draw_generative, null_probability=options["null_probability"])
    return Objective("generative", draw, generative_loss, per_patient=True)


TOKENIZER = ObjectiveKind(
    "tokenizer", frozenset({"cine"}), ("tokenizer",), {"kl_weight": 1e-6}, _make_tokenizer
)
GENERATIVE = ObjectiveKind(
    "generative",
    frozenset({"ecg", "cine"}),
    ("generator",),
    {"null_probability": 0.1},
    _make_generative,
)
