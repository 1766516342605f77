"""The tokenizer: a cine to a small latent and back.

`kl` is a 3D convolutional variational autoencoder (Kingma and Welling 2014; latent diffusion's KL
variant), `pixel` a lossless rearrangement. Latents are standardised with statistics that are stored
as buffers: means of x and x^2 per channel or cell, which average linearly over hospitals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cardionets_core.model_config import ModelConfig, TokenizerConfig

LOG_VARIANCE_RANGE = (-30.0, 20.0)  # of the posterior; keeps exp() finite in any precision


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU and a convolution in the plane, the same along time, and a residual.

    A plane (1, 3, 3) and a time (3, 1, 1) convolution cost less than half of one (3, 3, 3). The
    last one starts at zero: the tokenizer starts linear and finds principal components first.
    """

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.plane_norm = nn.GroupNorm(groups, width)
        self.plane = nn.Conv3d(width, width, (1, 3, 3), padding=(0, 1, 1))
        self.time_norm = nn.GroupNorm(groups, width)
        self.time = nn.Conv2d(width, width, (3, 1), padding=(1, 0))  # rows and columns as one axis

    def initialise(self, generator: torch.Generator) -> None:
        """Start as the identity."""
        nn.init.zeros_(self.time.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, width, K, H, W]."""
        mixed = self.plane(F.silu(self.plane_norm(x)))
        mixed = F.silu(self.time_norm(mixed)).flatten(3)
        return x + self.time(mixed).view_as(x)  # type: ignore[no-any-return]


class LatentEncoder(nn.Module):
    """Cine [B, 1, K, H, W] to the mean and log variance of the latent [B, 2 * C, k, h, w]."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths, blocks, groups = config.widths, config.blocks, config.groups
        stem = nn.Conv3d(1, widths[0], config.stem, stride=config.stem)
        if config.stem == (1, 1, 1):
            stem = nn.Conv3d(1, widths[0], 3, padding=1)
        layers: list[nn.Module] = [stem]
        layers += [ResidualBlock(widths[0], groups) for _ in range(blocks)]
        for narrow, wide, stride in zip(widths[:-1], widths[1:], config.strides, strict=True):
            layers.append(nn.Conv3d(narrow, wide, stride, stride=stride))
            layers += [ResidualBlock(wide, groups) for _ in range(blocks)]
        layers.append(nn.Conv3d(widths[-1], 2 * config.channels, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, cine: Tensor) -> Tensor:
        """Return mean and log variance, stacked along the channels."""
        return self.layers(cine)  # type: ignore[no-any-return]


class LatentDecoder(nn.Module):
    """Latent [B, C, k, h, w] to cine [B, 1, K, H, W]; LatentEncoder mirrored."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths, blocks, groups = config.widths[::-1], config.blocks, config.groups
        layers: list[nn.Module] = [nn.Conv3d(config.channels, widths[0], 3, padding=1)]
        layers += [ResidualBlock(widths[0], groups) for _ in range(blocks)]
        for wide, narrow, stride in zip(widths[:-1], widths[1:], config.strides[::-1], strict=True):
            layers.append(nn.ConvTranspose3d(wide, narrow, stride, stride=stride))
            layers += [ResidualBlock(narrow, groups) for _ in range(blocks)]
        last: nn.Module = nn.ConvTranspose3d(widths[-1], 1, config.stem, stride=config.stem)
        if config.stem == (1, 1, 1):
            last = nn.Conv3d(widths[-1], 1, 3, padding=1)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, latent: Tensor) -> Tensor:
        """Return the cine, not yet clamped."""
        return self.layers(latent)  # type: ignore[no-any-return]


class Tokenizer(nn.Module):
    """Cine [B, K, H, W] in [-1, 1] to standardised latents [B, C, k, h, w] and back.

    Args:
        config: the whole model's; `tokenizer` is read.
    """

    latent_mean: Tensor
    latent_square: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        own = config.tokenizer
        self.kind = own.kind
        self.factors = own.factors
        if own.kind == "kl":
            self.encoder = LatentEncoder(own)
            self.decoder = LatentDecoder(own)
        cells = config.latent_grid if own.statistics == "cell" else (1, 1, 1)
        self.register_buffer("latent_mean", torch.empty(own.latent_channels, *cells))
        self.register_buffer("latent_square", torch.empty(own.latent_channels, *cells))

    def initialise(self, generator: torch.Generator) -> None:
        """Start with the statistics of a standard normal."""
        self.latent_mean.zero_()
        self.latent_square.fill_(1.0)

    def posterior(self, cine: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the raw latent, each [B, C, k, h, w].

        A `pixel` latent is exact: its log variance is the least that is allowed.
        """
        if self.kind == "pixel":
            mean = self._fold(cine)
            return mean, torch.full_like(mean, LOG_VARIANCE_RANGE[0])
        mean, log_variance = self.encoder(cine[:, None]).chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)

    def reconstruct(self, raw_latent: Tensor) -> Tensor:
        """Return the cine [B, K, H, W] of a raw latent; not clamped, to let gradients through."""
        if self.kind == "pixel":
            return self._unfold(raw_latent)
        return self.decoder(raw_latent)[:, 0]  # type: ignore[no-any-return]

    def encode(self, cine: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return standardised latents: the posterior mean, or with noise (same shape) a sample."""
        mean, log_variance = self.posterior(cine)
        raw = mean if noise is None else mean + (0.5 * log_variance).exp() * noise
        centre, spread = self._statistics()
        return (raw - centre) / spread

    def decode(self, latent: Tensor) -> Tensor:
        """Return the cine [B, K, H, W] in [-1, 1] of standardised latents."""
        centre, spread = self._statistics()
        return self.reconstruct(latent * spread + centre).clamp(-1.0, 1.0)

    @torch.no_grad()
    def update_statistics(self, cines: Iterable[Tensor]) -> None:
        """Set the buffers to the mean and mean square of the posterior means of all `cines`.

        Args:
            cines: tensors [B, K, H, W]; empty ones are passed over. Nothing changes if all are
                empty.
        """
        shape = self.latent_mean.shape
        total = torch.zeros(2, *shape, dtype=torch.float64)
        patients = 0
        for cine in cines:
            raw = self.posterior(cine)[0].double().cpu()
            powers = torch.stack([raw, raw.square()])
            if shape[1:] == (1, 1, 1):
                powers = powers.mean((3, 4, 5), keepdim=True)
            total += powers.sum(1)
            patients += len(cine)
        if patients:
            self.latent_mean.copy_(total[0] / patients)
            self.latent_square.copy_(total[1] / patients)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        variance = self.latent_square - self.latent_mean.square()
        return self.latent_mean, variance.clamp(min=1e-6).sqrt()

    def _fold(self, cine: Tensor) -> Tensor:
        time, rows, columns = self.factors
        batch, phases, height, width = cine.shape
        cells = cine.reshape(
            batch, phases // time, time, height // rows, rows, width // columns, columns
        )
        return cells.permute(0, 2, 4, 6, 1, 3, 5).flatten(1, 3)

    def _unfold(self, latent: Tensor) -> Tensor:
        cells = latent.reshape(len(latent), *self.factors, *latent.shape[2:])
        cells = cells.permute(0, 4, 1, 5, 2, 6, 3)
        return cells.flatten(5, 6).flatten(3, 4).flatten(1, 2)
