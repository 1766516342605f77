"""Ghost clipping."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cardionets_core.batch import Batch
    from cardionets_core.models.cardionet import CardioNet
    from cardionets_core.privacy.engines import Sums
    from cardionets_core.training.objective import Noise, Objective


def ghost_sum(
    model: CardioNet,
    batch: Batch,
    noise: Noise,
    objective: Objective,
    *,
    trains: Sequence[str],
    clip: float,
) -> Sums:
    """Return what `clipped_sum` does, without a gradient per patient in memory."""
    raise NotImplementedError
