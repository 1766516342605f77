"""The CMR encoder: a 2D ViT that reads all phases of a cine as channels, and its decoder.

Each view is encoded on its own by the same weights (plus a view embedding); views meet late, as
the mean over those that exist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cardionets_core.models.blocks import (
    LearnedTokens,
    Transformer,
    at_least_one,
    gather_tokens,
    masked_mean,
)
from cardionets_core.models.masking import MaskedDecoder

if TYPE_CHECKING:
    from cardionets_core.model_config import ModelConfig
    from cardionets_core.models.masking import Visible


def patchify_cine(cine: Tensor, patch: int) -> Tensor:
    """Cut cine [B, K, H, W] into [B, (H / patch) * (W / patch), K * patch * patch]."""
    batch, phases, rows, columns = cine.shape
    blocks = cine.reshape(batch, phases, rows // patch, patch, columns // patch, patch)
    return blocks.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


class CmrEncoder(nn.Module):
    """Phases-as-channels ViT.

    Args:
        config: the whole model's; `cine` and `cmr_encoder` are read.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        own = config.cmr_encoder
        side = config.cine.size_px // own.patch_px
        self.patch = own.patch_px
        self.views = len(config.cine.views)
        self.patches = side * side
        self.embed = nn.Linear(config.cine.phases * own.patch_px**2, own.width)
        self.position = LearnedTokens(self.patches, own.width, (side, side))
        self.view = LearnedTokens(self.views, own.width, spread=LearnedTokens.UNIT)
        self.has_class = own.pool == "cls"
        if self.has_class:
            self.class_token = LearnedTokens(1, own.width)
        self.transformer = Transformer(own.width, own.depth, own.heads, own.mlp_ratio)
        self.norm = nn.LayerNorm(own.width)

    def forward(self, cine: Tensor, view_mask: Tensor) -> Tensor:
        """Encode cine [B, V, K, H, W] with view_mask bool [B, V]; return [B, W]."""
        known = torch.where(view_mask[:, :, None, None, None], cine, torch.zeros_like(cine))
        tokens = self._encode(self._embed(known.flatten(0, 1)))
        summary = tokens[:, 0] if self.has_class else tokens.mean(1)
        return self.norm(masked_mean(summary.view(-1, self.views, summary.shape[1]), view_mask))  # type: ignore[no-any-return]

    def forward_visible(self, cine: Tensor, visible: Visible) -> Tensor:
        """Encode the visible patches of cine [B * V, K, H, W]; return [B * V, M, W]."""
        tokens = self._encode(gather_tokens(self._embed(cine), visible.index), visible.used)
        return self.norm(tokens[:, 1:] if self.has_class else tokens)  # type: ignore[no-any-return]

    def _embed(self, cine: Tensor) -> Tensor:
        tokens = self.embed(patchify_cine(cine, self.patch)) + self.position(len(cine))
        view = self.view(len(cine) // self.views).reshape(len(cine), 1, -1)
        return tokens + view  # type: ignore[no-any-return]

    def _encode(self, tokens: Tensor, used: Tensor | None = None) -> Tensor:
        if self.has_class:
            tokens = torch.cat([self.class_token(len(tokens)), tokens], dim=1)
            if used is not None:
                used = torch.cat([torch.ones_like(used[:, :1]), used], dim=1)
        return self.transformer(tokens, None if used is None else at_least_one(used))  # type: ignore[no-any-return]


class CmrDecoder(nn.Module):
    """Rebuilds the hidden patches of a cine.

    Args:
        config: the whole model's.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        side = config.cine.size_px // config.cmr_encoder.patch_px
        self.decoder = MaskedDecoder(
            config.cmr_decoder,
            source_width=config.cmr_encoder.width,
            grid=(side, side),
            patch_values=config.cine.phases * config.cmr_encoder.patch_px**2,
        )

    def forward(self, features: Tensor, visible: Visible, present: Tensor) -> Tensor:
        """Return all patches [B * V, N, values] from the features of the visible ones."""
        return self.decoder(features, visible, present)  # type: ignore[no-any-return]
