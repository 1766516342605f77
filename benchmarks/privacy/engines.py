"""What clipping costs: time and memory of every engine against a non-private step, in one run.

    python benchmarks/privacy/engines.py
    python benchmarks/privacy/engines.py --preset small --patients 64 --device cuda

Each measurement has processes of its own, so that no memory is left over from another. A step is
forward and backward over the same random patients: `non-private` the mean loss and one backward
pass, the others the sum of clipped gradients in float64. Seconds are of the processor (CPU, one
thread) or of the clock (CUDA); memory is the peak above what model and batch take. `noise` draws
the noise of a step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cardionets_core.batch import Batch
from cardionets_core.errors import PrivacyError
from cardionets_core.models.cardionet import build_model
from cardionets_core.privacy.clippable import require_clippable
from cardionets_core.privacy.engines import bucket_sum, clipped_sum, looped_sum, parameters_of
from cardionets_core.privacy.mechanism import MIXING_STAGES, Mechanism
from cardionets_core.privacy.rng import PrivacyRandom
from cardionets_core.privacy.step import CHUNK, LOADED
from cardionets_core.run_config import model_preset
from cardionets_core.runtime import return_freed_memory
from cardionets_core.training.loop import freeze_all_but
from cardionets_core.training.objectives import KINDS, make_objective
from simulations.measured import conditions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cardionets_core.model_config import ModelConfig
    from cardionets_core.models.cardionet import CardioNet
    from cardionets_core.training.objective import Objective

STAGES = ("ecg_masked", "cmr_masked", "tokenizer", "generative", "contrastive")
PATIENT = ("vmap", "loop", "ghost")
ENGINES = ("non-private", *PATIENT, "bucket", "noise")
BUCKET = 4
CLIP = 0.05
MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """One engine on one stage.

    Attributes:
        seconds: of a step, the median.
        mib: peak of memory above model and batch.
        ratio: of the seconds to those of the non-private step.
        memory_ratio: likewise; 0 where the non-private step took none that can be seen.
        refused: why the engine cannot serve the stage; empty: it can.
    """

    stage: str
    engine: str
    seconds: float = 0.0
    mib: float = 0.0
    ratio: float = 0.0
    memory_ratio: float = 0.0
    refused: str = ""


def main() -> None:
    """Print the table, or measure one cell of it for the process that asked."""
    options = _arguments()
    if options.one:
        print(json.dumps(asdict(_measure(*options.one, options))))
        return
    print(conditions().text())
    print(f"\n{'stage':<13}{'engine':<13}{'s/step':>9}{'ratio':>7}{'MiB':>8}{'ratio':>7}")
    for cost in costs(options.preset, options.patients, options.repeats, device=options.device):
        cells = f"{cost.seconds:>9.3f}{cost.ratio:>7.2f}{cost.mib:>8.0f}{cost.memory_ratio:>7.2f}"
        print(f"{cost.stage:<13}{cost.engine:<13}{cost.refused or cells}", flush=True)


def costs(
    preset: str, patients: int, repeats: int, *, device: str = "cpu", stages: tuple[str, ...] = ()
) -> Iterator[Cost]:
    """Yield every engine of every stage as soon as it is measured, the non-private step first."""
    for stage in stages or STAGES:
        base = None
        for engine in ENGINES:
            if engine in (PATIENT if stage in MIXING_STAGES else ("bucket",)):
                continue
            cost = _in_child(stage, engine, preset, patients, repeats, device)
            base = base or cost
            yield replace(
                cost,
                ratio=cost.seconds / base.seconds,
                memory_ratio=cost.mib / base.mib if base.mib else 0.0,
            )


def _in_child(
    stage: str, engine: str, preset: str, patients: int, repeats: int, device: str
) -> Cost:
    words = ["--one", stage, engine, "--preset", preset, "--device", device]
    words += ["--patients", str(patients)]
    timed = _ran([*words, "--repeats", str(repeats)], {})
    # Memory that is given back at once, and so can be seen, costs time: another process.
    seen = _ran([*words, "--repeats", "1"], {"MALLOC_MMAP_THRESHOLD_": "65536"})
    return replace(timed, mib=seen.mib)


def _ran(words: list[str], environment: dict[str, str]) -> Cost:
    found = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        raise SystemExit(f"{' '.join(words)}: {found.stderr}")
    return Cost(**json.loads(found.stdout.splitlines()[-1]))


def _measure(stage: str, engine: str, options: argparse.Namespace) -> Cost:
    device = torch.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    plan = model_preset(options.preset)
    model = build_model(plan, seed=1).to(device)
    try:
        step = _step(model, random_patients(plan, options.patients), stage, engine, device)
    except PrivacyError as refusal:
        return Cost(stage, engine, refused=str(refusal))
    step()  # what is made once: kernels, imports
    seconds, peaks = [], []
    for _ in range(options.repeats):
        before = _reset_peak(device)
        started = _now(device)
        step()
        seconds.append(_now(device) - started)
        peaks.append(_peak(device) - before)
    return Cost(stage, engine, statistics.median(seconds), max(0.0, max(peaks)))


def _step(
    model: CardioNet, batch: Batch, stage: str, engine: str, device: torch.device
) -> Callable[[], object]:
    objective, trains = make_objective(stage, {}, 0.5), KINDS[stage].parts
    freeze_all_but(model, trains)
    noise = objective.draw(model, batch, torch.Generator().manual_seed(1))
    noise = {k: v.to(device) for k, v in noise.items()}
    batch = batch.to(device)
    if engine == "non-private":
        return lambda: _non_private(model, batch, noise, objective)
    if engine == "noise":
        rng, std = PrivacyRandom(), Mechanism(1.0, 0.1, 1.0, "patient", 1.0, 1).noise_std
        shapes = [tuple(p.shape) for p in parameters_of(model, trains).values()]
        return lambda: [rng.normal(shape, std) for shape in shapes]
    common = {"trains": trains, "clip": CLIP}
    if engine == "bucket":
        labels = PrivacyRandom().integers(len(batch), max(1, len(batch) // BUCKET))
        return lambda: bucket_sum(model, batch, noise, objective, labels=labels, **common)
    require_clippable(model, objective, trains=trains, grouping="patient", engine=engine)
    if engine == "ghost":
        from cardionets_core.privacy.ghost import ghost_sum

        return lambda: ghost_sum(model, batch, noise, objective, chunk=LOADED, **common)
    if engine == "loop":
        return lambda: looped_sum(model, batch, noise, objective, **common)
    return lambda: clipped_sum(model, batch, noise, objective, chunk=CHUNK, **common)


def _non_private(
    model: CardioNet, batch: Batch, noise: dict[str, torch.Tensor], objective: Objective
) -> None:
    objective.loss(model, batch, noise).per_patient.mean().backward()
    model.zero_grad(set_to_none=True)


def random_patients(plan: ModelConfig, size: int) -> Batch:
    """Return patients of random numbers who have everything."""
    source = torch.Generator().manual_seed(0)
    cine, views = plan.cine, len(plan.cine.views)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(size, *shape, generator=source)

    def known(count: int) -> torch.Tensor:
        return torch.ones(size, count, dtype=torch.bool)

    return Batch(
        ecg=normal(12, plan.ecg.crop_samples),
        lead_mask=known(12),
        cine=normal(views, cine.phases, cine.size_px, cine.size_px).clamp(-1, 1),
        view_mask=known(views),
        covariates=normal(4),
        covariate_mask=known(4),
        phenotypes=normal(plan.num_phenotypes),
        phenotype_mask=known(plan.num_phenotypes),
        diseases=(normal(plan.num_diseases) > 0).float(),
        disease_mask=known(plan.num_diseases),
    )


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def _reset_peak(device: torch.device) -> float:
    """Forget the peak of memory so far; return what is taken now, in MiB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / MIB
    return_freed_memory()  # or the last step's would be taken again, unseen
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
    return _status("VmRSS")


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / MIB
    return _status("VmHWM")


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--patients", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", nargs=2, metavar=("STAGE", "ENGINE"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
