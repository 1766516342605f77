"""The second ECG encoder: diagonal state-space layers over time, all leads as channels.

Every feature is filtered by a linear state-space system with a diagonal complex state matrix
(S4D-Lin, Gu et al. 2022, "On the Parameterization and Initialization of Diagonal State Space
Models"), once forwards and once backwards in time. Sequences are filtered at full sampling rate
and averaged into one token per patch of time.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cardionets_core.models.blocks import full_precision, masked_mean
from cardionets_core.models.ecg_encoder import EcgFeatures, patchify_ecg
from cardionets_core.vocabulary import LEADS

if TYPE_CHECKING:
    from cardionets_core.model_config import ModelConfig
    from cardionets_core.models.masking import Visible

STEP_RANGE = (0.001, 0.1)  # of the time step of each feature at the start (Gu et al. 2022)


class StateSpaceKernel(nn.Module):
    """The impulse responses of `width` independent systems, both directions.

    Args:
        width: number of features.
        states: complex states per feature.
    """

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        self.log_step = nn.Parameter(torch.empty(width))
        self.log_decay = nn.Parameter(torch.empty(width, states))
        self.frequency = nn.Parameter(torch.empty(width, states))
        self.readout = nn.Parameter(torch.empty(2, width, states, 2))

    def initialise(self, generator: torch.Generator) -> None:
        """S4D-Lin: decay 1/2, frequencies pi * n, log-uniform steps, normal readout."""
        low, high = (math.log(step) for step in STEP_RANGE)
        nn.init.uniform_(self.log_step, low, high, generator=generator)
        nn.init.constant_(self.log_decay, math.log(0.5))
        states = self.frequency.shape[1]
        self.frequency.data.copy_(math.pi * torch.arange(states).expand_as(self.frequency))
        nn.init.normal_(self.readout, std=math.sqrt(0.5), generator=generator)

    def forward(self, length: int) -> Tensor:
        """Return the kernels [2, width, length]: forwards, backwards."""
        rate = torch.complex(-self.log_decay.exp(), self.frequency)
        scaled = rate * self.log_step.exp()[:, None]
        time = torch.arange(length, device=scaled.device)
        powers = (scaled[..., None] * time).exp()
        # Zero-order hold: (exp(step * rate) - 1) / rate is the discrete input matrix.
        readout = torch.view_as_complex(self.readout) * (scaled.exp() - 1.0) / rate
        return 2.0 * torch.einsum("dws,wsl->dwl", readout, powers).real


class StateSpaceBlock(nn.Module):
    """LayerNorm, two-way filtering, gated mixing of features, residual."""

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.kernel = StateSpaceKernel(width, states)
        self.skip = nn.Linear(width, width)
        self.mix = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, L, D]."""
        signal = self.norm(x)
        filtered = self._filter(signal.float()).to(signal.dtype) + self.skip(signal)
        value, gate = self.mix(nn.functional.gelu(filtered)).chunk(2, dim=-1)
        return x + value * gate.sigmoid()  # type: ignore[no-any-return]

    def _filter(self, signal: Tensor) -> Tensor:
        length = signal.shape[1]
        with full_precision(signal.device):  # complex numbers have no bf16
            forwards, backwards = self.kernel(length)
            # A circular kernel of twice the length: backwards taps lie at negative lags.
            kernel = torch.cat(
                [forwards, torch.zeros_like(forwards[:, :1]), backwards[:, 1:].flip(-1)], dim=-1
            )
            spectrum = torch.fft.rfft(kernel) * torch.fft.rfft(signal.transpose(1, 2), n=2 * length)
            filtered: Tensor = torch.fft.irfft(spectrum, n=2 * length)[..., :length]
            return filtered.transpose(1, 2)


class EcgS4d(nn.Module):
    """State-space ECG encoder: one token per patch of time.

    Args:
        config: the whole model's; `ecg` and `ecg_encoder` are read.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        own = config.ecg_encoder
        self.patch = own.patch_samples
        self.embed = nn.Linear(2 * len(LEADS), own.width)
        self.blocks = nn.ModuleList(
            StateSpaceBlock(own.width, own.state_size) for _ in range(own.depth)
        )
        self.norm = nn.LayerNorm(own.width)

    def forward(self, ecg: Tensor, lead_mask: Tensor) -> EcgFeatures:
        """Encode ecg [B, 12, T] with lead_mask bool [B, 12]."""
        known = torch.where(lead_mask[..., None], ecg, torch.zeros_like(ecg))
        tokens = self._encode(known, lead_mask[..., None].expand_as(ecg))
        present = torch.ones(tokens.shape[:2], dtype=torch.bool, device=ecg.device)
        return EcgFeatures(self.norm(tokens), self.norm(masked_mean(tokens, present)), present)

    def forward_visible(self, ecg: Tensor, lead_mask: Tensor, visible: Visible) -> Tensor:
        """Encode with the hidden patches set to 0; return [B, T / patch, W]."""
        patches, _ = patchify_ecg(ecg, lead_mask, self.patch)
        seen = torch.zeros_like(visible.hidden).scatter(1, visible.index, visible.used)
        kept = torch.where(seen[..., None], patches, torch.zeros_like(patches))
        seen_samples = seen[..., None].expand_as(patches).reshape(ecg.shape)
        return self.norm(self._encode(kept.reshape(ecg.shape), seen_samples))  # type: ignore[no-any-return]

    def _encode(self, ecg: Tensor, seen: Tensor) -> Tensor:
        x = self.embed(torch.cat([ecg, seen.to(ecg.dtype)], dim=1).transpose(1, 2))
        for block in self.blocks:
            x = block(x)
        return x.reshape(len(x), -1, self.patch, x.shape[-1]).mean(2)  # type: ignore[no-any-return]


class EcgS4dDecoder(nn.Module):
    """Rebuilds the patches of all leads from the feature of their patch of time."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.patch = config.ecg_encoder.patch_samples
        hidden = config.ecg_decoder.width
        self.embed = nn.Linear(config.ecg_encoder.width, hidden)
        self.predict = nn.Linear(hidden, len(LEADS) * self.patch)

    def forward(self, features: Tensor, visible: Visible, present: Tensor) -> Tensor:
        """Return all patches, [B, 12 * T / patch, patch]; the masks are not needed here."""
        flat = self.predict(nn.functional.gelu(self.embed(features)))
        leads = flat.view(*flat.shape[:2], len(LEADS), self.patch).transpose(1, 2)
        return leads.flatten(1, 2)  # type: ignore[no-any-return]
