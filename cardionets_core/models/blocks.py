"""Pieces that all parts are made of: learned tokens, position codes, transformer blocks, patches.

Shapes: B patients, L tokens, D features; batch first, (B, L, D) everywhere. No module draws a
random number. Every trained tensor lives in a leaf module, so that per-patient gradients stay
possible.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class LearnedTokens(nn.Module):
    """`count` trained vectors of `width`: class, mask, null or query tokens, or a position table.

    Args:
        count: number of vectors.
        width: features of each.
        grid: the vectors start as sine-cosine codes of the cells of this grid (count = its
            product); without it they start as a truncated normal of sd `spread`.
        spread: 0.02 for vectors that start alike (mask, null); UNIT where the model must tell them
            apart from the first step (leads, views, queries): as strong as a position code.
    """

    UNIT = 0.7

    def __init__(
        self,
        count: int,
        width: int,
        grid: tuple[int, ...] | None = None,
        *,
        spread: float = 0.02,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, width))
        self._grid, self._spread = grid, spread

    def initialise(self, generator: torch.Generator) -> None:
        """Set the start values; called once by `initialise_weights`."""
        if self._grid is not None:
            self.weight.data.copy_(sincos_positions(self._grid, self.weight.shape[1]))
        else:
            std = self._spread
            nn.init.trunc_normal_(self.weight, std=std, a=-2 * std, b=2 * std, generator=generator)

    def forward(self, batch: int) -> Tensor:
        """Return the vectors for every patient, [batch, count, width]."""
        return self.weight.expand(batch, -1, -1)


class Attention(nn.Module):
    """Multi-head attention with one projection for queries, keys and values.

    Args:
        width: features of a token; divisible by `heads`.
        heads: number of heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def initialise(self, generator: torch.Generator) -> None:
        """Start the keys as the queries: tokens first look at those that are like them.

        With position codes these are neighbours in time, lead or space; small cohorts train much
        faster from there (after Trockman and Kolter 2023, "Mimetic initialization").
        """
        query, key, _ = self.qkv.weight.data.chunk(3)
        nn.init.normal_(query, std=query.shape[1] ** -0.5, generator=generator)
        key.copy_(query)

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Attend within x [B, L, D]; keys that are False in key_mask [B, L] are not seen."""
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mask = None if key_mask is None else key_mask[:, None, None, :]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, width: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width if out is None else out)

    def forward(self, x: Tensor) -> Tensor:
        """Map the last dimension."""
        return self.down(F.gelu(self.up(x), approximate="tanh"))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = Mlp(width, round(width * mlp_ratio))

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Return x [B, L, D] after attention and MLP, each added to what came in."""
        x = x + self.attention(self.attention_norm(x), key_mask)
        return x + self.mlp(self.mlp_norm(x))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """`depth` blocks; the caller normalises what comes out."""

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Run x [B, L, D] through all blocks; key_mask [B, L] is False where nothing may look."""
        for block in self.blocks:
            x = block(x, key_mask)
        return x


class CrossAttention(nn.Module):
    """Queries of one width read tokens of another.

    Args:
        width: of the queries and of what comes out.
        source_width: of the tokens that are read.
        heads: number of heads.
    """

    def __init__(self, width: int, source_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(source_width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, source: Tensor, source_mask: Tensor) -> Tensor:
        """Return [B, Q, width] from queries [B, Q, width], source [B, L, S] and its mask [B, L]."""
        batch, count, width = queries.shape
        head_width = width // self.heads
        query = self.query(queries).view(batch, count, self.heads, head_width).transpose(1, 2)
        key_value = self.key_value(source).view(batch, -1, 2, self.heads, head_width)
        key, value = key_value.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=source_mask[:, None, None, :]
        )
        return self.out(mixed.transpose(1, 2).reshape(batch, count, width))  # type: ignore[no-any-return]


def sincos_positions(grid: tuple[int, ...], width: int) -> Tensor:
    """Return a sine-cosine code of every cell of a grid, row-major, [cells, width].

    The features are shared out evenly over the axes; what does not divide stays zero. The
    frequencies of an axis of n cells run from half a turn per cell to half a turn per n cells: with
    the usual 10,000 (Vaswani et al. 2017) most would be constant over grids as short as these.
    """
    per_axis = 2 * (width // (2 * len(grid)))
    axes = [
        sinusoid(math.pi * torch.arange(n, dtype=torch.float64), per_axis, longest=float(n))
        for n in grid
    ]
    index = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
    codes = torch.cat([axis[i.flatten()] for axis, i in zip(axes, index, strict=True)], dim=1)
    return F.pad(codes, (0, width - codes.shape[1])).float()


def sinusoid(position: Tensor, width: int, *, longest: float) -> Tensor:
    """Return sines and cosines [..., width] of positions [...].

    The frequencies fall geometrically from 1 to 1 / longest; `width` is even.
    """
    half = width // 2
    steps = torch.arange(half, dtype=position.dtype, device=position.device)
    frequency = torch.exp(-math.log(longest) * steps / max(half - 1, 1))
    angle = position[..., None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Return x [B, L, D] at index [B, M], as [B, M, D]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of x [B, L, ...] over the True places of mask [B, L]; 0 if there is none."""
    weight = mask.to(x.dtype).view(*mask.shape, *[1] * (x.dim() - 2))
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1.0)


def at_least_one(mask: Tensor) -> Tensor:
    """Turn all-False rows of mask [B, L] all True: attention over nothing is NaN."""
    return mask | ~mask.any(dim=1, keepdim=True)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Return a context with autocast off on `device` (`meta` has no autocast to turn off)."""
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def initialise_weights(model: nn.Module, generator: torch.Generator) -> None:
    """Give every parameter and buffer its start value, in module order, from `generator` alone.

    A module with a method `initialise(generator)` sets its own tensors after its children; Linear
    and convolution weights are Xavier uniform with zero bias (ViT's scheme), norms are the
    identity.
    """
    for child in model.children():
        initialise_weights(child, generator)
    if isinstance(model, nn.Linear):
        nn.init.xavier_uniform_(model.weight, generator=generator)
        if model.bias is not None:
            nn.init.zeros_(model.bias)
    elif isinstance(model, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose3d)):
        nn.init.xavier_uniform_(model.weight, generator=generator)
        assert model.bias is not None
        nn.init.zeros_(model.bias)
    elif isinstance(model, (nn.LayerNorm, nn.GroupNorm)):
        if model.weight is not None:
            nn.init.ones_(model.weight)
            nn.init.zeros_(model.bias)
    elif callable(initialise := getattr(model, "initialise", None)):
        initialise(generator)
