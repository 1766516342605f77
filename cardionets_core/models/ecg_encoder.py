"""The ECG encoder: a ViT over patches of single leads, and the decoder of its pretraining.

A token is one patch of one lead. Leads that were not recorded are never looked at and never
pooled, so whatever stands in their place has no influence. Two kinds share one interface (`vit`
here, `s4d` in s4d.py): `forward` gives features, `forward_visible` the features that the decoder
rebuilds from.
"""

from __future__ import annotations

from dataclasses import dataclass
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
from cardionets_core.vocabulary import LEADS

if TYPE_CHECKING:
    from cardionets_core.model_config import ModelConfig
    from cardionets_core.models.masking import Visible


@dataclass(frozen=True)
class EcgFeatures:
    """What an ECG encoder gives.

    Attributes:
        tokens: [B, N, W], layer-normalised.
        pooled: [B, W], the mean over the present tokens, layer-normalised.
        present: bool [B, N], False for tokens of leads that were not recorded.
    """

    tokens: Tensor
    pooled: Tensor
    present: Tensor


def patchify_ecg(ecg: Tensor, lead_mask: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """Cut ecg [B, 12, T] into patches [B, 12 * T / patch, patch], lead by lead.

    Samples of absent leads become 0. The second tensor, bool [B, 12 * T / patch], says which
    patches belong to a recorded lead.
    """
    batch, leads, samples = ecg.shape
    known = torch.where(lead_mask[..., None], ecg, torch.zeros_like(ecg))
    present = lead_mask[..., None].expand(-1, -1, samples // patch).reshape(batch, -1)
    return known.reshape(batch, leads * (samples // patch), patch), present


class LeadSpectrumEmbed(nn.Module):
    """A Linear per lead over a patch's samples and its log magnitude spectrum.

    Args:
        patch: samples per patch.
        width: features of a token.
    """

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(len(LEADS), patch + patch // 2 + 1, width))
        self.bias = nn.Parameter(torch.empty(len(LEADS), 1, width))

    def initialise(self, generator: torch.Generator) -> None:
        """Xavier uniform for each lead, zero bias."""
        for lead in self.weight:
            nn.init.xavier_uniform_(lead, generator=generator)
        nn.init.zeros_(self.bias)

    def forward(self, patches: Tensor) -> Tensor:
        """Return [B, 12 * N, width] of patches [B, 12 * N, patch]."""
        spectrum = torch.fft.rfft(patches.float()).abs().log1p()
        features = torch.cat([patches, spectrum], dim=-1)
        by_lead = features.view(len(patches), len(LEADS), -1, features.shape[-1])
        return (by_lead @ self.weight + self.bias).flatten(1, 2)


class EcgVit(nn.Module):
    """Per-lead patch ViT with lead and time embeddings and optional separators.

    Args:
        config: the whole model's; `ecg` and `ecg_encoder` are read.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        own = config.ecg_encoder
        self.patch = own.patch_samples
        self.steps = config.ecg.crop_samples // own.patch_samples
        self.separators = own.separators
        self.embed: nn.Module = (
            nn.Linear(self.patch, own.width)
            if own.embed == "linear"
            else LeadSpectrumEmbed(self.patch, own.width)
        )
        self.time = LearnedTokens(self.steps, own.width, (self.steps,))
        self.lead = LearnedTokens(len(LEADS), own.width, spread=LearnedTokens.UNIT)
        if own.separators:
            self.separator = LearnedTokens(2, own.width, spread=LearnedTokens.UNIT)
        self.transformer = Transformer(own.width, own.depth, own.heads, own.mlp_ratio)
        self.norm = nn.LayerNorm(own.width)

    def forward(self, ecg: Tensor, lead_mask: Tensor) -> EcgFeatures:
        """Encode ecg [B, 12, T] with lead_mask bool [B, 12]."""
        patches, present = patchify_ecg(ecg, lead_mask, self.patch)
        tokens = self._encode(self._embed(patches), present, lead_mask)
        seen = at_least_one(present)
        return EcgFeatures(self.norm(tokens), self.norm(masked_mean(tokens, seen)), seen)

    def forward_visible(self, ecg: Tensor, lead_mask: Tensor, visible: Visible) -> Tensor:
        """Encode only the visible patches; return their features [B, M, W]."""
        patches, _ = patchify_ecg(ecg, lead_mask, self.patch)
        tokens = gather_tokens(self._embed(patches), visible.index)
        return self.norm(self._encode(tokens, visible.used, lead_mask))  # type: ignore[no-any-return]

    def _embed(self, patches: Tensor) -> Tensor:
        batch = len(patches)
        place = self.lead(batch)[:, :, None] + self.time(batch)[:, None]
        return self.embed(patches) + place.flatten(1, 2)  # type: ignore[no-any-return]

    def _encode(self, tokens: Tensor, mask: Tensor, lead_mask: Tensor) -> Tensor:
        count = tokens.shape[1]
        if self.separators:
            ends = self.lead(len(tokens))[:, :, None] + self.separator(len(tokens))[:, None]
            tokens = torch.cat([tokens, ends.flatten(1, 2)], dim=1)
            mask = torch.cat([mask, lead_mask.repeat_interleave(2, dim=1)], dim=1)
        return self.transformer(tokens, at_least_one(mask))[:, :count]  # type: ignore[no-any-return]


class EcgVitDecoder(nn.Module):
    """Rebuilds the hidden patches of an ECG.

    Args:
        config: the whole model's.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        patch = config.ecg_encoder.patch_samples
        self.decoder = MaskedDecoder(
            config.ecg_decoder,
            source_width=config.ecg_encoder.width,
            grid=(len(LEADS), config.ecg.crop_samples // patch),
            patch_values=patch,
        )

    def forward(self, features: Tensor, visible: Visible, present: Tensor) -> Tensor:
        """Return all patches, [B, 12 * T / patch, patch], from the features of the visible ones."""
        return self.decoder(features, visible, present)  # type: ignore[no-any-return]
