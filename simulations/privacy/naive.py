"""What a careful person would try first, and what must not be called private: three controls."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cardionets_core.privacy.engines import clipped_sum, zeros_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cardionets_core.privacy.engines import Sums
    from simulations.privacy.hostile import Given

PATIENTS, WIDTH, STEPS = 48, 24, 40


class Towers(nn.Module):
    """Two small encoders into one space."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = (
            nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, 8)) for _ in range(2)
        )

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return unit vectors of both."""
        return F.normalize(self.one(x), dim=1), F.normalize(self.other(y), dim=1)


def info_nce(u: Tensor, v: Tensor) -> Tensor:
    """Return the symmetric InfoNCE loss at temperature 0.2, the mean over pairs."""
    logits = u @ v.T / 0.2
    own = torch.arange(len(logits))
    return 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own))


def opacus_on_contrastive(*, seed: int, clip: float, trials: int) -> float:
    """Return how far one patient moves Opacus' clipped sum of an InfoNCE loss, in units of C.

    Everything runs without an error or warning of ours: GradSampleModule gives a gradient per
    sample, DPOptimizer clips it to C. But every patient is in everybody's loss.
    """
    torch.manual_seed(seed)
    towers, x = Towers(), torch.randn(PATIENTS, WIDTH)
    y = x.flip(1) + 0.3 * torch.randn(PATIENTS, WIDTH)
    optimizer = torch.optim.Adam(towers.parameters(), 3e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        info_nce(*towers(x, y)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    clipped = _clipped_by_opacus(towers, clip)
    before, worst = clipped(x, y), 0.0
    for _ in range(trials):
        one, other = (30 * torch.randn(1, WIDTH) for _ in range(2))
        after = clipped(torch.cat([x, one]), torch.cat([y, other]))
        worst = max(worst, float((after - before).norm()) / clip)
    return worst


def _clipped_by_opacus(towers: Towers, clip: float) -> Callable[[Tensor, Tensor], Tensor]:
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    def clipped(x: Tensor, y: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch, about Opacus' hooks
            module = GradSampleModule(towers, loss_reduction="sum")
            optimizer = DPOptimizer(
                torch.optim.SGD(module.parameters(), lr=0.0),
                noise_multiplier=0.0,
                max_grad_norm=clip,
                expected_batch_size=1,
                loss_reduction="sum",
            )
            optimizer.zero_grad()
            (info_nce(*module(x, y)) * len(x)).backward()  # type: ignore[no-untyped-call]
            optimizer.clip_and_accumulate()
            total = torch.cat([p.summed_grad.flatten().clone() for p in optimizer.params])
            optimizer.zero_grad()
            module.to_standard_module()
        return total

    return clipped


def short_last_chunk(given: Given, *, trains: Sequence[str], clip: float, chunk: int) -> Sums:
    """Return a sum of clipped gradients whose last chunk is as short as it comes.

    As every loop over a data set does it that keeps its last batch. How many rows are computed
    together then follows from who is there, and with it everybody's last bits.
    """
    model, batch, noise, objective = given
    total = zeros_for(model, trains)
    for start in range(0, len(batch), chunk):
        rows = slice(start, start + chunk)
        some, drawn = batch.rows(rows), {k: v[rows] for k, v in noise.items()}
        size = len(some)
        found = clipped_sum(model, some, drawn, objective, trains=trains, clip=clip, chunk=size)
        for name, values in found.items():
            total[name] += values
    return total
