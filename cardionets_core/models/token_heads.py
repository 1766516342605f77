"""The model of one latent token, given the transformer's vector for its place: flow or diffusion.

Both are a small MLP with adaptive LayerNorm (Li et al. 2024, "Autoregressive image generation
without vector quantization"). Shapes: B patients, Q tokens, D numbers per token, W features of the
transformer. Everything here runs in fp32, autocast or not: fp16 overflows in it and bf16 blurs
small steps.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cardionets_core.models.blocks import full_precision, sinusoid

if TYPE_CHECKING:
    from collections.abc import Callable

    from cardionets_core.model_config import GeneratorConfig

TIME_FEATURES = 64
DDPM_STEPS = 1000


class AdaptiveBlock(nn.Module):
    """A residual MLP block whose norm is shifted, scaled and gated by the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)
        self.modulate = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map x [..., width] under condition [..., width]."""
        shift, scale, gate = self.modulate(condition).chunk(3, dim=-1)
        hidden = self.norm(x) * (1.0 + scale) + shift
        return x + gate * self.down(F.silu(self.up(hidden)))  # type: ignore[no-any-return]


class TokenMlp(nn.Module):
    """Predicts a vector of a token's size from a noisy token, a time and the transformer's vector.

    Args:
        token_values: D.
        source_width: W.
        width: of the MLP.
        depth: number of blocks.
    """

    def __init__(self, token_values: int, source_width: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Linear(token_values, width)
        self.source = nn.Linear(source_width, width)
        self.time_in = nn.Linear(TIME_FEATURES, width)
        self.time_out = nn.Linear(width, width)
        self.blocks = nn.ModuleList(AdaptiveBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.predict = nn.Linear(width, token_values)

    def initialise(self, generator: torch.Generator) -> None:
        """Start with closed gates and a zero prediction, as diffusion transformers do."""
        for block in self.blocks:
            assert isinstance(block, AdaptiveBlock)
            nn.init.zeros_(block.modulate.weight)
        nn.init.zeros_(self.predict.weight)

    def forward(self, noisy: Tensor, time: Tensor, source: Tensor) -> Tensor:
        """Return [..., D] from noisy [..., D], time [...] in [0, 1] and source [..., W]."""
        features = sinusoid(time * DDPM_STEPS, TIME_FEATURES, longest=10_000.0)
        condition = self.time_out(F.silu(self.time_in(features))) + self.source(source)
        condition = F.silu(condition)
        x = self.embed(noisy)
        for block in self.blocks:
            x = block(x, condition)
        return self.predict(self.norm(x))  # type: ignore[no-any-return]


Predict = "Callable[[Tensor, Tensor], Tensor]"
"""(x [B, Q, D], time [B, Q]) -> prediction [B, Q, D]; guidance is already inside."""


class TokenHead(Protocol):
    """What both kinds of head can do."""

    mlp: TokenMlp

    def draw_time(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw training times."""

    def loss(self, target: Tensor, source: Tensor, *, time: Tensor, noise: Tensor) -> Tensor:
        """Return the loss of every token."""

    def sample(
        self,
        predict: Callable[[Tensor, Tensor], Tensor],
        start: Tensor,
        *,
        steps: int,
        generator: torch.Generator,
    ) -> Tensor:
        """Return tokens [B, Q, D] from normal noise `start` [B, Q, D]."""


class FlowHead(nn.Module):
    """Rectified flow: the velocity along the straight line from noise to token (Liu et al. 2023).

    x_t = (1 - t) noise + t token; the target is token - noise; t is logit-normal (Esser et al.
    2024).
    """

    def __init__(self, config: GeneratorConfig, token_values: int) -> None:
        super().__init__()
        self.mlp = TokenMlp(
            token_values, config.width, width=config.head_width, depth=config.head_depth
        )

    def draw_time(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw times in (0, 1): the sigmoid of a standard normal."""
        return torch.randn(shape, generator=generator, device=generator.device).sigmoid()

    def loss(self, target: Tensor, source: Tensor, *, time: Tensor, noise: Tensor) -> Tensor:
        """Return the mean squared error of the velocity per token, [...]."""
        with full_precision(target.device):
            target, source = target.float(), source.float()
            weight = time[..., None]
            velocity = self.mlp((1.0 - weight) * noise + weight * target, time, source)
            return (velocity - (target - noise)).square().mean(-1)  # type: ignore[no-any-return]

    def sample(
        self,
        predict: Callable[[Tensor, Tensor], Tensor],
        start: Tensor,
        *,
        steps: int,
        generator: torch.Generator,
    ) -> Tensor:
        """Integrate the velocity from t = 0 to 1 by `steps` midpoint steps (second order)."""
        x, width = start, 1.0 / steps
        for step in range(steps):
            time = torch.full(x.shape[:-1], step * width, device=x.device)
            middle = x + 0.5 * width * predict(x, time)
            x = x + width * predict(middle, time + 0.5 * width)
        return x


class DdpmHead(nn.Module):
    """Denoising diffusion of the noise, cosine schedule of 1,000 steps (Ho 2020; Nichol 2021)."""

    signal: Tensor

    def __init__(self, config: GeneratorConfig, token_values: int) -> None:
        super().__init__()
        self.mlp = TokenMlp(
            token_values, config.width, width=config.head_width, depth=config.head_depth
        )
        self.register_buffer("signal", torch.empty(DDPM_STEPS), persistent=False)

    def initialise(self, generator: torch.Generator) -> None:
        """Tabulate the share of signal variance left after each step."""
        self.signal.copy_(cosine_signal())

    def draw_time(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw times k / 1000 with k uniform in 0..999."""
        step = torch.randint(DDPM_STEPS, shape, generator=generator, device=generator.device)
        return step.float() / DDPM_STEPS

    def loss(self, target: Tensor, source: Tensor, *, time: Tensor, noise: Tensor) -> Tensor:
        """Return the mean squared error of the predicted noise per token, [...]."""
        with full_precision(target.device):
            target, source = target.float(), source.float()
            signal = self.signal[self._step(time)][..., None]
            noisy = signal.sqrt() * target + (1.0 - signal).sqrt() * noise
            return (self.mlp(noisy, time, source) - noise).square().mean(-1)  # type: ignore[no-any-return]

    def sample(
        self,
        predict: Callable[[Tensor, Tensor], Tensor],
        start: Tensor,
        *,
        steps: int,
        generator: torch.Generator,
    ) -> Tensor:
        """Ancestral sampling over `steps` evenly respaced steps of the 1,000."""
        x = start
        chosen = torch.linspace(0, DDPM_STEPS - 1, min(steps, DDPM_STEPS)).round().long().tolist()
        for position in reversed(range(len(chosen))):
            now = self.signal[chosen[position]]
            before = self.signal[chosen[position - 1]] if position else torch.ones_like(now)
            time = torch.full(x.shape[:-1], chosen[position] / DDPM_STEPS, device=x.device)
            noise = predict(x, time)
            clean = (x - (1.0 - now).sqrt() * noise) / now.sqrt()
            kept = now / before  # alpha of this respaced step
            mean = (before.sqrt() * (1.0 - kept) * clean + kept.sqrt() * (1.0 - before) * x) / (
                1.0 - now
            )
            spread = ((1.0 - before) / (1.0 - now) * (1.0 - kept)).sqrt()
            x = mean + spread * draw_normal(x.shape, generator, x.device)
        return x

    def _step(self, time: Tensor) -> Tensor:
        return (time * DDPM_STEPS).round().long().clamp(0, DDPM_STEPS - 1)


def cosine_signal() -> Tensor:
    """Return the cumulative product of alphas, [1000] (Nichol and Dhariwal 2021, offset 0.008)."""
    time = torch.arange(DDPM_STEPS + 1, dtype=torch.float64) / DDPM_STEPS
    curve = ((time + 0.008) / 1.008 * math.pi / 2).cos().square()
    kept = (curve[1:] / curve[:-1]).clamp(min=0.001)  # no step loses more than 99.9 %
    return kept.cumprod(0).float()


def draw_normal(
    shape: tuple[int, ...] | torch.Size, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Draw standard normals on the generator's own device and move them."""
    return torch.randn(shape, generator=generator, device=generator.device).to(device)
