"""Masked modelling of ECG and CMR: the loss is on hidden patches only (He et al. 2022)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cardionets_core.models.blocks import masked_mean
from cardionets_core.models.cmr_encoder import patchify_cine
from cardionets_core.models.ecg_encoder import patchify_ecg
from cardionets_core.models.masking import choose_visible
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

DEFAULTS = {"mask_ratio": 0.75}


def draw_ecg(model: CardioNet, batch: Batch, generator: torch.Generator) -> Noise:
    """Draw one uniform number per patch of each lead."""
    config = model.config
    patches = config.ecg.crop_samples // config.ecg_encoder.patch_samples
    shape = (len(batch), batch.lead_mask.shape[1] * patches)
    return {"patches": draw_uniform(shape, generator, batch.ecg.device)}


def ecg_loss(model: CardioNet, batch: Batch, noise: Noise, *, mask_ratio: float) -> Losses:
    """Mean squared error over the hidden patches of the leads that exist."""
    patch = model.config.ecg_encoder.patch_samples
    target, present = patchify_ecg(batch.ecg, batch.lead_mask, patch)
    visible = choose_visible(noise["patches"], present, mask_ratio)
    features = model.ecg_encoder.forward_visible(batch.ecg, batch.lead_mask, visible)
    prediction = model.ecg_decoder(features, visible, present)
    loss = hidden_error(prediction, target, visible.hidden)
    blank = masked_mean(target.square().mean(-1), visible.hidden)  # the error of predicting 0
    return make_losses(loss, reconstruction=loss, blank=blank)


def draw_cine(model: CardioNet, batch: Batch, generator: torch.Generator) -> Noise:
    """Draw one uniform number per patch of each view."""
    shape = (len(batch), batch.cine.shape[1], model.cmr_encoder.patches)
    return {"patches": draw_uniform(shape, generator, batch.cine.device)}


def cine_loss(model: CardioNet, batch: Batch, noise: Noise, *, mask_ratio: float) -> Losses:
    """Mean squared error over the hidden patches of the views that exist."""
    views = batch.cine.shape[1]
    mask = batch.view_mask[:, :, None, None, None]
    cine = torch.where(mask, batch.cine, torch.zeros_like(batch.cine)).flatten(0, 1)
    target = patchify_cine(cine, model.config.cmr_encoder.patch_px)
    present = batch.view_mask.flatten()[:, None].expand(-1, target.shape[1])
    visible = choose_visible(noise["patches"].flatten(0, 1), present, mask_ratio)
    prediction = model.cmr_decoder(
        model.cmr_encoder.forward_visible(cine, visible), visible, present
    )
    error = hidden_error(prediction, target, visible.hidden).view(-1, views)
    loss = masked_mean(error, batch.view_mask)
    return make_losses(loss, reconstruction=loss)


def hidden_error(prediction: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Return the mean squared error over the True patches of hidden [B, N], as [B] in fp32."""
    error = (prediction.float() - target).square().mean(-1)
    return masked_mean(error, hidden)


def _make_ecg(options: dict[str, float], progress: float) -> Objective:
    loss = partial(ecg_loss, mask_ratio=options["mask_ratio"])
    return Objective("ecg_masked", draw_ecg, loss, per_patient=True)


def _make_cine(options: dict[str, float], progress: float) -> Objective:
    loss = partial(cine_loss, mask_ratio=options["mask_ratio"])
    return Objective("cmr_masked", draw_cine, loss, per_patient=True)


ECG_MASKED = ObjectiveKind(
    "ecg_masked", frozenset({"ecg"}), ("ecg_encoder", "ecg_decoder"), DEFAULTS, _make_ecg
)
CMR_MASKED = ObjectiveKind(
    "cmr_masked", frozenset({"cine"}), ("cmr_encoder", "cmr_decoder"), DEFAULTS, _make_cine
)
