"""Projectors into the shared space, and the supervised heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from cardionets_core.models.blocks import Mlp, full_precision
from cardionets_core.models.ecg_encoder import EcgVit
from cardionets_core.models.s4d import EcgS4d

if TYPE_CHECKING:
    import torch

    from cardionets_core.model_config import HeadConfig, ModelConfig


def make_ecg_encoder(config: ModelConfig) -> EcgVit | EcgS4d:
    """Return the kind of ECG encoder that the configuration names."""
    return EcgVit(config) if config.ecg_encoder.kind == "vit" else EcgS4d(config)


def make_readout(width: int, hidden: int, out: int) -> nn.Linear | Mlp:
    """Return one Linear, or an MLP where hidden > 0. `out` = 0 keeps one row that nobody reads."""
    rows = max(out, 1)
    return Mlp(width, hidden, rows) if hidden else nn.Linear(width, rows)


def start_at_zero(readout: nn.Linear | Mlp) -> None:
    """Make a readout start at the mean prediction (0 in z-scores, one half in probability)."""
    nn.init.zeros_((readout.down if isinstance(readout, Mlp) else readout).weight)


class Projector(nn.Module):
    """Features to unit vectors of the shared space, and to phenotypes for the regression beside it.

    Args:
        config: the whole model's; `alignment` and `num_phenotypes` are read.
        source_width: width of the encoder.
    """

    def __init__(self, config: ModelConfig, source_width: int) -> None:
        super().__init__()
        self.outputs = config.num_phenotypes
        self.embed = make_readout(source_width, config.alignment.hidden, config.alignment.width)
        self.regress = make_readout(
            source_width, config.phenotype_head.hidden, config.num_phenotypes
        )

    def initialise(self, generator: torch.Generator) -> None:
        """Start the regression at the mean."""
        start_at_zero(self.regress)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return unit vectors [B, E] of pooled features [B, W], in fp32."""
        with full_precision(pooled.device):
            return F.normalize(self.embed(pooled.float()), dim=-1)

    def phenotypes(self, pooled: Tensor) -> Tensor:
        """Return z-scored phenotypes [B, P], in fp32."""
        with full_precision(pooled.device):
            return self.regress(pooled.float())[:, : self.outputs]  # type: ignore[no-any-return]


class SupervisedHead(nn.Module):
    """A readout, with its own ECG encoder or on the features of the shared one.

    Args:
        config: the whole model's; its ECG encoder is read.
        own: the head's.
        outputs: number of phenotypes or diseases.
    """

    def __init__(self, config: ModelConfig, own: HeadConfig, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.owns_encoder = own.encoder == "own"
        if self.owns_encoder:
            self.encoder = make_ecg_encoder(config)
        self.readout = make_readout(config.ecg_encoder.width, own.hidden, outputs)

    def initialise(self, generator: torch.Generator) -> None:
        """Start at the mean."""
        start_at_zero(self.readout)

    def forward(self, ecg: Tensor, lead_mask: Tensor, shared: nn.Module) -> Tensor:
        """Return [B, outputs] in fp32; `shared` is the aligned encoder."""
        encoder = self.encoder if self.owns_encoder else shared
        pooled = encoder(ecg, lead_mask).pooled
        with full_precision(pooled.device):
            return self.readout(pooled.float())[:, : self.outputs]  # type: ignore[no-any-return]
