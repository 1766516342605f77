"""The batch: the one thing that data and models agree on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """B patients of one site, on one device. Missing things are zeros under a False mask.

    Attributes:
        ecg: float32 [B, 12, T], scaled as EcgSpec says; leads in the order of vocabulary.LEADS.
        lead_mask: bool [B, 12], True where the lead was recorded.
        cine: float32 [B, V, K, H, W] in [-1, 1]; V views, K phases.
        view_mask: bool [B, V].
        covariates: float32 [B, 4] raw units, in the order of vocabulary.COVARIATES; 0 if missing.
        covariate_mask: bool [B, 4].
        phenotypes: float32 [B, P], z-scored with the federation's mean and sd; 0 where missing.
        phenotype_mask: bool [B, P].
        diseases: float32 [B, D], 1 present, 0 absent or unknown.
        disease_mask: bool [B, D], True where known.
    """

    ecg: Tensor
    lead_mask: Tensor
    cine: Tensor
    view_mask: Tensor
    covariates: Tensor
    covariate_mask: Tensor
    phenotypes: Tensor
    phenotype_mask: Tensor
    diseases: Tensor
    disease_mask: Tensor

    def __len__(self) -> int:
        return len(self.ecg)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`, copied without blocking where memory is pinned."""
        return self._map(lambda t: t.to(device, non_blocking=True))

    def pin(self) -> Batch:
        """Return the batch in pinned memory, from which copies to CUDA overlap with work."""
        return self._map(lambda t: t.pin_memory())

    def rows(self, index: Tensor | slice) -> Batch:
        """Return the batch of the patients at `index`."""
        return self._map(lambda t: t[index])

    def _map(self, f: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(**{k.name: f(getattr(self, k.name)) for k in dataclasses.fields(self)})
