"""How far one patient moves the sum that noise is added to: every stage, extremes, and controls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from cardionets_core.models.cardionet import build_model
from cardionets_core.privacy.bank import Bank
from cardionets_core.privacy.engines import bucket_sum, clipped_sum, looped_sum, zeros_for
from cardionets_core.privacy.ghost import ghost_sum
from cardionets_core.privacy.model_randomness import batch_and_noise, moved
from cardionets_core.privacy.objectives import private_objective
from cardionets_core.privacy.step import CHUNK, LOADED
from cardionets_core.privacy.units import PatientIndex
from cardionets_core.privacy_config import PrivateTask
from cardionets_core.training.stages import STAGES
from simulations.privacy import hostile
from simulations.privacy.agreement import still_in
from simulations.privacy.held import OPTIONS, held, scaled, small_plan, virtual_patients
from simulations.privacy.linear import PART, PRODUCT, linear_model, with_gradients
from simulations.privacy.naive import opacus_on_contrastive, short_last_chunk
from simulations.privacy.row import Row, repeated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from cardionets_core.batch import Batch
    from cardionets_core.models.cardionet import CardioNet
    from cardionets_core.privacy.engines import Sums
    from cardionets_core.training.objective import Objective

    Rows = NDArray[np.int64]

CLIP = 0.05
"""C: below the gradients of most patients, so that clipping is at work."""

PATIENTS, SEEDS, OUTLIERS = 8, (1, 2), (1.0, 30.0)
BUCKETS, TRIALS, LINEAR_PATIENTS = 3, 150, 24
STAGE_NAMES = tuple(name for name, stage in STAGES.items() if stage.members == ())
ROUNDING = 1e-9


def sensitivity(work: Path) -> Iterator[Row]:
    """Measure all of it."""
    plan = small_plan()
    batches = {
        seed: virtual_patients(
            work / f"hearts-{seed}", plan, patients=PATIENTS, seed=seed, cines=True
        )
        for seed in SEEDS
    }
    model = moved(build_model(plan.model, seed=0))
    for name in STAGE_NAMES:
        ways = ("bucket", "public_negatives") if name == "contrastive" else ("",)
        for way in ways:
            yield _stage(name, way, model, batches)
    yield from _hostile()
    yield from _extremes()
    yield from _controls()


def _stage(name: str, way: str, model: CardioNet, batches: dict[int, Batch]) -> Row:
    bank = Bank(held(batches[SEEDS[-1]], _all()), _all(), _all(), "")
    task = PrivateTask(1.0, 0.5, CLIP, 1, contrastive=way or "bucket")  # type: ignore[arg-type]
    objective = private_objective(name, OPTIONS.get(name, {}), 0.0, task=task, bank=bank)
    bucketed = way == "bucket"
    bound = 2 if bucketed else 1
    worst = max(
        _moved(_sum_of(model, scaled(batch, row, factor), objective, seed, bucketed), row)
        for seed, batch in batches.items()
        for factor in OUTLIERS
        for row in range(seed % 2, PATIENTS, 2)
    )
    # A tensor is looked at if it has a gradient for some of the patients.
    sums = [_sum_of(model, b, objective, seed, bucketed)(_all()) for seed, b in batches.items()]
    still = still_in({n: torch.stack([s[n] for s in sums]) for n in sums[0]})
    words = {"bucket": " in buckets", "public_negatives": " against public negatives"}
    return Row(
        f"{name}{words.get(way, '')}: one patient removed, ordinary or an outlier",
        f"<= {bound} C",
        f"{worst:.4f} C",
        worst <= bound + ROUNDING and not still,
        seeds=repeated(*SEEDS),
        note=with_gradient(len(sums[0]), still),
    )


def with_gradient(tensors: int, still: Sequence[str]) -> str:
    """Return in words how many of the trained tensors have a gradient at all."""
    missing = f"; none: {', '.join(still)}" if still else ""
    return f"{tensors - len(still)} of {tensors} trained tensors have a gradient{missing}"


def _all() -> Rows:
    return np.arange(PATIENTS)


def _sum_of(
    model: CardioNet, batch: Batch, objective: Objective, seed: int, bucketed: bool
) -> Callable[[Rows], Sums]:
    """Return rows -> what a step would add noise to, with labels that belong to patients."""
    stage, dataset = STAGES[objective.name], held(batch, _all())
    index = PatientIndex(dataset, ())
    labels = np.random.default_rng(seed).integers(BUCKETS, size=len(batch))

    def total(rows: Rows) -> Sums:
        drawn = zeros_for(model, stage.trains)
        groups = [rows[labels[rows] == k] for k in range(BUCKETS)] if bucketed else [rows]
        for group in (g for g in groups if len(g)):
            patients, noise = batch_and_noise(
                model, dataset, objective, index=index, rows=group, seed=seed
            )
            if bucketed:
                one = np.zeros(len(group), dtype=np.int64)
                found = bucket_sum(
                    model, patients, noise, objective, trains=stage.trains, clip=CLIP, labels=one
                )
            else:
                found = clipped_sum(
                    model, patients, noise, objective, trains=stage.trains, clip=CLIP, chunk=4
                )
            for key, values in found.items():
                drawn[key] += values
        return drawn

    return total


def _moved(total: Callable[[Rows], Sums], row: int) -> float:
    whole, less = total(_all()), total(np.delete(_all(), row))
    return float(torch.cat([(v - less[n]).flatten() for n, v in whole.items()]).norm()) / CLIP


def _extremes() -> Iterator[Row]:
    """Heavy-tailed linear losses nearly reach the bounds: smaller ones would be false."""
    alone = _worst_linear(lambda rows, labels: None)
    yield Row(
        "heavy-tailed linear losses, per patient",
        "> 0.99 C and <= 1 C",
        f"{alone:.4f} C",
        0.99 < alone <= 1 + ROUNDING,
        seeds=f"0-{TRIALS - 1}",
        note="a bound that nothing comes near could hide a wrong one",
    )
    bucketed = _worst_linear(lambda rows, labels: labels[rows])
    yield Row(
        "heavy-tailed linear losses, in buckets",
        "> 1.9 C and <= 2 C",
        f"{bucketed:.4f} C",
        1.9 < bucketed <= 2 + ROUNDING,
        seeds=f"0-{TRIALS - 1}",
        note="noise for C alone would be half of what is needed",
    )


def _controls() -> Iterator[Row]:
    chunked = _worst_linear(lambda rows, labels: np.arange(len(rows)) // 4)
    yield Row(
        "buckets cut from the sample in its order",
        "breaks 2 C",
        f"{chunked:.2f} C",
        chunked > 2.0 + ROUNDING,
        control=True,
        seeds=f"0-{TRIALS - 1}",
        note="as micro-batches are made: who leaves shifts everybody behind them",
    )
    naive = opacus_on_contrastive(seed=0, clip=CLIP, trials=12)
    yield Row(
        "Opacus' per-sample clipping of InfoNCE",
        "breaks 1 C",
        f"{naive:.2f} C",
        naive > 1.0 + ROUNDING,
        control=True,
        seeds="0",
        note="runs without an error; every patient is a negative of all others",
    )


def _hostile() -> Iterator[Row]:
    """Weights under which the last bits of a patient's gradient decide where it points."""
    trains, clip = hostile.TRAINS, hostile.CLIP
    sizes = ", ".join(map(str, hostile.SIZES))
    given = [hostile.hostile(share) for share in hostile.SHARES]

    def worst(summed: Callable[[hostile.Given], Sums]) -> float:
        return max(hostile.largest_move(own, summed) for own in given)

    engines: dict[str, Callable[[hostile.Given], Sums]] = {
        "vmap": lambda given: clipped_sum(*given, trains=trains, clip=clip, chunk=CHUNK),
        "loop": lambda given: looped_sum(*given, trains=trains, clip=clip),
        "ghost": lambda given: ghost_sum(*given, trains=trains, clip=clip, chunk=LOADED),
    }
    for name, summed in engines.items():
        move = worst(summed)
        yield Row(
            f"hostile weights, {name}: the first or the last of {sizes} patients removed",
            "<= 1 C",
            f"{move:.4f} C",
            move <= 1 + ROUNDING,
            seeds="0, 1, 2, 5",
            note="an encoder that folds its numbers until the last bit of each decides",
        )
    short = worst(
        lambda given: short_last_chunk(given, trains=trains, clip=clip, chunk=CHUNK),
    )
    yield Row(
        "hostile weights, chunks of which the last is as short as it comes",
        "breaks 1 C",
        f"{short:.2f} C",
        short > 1 + ROUNDING,
        control=True,
        seeds="0, 1, 2, 5",
        note="others' last bits follow from how many rows are computed together",
    )


def _worst_linear(grouped: Callable[[Rows, Rows], Rows | None]) -> float:
    """Return the largest movement, in C, when one of 24 patients with known gradients leaves.

    Args:
        grouped: (rows that are there, labels of all) -> bucket of each, or None for no buckets.
    """
    worst, model = 0.0, linear_model(1)
    for trial in range(TRIALS):
        rng = np.random.default_rng(trial)
        size = (LINEAR_PATIENTS, 1)
        batch = with_gradients(rng.normal(size=size) * 10 ** rng.uniform(-3, 3, size))
        labels = rng.integers(4, size=LINEAR_PATIENTS)
        rows = np.arange(LINEAR_PATIENTS)
        left = np.delete(rows, rng.integers(LINEAR_PATIENTS))
        sums = []
        for there in (rows, left):
            buckets, patients = grouped(there, labels), batch.rows(torch.from_numpy(there))
            if buckets is None:
                found = clipped_sum(
                    model, patients, {}, PRODUCT, trains=(PART,), clip=CLIP, chunk=32
                )
            else:
                found = bucket_sum(
                    model, patients, {}, PRODUCT, trains=(PART,), clip=CLIP, labels=buckets
                )
            sums.append(next(iter(found.values())))
        worst = max(worst, float((sums[0] - sums[1]).norm()) / CLIP)
    return worst
