"""Masked modelling: which tokens are seen, and the decoder that rebuilds the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cardionets_core.models.blocks import LearnedTokens, Transformer, at_least_one, gather_tokens

if TYPE_CHECKING:
    from cardionets_core.model_config import DecoderConfig


@dataclass(frozen=True)
class Visible:
    """Which tokens an encoder sees, the same number of slots for every patient.

    Attributes:
        index: int64 [B, M], distinct token numbers per patient.
        used: bool [B, M], False for slots that a patient with few tokens leaves empty.
        hidden: bool [B, N], True for tokens that are present but not seen: these count in the loss.
    """

    index: Tensor
    used: Tensor
    hidden: Tensor


def choose_visible(noise: Tensor, present: Tensor, mask_ratio: float) -> Visible:
    """Hide `mask_ratio` of each patient's present tokens: those with the largest noise.

    Args:
        noise: uniform numbers in [0, 1), [B, N].
        present: bool [B, N], False for tokens of leads or views that do not exist.
        mask_ratio: share to hide; of a patient's tokens at least one stays visible.
    """
    count = noise.shape[1]
    slots = max(1, round((1.0 - mask_ratio) * count))
    order = torch.where(present, noise, noise + 2.0).argsort(dim=1, stable=True)
    index = order[:, :slots]
    keep = ((1.0 - mask_ratio) * present.sum(1)).round().clamp(min=1, max=slots)
    used = torch.arange(slots, device=noise.device) < keep[:, None]
    used = used & present.gather(1, index)
    hidden = present.scatter(1, index, present.gather(1, index) & ~used)
    return Visible(index, used, hidden)


def fill_hidden(features: Tensor, visible: Visible, mask_tokens: Tensor) -> Tensor:
    """Put features [B, M, D] in their places among mask_tokens [B, N, D]."""
    there = gather_tokens(mask_tokens, visible.index)
    values = torch.where(visible.used[..., None], features, there.to(features.dtype))
    index = visible.index[..., None].expand_as(values)
    return mask_tokens.to(values.dtype).scatter(1, index, values)


class MaskedDecoder(nn.Module):
    """Rebuilds every patch from the features of the visible ones (He et al. 2022).

    Args:
        config: width, depth and heads.
        source_width: width of the encoder's features.
        grid: cells along each axis; their product is the number of patches.
        patch_values: numbers per patch.
    """

    def __init__(
        self, config: DecoderConfig, *, source_width: int, grid: tuple[int, ...], patch_values: int
    ) -> None:
        super().__init__()
        count = 1
        for cells in grid:
            count *= cells
        self.count = count
        self.embed = nn.Linear(source_width, config.width)
        self.mask_token = LearnedTokens(1, config.width)
        self.position = LearnedTokens(count, config.width, grid)
        self.transformer = Transformer(config.width, config.depth, config.heads, config.mlp_ratio)
        self.norm = nn.LayerNorm(config.width)
        self.predict = nn.Linear(config.width, patch_values)

    def initialise(self, generator: torch.Generator) -> None:
        """Start by predicting 0, the mean of the signal, and not noise."""
        nn.init.zeros_(self.predict.weight)

    def forward(self, features: Tensor, visible: Visible, present: Tensor) -> Tensor:
        """Return the prediction of every patch, [B, N, patch_values].

        Args:
            features: of the visible patches, [B, M, source_width].
            visible: where they belong.
            present: bool [B, N]; patches that do not exist are not looked at.
        """
        batch = len(features)
        blank = self.mask_token(batch).expand(-1, self.count, -1)
        tokens = fill_hidden(self.embed(features), visible, blank) + self.position(batch)
        tokens = self.transformer(tokens, at_least_one(present))
        return self.predict(self.norm(tokens))  # type: ignore[no-any-return]
