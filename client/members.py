"""What a site trains in one task: a stage, or the members of it that it has the patients for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cardionets_core.training.loop import TrainResult
    from cardionets_core.training.stages import Stage


@dataclass(frozen=True)
class Cohort:
    """Whom a stage is trained on: `indices` are the rows of their studies."""

    stage: Stage
    indices: NDArray[np.int64]


@dataclass(frozen=True)
class Trained:
    """What training one stage brought.

    Attributes:
        cohort: whom it was trained on.
        result: of the loop.
        before: mean loss and terms on held-out patients before the training, by name.
    """

    cohort: Cohort
    result: TrainResult
    before: dict[str, float]

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that were trained."""
        return self.cohort.stage.trains


def studies_of(trained: Sequence[Trained]) -> int:
    """Return how many different training studies stand behind a task."""
    rows = [t.cohort.indices[: t.result.num_examples] for t in trained]
    if len(rows) == 1:
        return trained[0].result.num_examples
    return len(np.unique(np.concatenate(rows)))


def examples_of(trained: Sequence[Trained]) -> dict[str, int]:
    """Return part -> training studies behind it; empty where all parts have the same ones."""
    if len(trained) == 1:
        return {}
    return {part: t.result.num_examples for t in trained for part in t.parts}


def metrics_of(trained: Sequence[Trained]) -> dict[str, float]:
    """Return the losses of a task by name.

    Of several members each has its own names (`train_ecg_masked_loss`); `train_loss` and
    `validation_loss` are then the means over them, weighted by their training studies.
    """
    if len(trained) == 1:
        return _named("", trained[0])
    metrics: dict[str, float] = {}
    for member in trained:
        metrics |= _named(f"{member.cohort.stage.name}_", member)
    return metrics | _weighted(trained)


def _named(prefix: str, trained: Trained) -> dict[str, float]:
    metrics = {f"train_{prefix}{k}": v for k, v in trained.result.means.items()}
    return metrics | {f"validation_{prefix}{k}": v for k, v in trained.before.items()}


def _weighted(trained: Sequence[Trained]) -> dict[str, float]:
    losses: dict[str, list[tuple[float, int]]] = {}
    for member in trained:
        studies = member.result.num_examples
        for key in ("train_loss", "validation_loss"):
            values = _named("", member)
            if key in values:
                losses.setdefault(key, []).append((values[key], studies))
    return {k: sum(v * n for v, n in rows) / sum(n for _, n in rows) for k, rows in losses.items()}
