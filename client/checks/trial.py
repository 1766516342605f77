"""A trial step: real training on this site's own records, for some seconds; nothing is kept."""

from __future__ import annotations

import resource
import sys
import time
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from cardionets_core.data.dataset import SiteDataset
from cardionets_core.data.scaler import Scaler
from cardionets_core.errors import SiteError
from cardionets_core.messages import TrainPlan
from cardionets_core.models.cardionet import build_model
from cardionets_core.models.cost import UseCost, stage_costs
from cardionets_core.runtime import pick_device, set_up
from cardionets_core.training.loop import train_locally
from cardionets_core.training.objectives import make_objective
from cardionets_core.training.stages import STAGES, configured
from client.checks.findings import Finding, Trial, error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cardionets_core.model_config import ModelConfig
    from cardionets_core.run_config import RunConfig, StageConfig
    from cardionets_core.site_config import SiteConfig

SEED = 1
PROGRESS = 0.5
"""In the middle of a stage, so that warm-ups of an objective's terms are over."""


@lru_cache(maxsize=8)
def costs(model: ModelConfig) -> dict[str, UseCost]:
    """Return the cost of every stage by name; counting takes seconds, so once per model."""
    return {cost.name: cost for cost in stage_costs(model)}


def run_trial(
    config: SiteConfig, dataset: SiteDataset, stages: Sequence[str], plan: RunConfig, seconds: float
) -> tuple[Trial | None, list[Finding]]:
    """Train the costliest of `stages` for about `seconds`, and measure it.

    Args:
        config: the site's device and whether it compiles.
        dataset: the site's records.
        stages: training stages that the site can serve, at least one; of one with members, each
            member counts by itself.
        plan: the default plan of a run, with the model's sizes; says batch sizes and epochs.
        seconds: how long to train; one step is taken in any case.

    Returns:
        What was measured, None where training failed; and then why.
    """
    cost_of = costs(plan.sized_model())
    members = [m for s in stages for m in STAGES[s].at(dataset.modalities)]
    single = {m.name for m in members if len(dataset.indices("train", m.needs))}
    name = max(sorted(single), key=lambda s: cost_of[s].flops)
    device = pick_device(config.device)
    try:
        with _threads(plan.threads):
            train = _trainer(config, dataset, name, plan, device)
            train(1)  # the first step allocates and compiles
            steps, taken = _repeat(train, seconds)
    except SiteError as cause:
        if cause.code != "diverged":
            raise
        return None, [_diverged(name)]
    except torch.OutOfMemoryError:
        return None, [_out_of_memory(name, device)]
    settings = plan.stage[name]
    indices = dataset.indices("train", configured(name, {}, plan.model).needs)
    per_step = min(settings.batch_size, len(indices))
    rate = per_step * steps / taken
    epoch_s = len(indices) / rate
    return (
        Trial(
            stage=name,
            device=device.type,
            threads=plan.threads,
            patients=len(indices),
            steps=steps,
            seconds=taken,
            records_per_s=rate,
            epoch_s=epoch_s,
            round_s=epoch_s * settings.local_epochs,
            transfer_bytes=cost_of[name].wire_bytes,
            peak_bytes=_peak_bytes(device),
            private_only=config.privacy.is_required,
        ),
        [],
    )


def _trainer(
    config: SiteConfig, dataset: SiteDataset, name: str, plan: RunConfig, device: torch.device
) -> Callable[[int], None]:
    """Return what takes a number of optimizer steps, as a task of that stage would."""
    spec, settings = plan.sized_model(), plan.stage[name]
    stage = configured(name, settings.options, spec)
    model = build_model(spec, seed=SEED).to(device)
    objective = make_objective(name, settings.options, PROGRESS)
    scaled = _with_own_scaler(dataset, spec, config)
    indices = scaled.indices("train", stage.needs)

    def train(steps: int) -> None:
        train_locally(
            model,
            scaled,
            objective,
            trains=stage.trains,
            indices=indices,
            plan=_steps(settings, steps),
            seed=SEED,
            device=device,
            compile_step=config.compile,
        )
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return train


def _with_own_scaler(dataset: SiteDataset, spec: ModelConfig, config: SiteConfig) -> SiteDataset:
    """Scale phenotypes by this site's own mean and sd: the federation's come with a run."""
    return SiteDataset(
        dataset.manifest,
        dataset.arrays,
        spec=spec,
        phenotypes=dataset.phenotypes,
        diseases=dataset.diseases,
        scaler=Scaler.from_statistics(dataset.statistics()),
        salt=config.data.salt,
    )


def _steps(settings: StageConfig, steps: int) -> TrainPlan:
    return TrainPlan(
        local_epochs=steps,  # an epoch has a step at least
        batch_size=settings.batch_size,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        max_steps=steps,
        progress=PROGRESS,
        options=settings.options,
    )


def _repeat(train: Callable[[int], None], seconds: float) -> tuple[int, float]:
    """Take steps until the time is over; return how many, and the time."""
    started, taken, steps, chunk = time.monotonic(), 0.0, 0, 1
    while taken < seconds or not steps:
        train(chunk)
        steps += chunk
        taken = time.monotonic() - started
        chunk = max(1, min(2 * chunk, int((seconds - taken) * steps / taken)))
    return steps, taken


@contextmanager
def _threads(threads: int) -> Iterator[None]:
    """Train with a task's threads and algorithms, and put this process's own back."""
    before = torch.get_num_threads()
    strict = torch.are_deterministic_algorithms_enabled()
    set_up(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(strict)


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _diverged(stage: str) -> Finding:
    return error(
        "device",
        "diverged",
        f"The loss of {stage} is not a finite number on this site's records.",
        cause="A label is absurdly large, a signal holds values that are none, or the GPU or its "
        "driver computes wrongly.",
        next_step="Look at the units of the labels and the voltages; then compare with "
        "`cardionets-site check ... device=cpu`.",
    )


def _out_of_memory(stage: str, device: torch.device) -> Finding:
    return error(
        "device",
        "out_of_memory",
        f"The memory of {device.type} does not hold a step of {stage}.",
        cause="The preset is too large for this device, or something else is using it.",
        next_step="Free the device, use one with more memory, or check with a smaller --preset.",
    )
