"""The generator: a masked autoregressive transformer over latent tokens, conditioned on the ECG.

MAR (Li et al. 2024): an encoder reads the condition and the tokens known so far, a decoder gives a
vector for every place, and a small flow or diffusion head turns the vectors of masked places into
tokens. Shapes: B patients, L tokens of D numbers, C condition tokens, W features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cardionets_core.models.blocks import (
    CrossAttention,
    LearnedTokens,
    Mlp,
    Transformer,
    full_precision,
    gather_tokens,
)
from cardionets_core.models.masking import Visible, fill_hidden
from cardionets_core.models.token_heads import DdpmHead, FlowHead, draw_normal

if TYPE_CHECKING:
    from cardionets_core.model_config import ModelConfig
    from cardionets_core.models.ecg_encoder import EcgFeatures


@dataclass(frozen=True)
class SamplingPlan:
    """How to sample.

    Attributes:
        ar_steps: in how many steps the tokens are revealed.
        head_steps: steps of the head per token.
        guidance: 1 is plain conditional; above 1 the condition is exaggerated, rising linearly with
            the share of tokens that are known.
    """

    ar_steps: int
    head_steps: int
    guidance: float


class TokenCondition(nn.Module):
    """Learned queries read the ECG's tokens; the aligned vector is added to each."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        own = config.generator
        self.queries = LearnedTokens(own.condition_tokens, own.width, spread=LearnedTokens.UNIT)
        self.read = CrossAttention(own.width, config.ecg_encoder.width, own.heads)
        self.vector = nn.Linear(config.ecg_encoder.width, own.width)
        self.norm = nn.LayerNorm(own.width)
        self.mlp = Mlp(own.width, 2 * own.width)

    def forward(self, ecg: EcgFeatures, aligned: Tensor) -> Tensor:
        """Return condition tokens [B, C, W]."""
        queries = self.queries(len(aligned)) + self.vector(ecg.pooled)[:, None]
        tokens = queries + self.read(queries, ecg.tokens, ecg.present)
        return tokens + self.mlp(self.norm(tokens))  # type: ignore[no-any-return]


class VectorCondition(nn.Module):
    """The paper's: the aligned vector through two Linears, repeated over all condition tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.count = config.generator.condition_tokens
        self.first = nn.Linear(config.alignment.width, config.generator.width)
        self.second = nn.Linear(config.generator.width, config.generator.width)

    def forward(self, ecg: EcgFeatures, aligned: Tensor) -> Tensor:
        """Return condition tokens [B, C, W], all alike; their places are added by the generator."""
        return self.second(self.first(aligned))[:, None].expand(-1, self.count, -1)  # type: ignore[no-any-return]


class Generator(nn.Module):
    """The masked autoregressive model.

    Args:
        config: the whole model's; `generator` and `tokenizer` are read.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        own = config.generator
        self.patch, self.grid = own.patch, config.token_grid
        self.count = math.prod(self.grid)
        self.token_values = config.tokenizer.latent_channels * math.prod(own.patch)
        self.mask_ratio_min = own.mask_ratio_min
        self.noise_draws = own.noise_draws
        condition = TokenCondition if own.condition == "tokens" else VectorCondition
        self.condition = condition(config)
        self.shortcut = own.condition == "tokens"
        self.null = LearnedTokens(own.condition_tokens, own.width)
        self.condition_position = LearnedTokens(
            own.condition_tokens, own.width, spread=LearnedTokens.UNIT
        )
        self.embed = nn.Linear(self.token_values, own.width)
        self.position = LearnedTokens(self.count, own.width, self.grid)
        self.embed_norm = nn.LayerNorm(own.width)
        self.encoder = Transformer(own.width, own.encoder_depth, own.heads, own.mlp_ratio)
        self.encoder_norm = nn.LayerNorm(own.width)
        self.mask_token = LearnedTokens(1, own.width)
        self.decoder_position = LearnedTokens(self.count, own.width, self.grid)
        self.decoder = Transformer(own.width, own.decoder_depth, own.heads, own.mlp_ratio)
        self.decoder_norm = nn.LayerNorm(own.width)
        self.head = (FlowHead if own.head == "flow" else DdpmHead)(own, self.token_values)

    @property
    def query_count(self) -> int:
        """Tokens per patient that the head trains on: always masked, whatever the drawn ratio."""
        return max(1, math.ceil(self.mask_ratio_min * self.count))

    def conditions(
        self, ecg: EcgFeatures, aligned: Tensor, dropped: Tensor | None = None
    ) -> Tensor:
        """Return condition tokens [B, C, W]; the learned null where dropped [B] is True."""
        tokens = self.condition(ecg, aligned)
        if dropped is None:
            return tokens  # type: ignore[no-any-return]
        return torch.where(dropped[:, None, None], self.null(len(tokens)).to(tokens.dtype), tokens)

    def forward(self, tokens: Tensor, condition: Tensor, known: Visible, query: Tensor) -> Tensor:
        """Return the transformer's vectors [B, Q, W] for the places query [B, Q].

        Args:
            tokens: [B, L, D]; only those that `known` names are read.
            condition: [B, C, W].
            known: which tokens are known (`hidden` is not used).
            query: int64 [B, Q].
        """
        batch, count = len(tokens), condition.shape[1]
        seen = self.embed(gather_tokens(tokens, known.index))
        seen = seen + gather_tokens(self.position(batch), known.index)
        x = torch.cat([condition + self.condition_position(batch), seen], dim=1)
        mask = torch.cat([known.used.new_ones(batch, count), known.used], dim=1)
        x = self.encoder_norm(self.encoder(self.embed_norm(x), mask))
        blank = self.mask_token(batch).expand(-1, self.count, -1)
        places = fill_hidden(x[:, count:], known, blank) + self.decoder_position(batch)
        x = torch.cat([x[:, :count], places], dim=1)
        x = self.decoder_norm(self.decoder(x))[:, count:]
        found = gather_tokens(x, query) + gather_tokens(self.decoder_position(batch), query)
        if self.shortcut:
            # The head reads the ECG directly too: few patients give too few steps for it to find
            # its way through both transformers.
            found = found + condition.mean(1, keepdim=True)
        return found

    @torch.no_grad()
    def sample(
        self,
        condition: Tensor,
        null: Tensor | None,
        *,
        plan: SamplingPlan,
        generator: torch.Generator,
    ) -> Tensor:
        """Reveal all tokens in random order; return latents [B, channels, k, h, w].

        Args:
            condition: [B, C, W].
            null: null condition tokens [B, C, W], needed where plan.guidance is not 1.
            plan: how many steps and how much guidance.
            generator: source of the order and of all noise.
        """
        batch, device = len(condition), condition.device
        order = torch.rand(batch, self.count, generator=generator, device=generator.device)
        order = order.argsort(dim=1, stable=True).to(device)
        tokens = torch.zeros(batch, self.count, self.token_values, device=device)
        known = 0
        for upto in reveal_schedule(self.count, plan.ar_steps):
            share = upto / self.count
            guidance = 1.0 + (plan.guidance - 1.0) * share
            sources = [self._source(tokens, condition, order, known, upto)]
            if guidance != 1.0:
                if null is None:
                    raise ValueError("guidance other than 1 needs the null condition")
                sources.append(self._source(tokens, null, order, known, upto))
            start = draw_normal((batch, upto - known, self.token_values), generator, device)
            fresh = self._run_head(sources, guidance, start, plan.head_steps, generator)
            index = order[:, known:upto, None].expand_as(fresh)
            tokens = tokens.scatter(1, index, fresh)
            known = upto
        return self.unpatchify(tokens)

    def patchify(self, latent: Tensor) -> Tensor:
        """Cut latents [B, channels, k, h, w] into tokens [B, L, D]."""
        time, rows, columns = self.patch
        t, h, w = self.grid
        cells = latent.reshape(len(latent), -1, t, time, h, rows, w, columns)
        return cells.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)

    def unpatchify(self, tokens: Tensor) -> Tensor:
        """Undo `patchify`."""
        cells = tokens.reshape(len(tokens), *self.grid, -1, *self.patch)
        return cells.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(2, 3)

    def _source(
        self, tokens: Tensor, condition: Tensor, order: Tensor, known: int, upto: int
    ) -> Tensor:
        index = order[:, :known]
        used = torch.ones_like(index, dtype=torch.bool)
        return self(tokens, condition, Visible(index, used, used), order[:, known:upto])  # type: ignore[no-any-return]

    def _run_head(
        self,
        sources: list[Tensor],
        guidance: float,
        start: Tensor,
        steps: int,
        generator: torch.Generator,
    ) -> Tensor:
        source = torch.cat(sources).float()
        copies = len(sources)

        def predict(x: Tensor, time: Tensor) -> Tensor:
            both: Tensor = self.head.mlp(x.repeat(copies, 1, 1), time.repeat(copies, 1), source)
            if copies == 1:
                return both
            conditional, free = both.chunk(2)
            guided: Tensor = free + guidance * (conditional - free)
            return guided

        with full_precision(start.device):
            return self.head.sample(predict, start, steps=steps, generator=generator)


def reveal_schedule(count: int, steps: int) -> list[int]:
    """Return how many of `count` tokens are known after each step (MAR's cosine)."""
    steps = min(steps, count)
    known, schedule = 0, []
    for step in range(1, steps + 1):
        masked = math.floor(count * math.cos(math.pi / 2 * step / steps))
        # Leave at least one token for each step to come.
        known = min(max(count - masked, known + 1), count - (steps - step))
        schedule.append(known)
    return schedule
