"""How far updates went, and how far honest ones go: the norms that the firewall judges by."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cardionets_core.models.cardionet import build_model
from server.aggregation import BLOCK

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from cardionets_core.model_config import ModelConfig
    from cardionets_core.packing import Groups
    from cardionets_core.run_config import StageConfig

    History = Sequence[Mapping[str, Any]]

STATISTICS = ".statistics"
"""Ending of the key under which the arrays of a part that no optimizer moves are judged."""


def l2_norm(arrays: Iterable[NDArray[Any]]) -> float:
    """Return the L2 norm over the floating arrays, to nine digits.

    Summed in float64 (a float32 sum of squares overflows at 2e19) and rounded, so that the same
    update has the same norm in the record of a resumed run. Integer arrays keep their value
    whatever a site sends.
    """
    squares = []
    for array in arrays:
        if np.issubdtype(array.dtype, np.floating):
            values = array.reshape(-1)
            for start in range(0, len(values), BLOCK):
                block = values[start : start + BLOCK].astype(np.float64)
                squares.append(float(np.square(block, out=block).sum()))
    return float(f"{math.sqrt(math.fsum(squares)):.9g}")


def norms_of(groups: Groups, learned: Mapping[str, Collection[str]]) -> dict[str, float]:
    """Return part -> norm of its learned arrays, and `PART.statistics` -> norm of the others.

    Measured statistics (of the tokenizer's latents) are judged by themselves: how far they move
    says nothing of steps and learning rate. A part that `learned` does not name is all learned.
    """
    norms = {}
    for part, arrays in sorted(groups.items()):
        names = learned.get(part, arrays)
        norms[part] = l2_norm(arrays[n] for n in sorted(arrays) if n in names)
        others = [arrays[n] for n in sorted(arrays) if n not in names]
        if others:
            norms[part + STATISTICS] = l2_norm(others)
    return norms


def learned_names(model: ModelConfig, parts: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return part -> names of the arrays that an optimizer moves; builds no weights."""
    built = build_model(model, device="meta")
    return {p: frozenset(n for n, _ in built.get_submodule(p).named_parameters()) for p in parts}


def part_of(key: str) -> str:
    """Return the part that a key of `norms_of` speaks of."""
    return key.removesuffix(STATISTICS)


def travel(key: str, num_examples: int, *, settings: StageConfig, number: int) -> float:
    """Return how far honest local training moves, up to a factor that all sites of a stage share.

    An AdamW update grows in proportion to the learning rate and to the root of the steps: measured,
    1 to 34 steps a round, over a stage's whole schedule (docs/screening.md).

    Args:
        key: of `norms_of`; statistics do not travel, they are measured.
        num_examples: behind the update.
        settings: of the stage.
        number: 1-based round.
    """
    if key.endswith(STATISTICS):
        return 1.0
    steps = max(1, math.ceil(num_examples / settings.batch_size))
    return settings.lr_at(number - 1) * math.sqrt(steps)


def usual_sizes(
    rounds: History, settings: StageConfig, weights: Mapping[str, float]
) -> dict[str, list[float]]:
    """Return key -> norm / travel of every update that these rounds of a stage used.

    An update that weight decay alone explains is left out: no gradient had reached the part (an
    encoder before a decoder that starts at zero, in its first step), so it says nothing of how far
    training goes.

    Args:
        rounds: of the stage.
        settings: of the stage.
        weights: key -> norm of the global weights.
    """
    sizes: dict[str, list[float]] = {}
    for record in rounds:
        for site, norms in record["screening"]["norms"].items():
            for key, norm in norms.items():
                studies = record.get("examples", {}).get(site, {})
                count = studies.get(part_of(key), record["num_examples"][site])
                decayed = decay(count, settings=settings, number=record["round"])
                if norm > decayed * weights.get(key, 0.0) or key.endswith(STATISTICS):
                    far = travel(key, count, settings=settings, number=record["round"])
                    sizes.setdefault(key, []).append(norm / far)
    return sizes


def decay(num_examples: int, *, settings: StageConfig, number: int) -> float:
    """Return twice the share of its weights that AdamW's weight decay takes in a round."""
    steps = settings.local_epochs * max(1, math.ceil(num_examples / settings.batch_size))
    return 2 * settings.lr_at(number - 1) * settings.weight_decay * steps


def judged_rounds(records: History, stage: str) -> list[Mapping[str, Any]]:
    """Return the rounds of a stage that a median may be taken over: from the last lift on."""
    rounds = [r for r in records if r["stage"] == stage and "screening" in r]
    lifts = [i for i, r in enumerate(rounds) if r["screening"]["lifted"]]
    return rounds[lifts[-1] :] if lifts else rounds
