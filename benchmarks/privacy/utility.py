"""What privacy costs in accuracy: a metric against epsilon, per stage and number of patients.

    python benchmarks/privacy/utility.py                             # an hour on two cores
    python benchmarks/privacy/utility.py --sizes 500 --tasks heads   # minutes

One site, no federation: what noise does to a model is the same at every site. Patients are those
of the virtual cohort; `ptbxl` reads real ECGs where they lie. Every row is trained by the code that
a site runs (`train_privately`), with the noise that the ledger's accountant demands for epsilon at
delta = min(1e-5, 1 / (10 n)); `inf` is ordinary training with the same batch and number of steps.
The peers stand in the same table: `start`, the model before it saw a patient of the site (what
public hearts alone give), and epsilon inf. The mean has R2 0, a coin AUROC 0.5, chance R@10 0.1.
Nothing here was tuned per row: one learning rate and one clip for each task.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from utility_data import Patients, open_ptbxl, open_virtual
from utility_scores import score

from cardionets_core.messages import TrainPlan
from cardionets_core.models.cardionet import build_model
from cardionets_core.privacy.accounting import noise_for
from cardionets_core.privacy.mechanism import mechanism_for
from cardionets_core.privacy.objectives import private_objective
from cardionets_core.privacy.rng import PrivacyRandom
from cardionets_core.privacy.step import train_privately
from cardionets_core.privacy_config import PrivateTask
from cardionets_core.training.loop import train_locally
from cardionets_core.training.objectives import make_objective
from cardionets_core.training.stages import STAGES
from simulations.measured import conditions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cardionets_core.models.cardionet import CardioNet
    from cardionets_core.privacy.bank import Bank

CPU = torch.device("cpu")
BATCH = {500: 128, 2000: 256, 10_000: 512}
"""Patients -> expected patients of a step; larger batches help (--batch-factor)."""

EPOCHS = 12
PUBLIC, PUBLIC_PAIRS, PUBLIC_EPOCHS = 1000, 300, 12
"""Public hearts that a model may start from, or take negatives from, and epochs over them."""


Row = dict[str, object]
"""A line of the table."""


@dataclass(frozen=True)
class Task:
    """One way to train one stage.

    Attributes:
        stage: name of the stage.
        lever: what helps: `scratch`; `public` starts from training on public hearts; `head` also
            freezes the encoder; `bucket` and `bank` are the two private contrastive losses; `built
            on` has the parts that the stage builds on, frozen, from public hearts.
        lr: learning rate.
        clip: C.
    """

    stage: str
    lever: str
    lr: float
    clip: float


TASKS = {
    "scratch": (
        Task("phenotypes", "scratch", 1e-3, 0.1),
        Task("diseases", "scratch", 1e-3, 0.1),
        Task("ecg_masked", "scratch", 1e-3, 0.1),
    ),
    "heads": (
        Task("phenotypes", "public", 3e-4, 0.1),
        Task("phenotypes", "head", 1e-2, 0.1),
        Task("diseases", "public", 3e-4, 0.1),
        Task("diseases", "head", 1e-2, 0.1),
    ),
    "contrastive": (
        Task("contrastive", "bucket", 1e-3, 0.1),
        Task("contrastive", "bank", 1e-3, 0.1),
    ),
    "images": (
        Task("cmr_masked", "scratch", 1e-3, 0.1),
        Task("tokenizer", "scratch", 1e-3, 0.1),
        Task("distill", "built on", 1e-3, 0.1),
        Task("generative", "built on", 1e-3, 0.1),
    ),
}

WITH_CINES = ("contrastive", "images")
"""Families of tasks that need both modalities."""

FOUNDATION = ("tokenizer", "contrastive")
"""What is trained on public pairs before a task is `built on` them."""


def main() -> None:
    """Train and print."""
    given = _arguments()
    torch.set_num_threads(1)
    print(conditions().text())
    print(f"seed       {given.seed}; noise cannot be seeded")
    print(f"\n{'patients':<10}{'stage':<13}{'lever':<9}{'metric':<26}   start", end="")
    print("".join(f"{f'eps {e:g}':>10}" for e in given.epsilons), "  noise", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for row in _rows(given.data or Path(scratch), given):
            rows.append(row)
            if given.output:  # after each row: the next one may take an hour
                given.output.parent.mkdir(parents=True, exist_ok=True)
                given.output.write_text(json.dumps(rows, indent=1))


def _rows(folder: Path, given: argparse.Namespace) -> Iterator[Row]:
    for tasks in given.tasks:
        for size in given.sizes:
            yield from _table(folder, tasks, size, given)
    if given.ptbxl:
        yield from _ptbxl(folder, given)


def _table(folder: Path, tasks: str, size: int, given: argparse.Namespace) -> Iterator[Row]:
    """Print and yield the rows of one family of tasks at one size."""
    pairs = tasks in WITH_CINES
    if pairs and size > given.pairs:
        print(f"{size:<10}{tasks:<13}not run: more than --pairs {given.pairs}")
        return
    patients = open_virtual(folder, size, pairs=pairs, seed=given.seed)
    public = open_virtual(
        folder, PUBLIC_PAIRS if pairs else PUBLIC, pairs=pairs, seed=given.seed + 1000
    )
    yield from (_row(task, patients, public, given) for task in TASKS[tasks])


def _ptbxl(folder: Path, given: argparse.Namespace) -> Iterator[Row]:
    """Print and yield the rows of real ECGs, started from virtual hearts."""
    patients = open_ptbxl(folder, given.ptbxl)
    public = open_virtual(folder, PUBLIC, pairs=False, seed=given.seed + 1000)
    tasks = (TASKS["scratch"][1], *TASKS["heads"][2:])
    yield from (_row(task, patients, public, given) for task in tasks)


def _row(task: Task, patients: Patients, public: Patients, given: argparse.Namespace) -> Row:
    """Train one task once per epsilon, print the line and return it."""
    start = _start(task, public, given.seed)
    values, noises, began = {}, {}, time.process_time()
    print(f"{patients.name:<10}{task.stage:<13}{task.lever:<9}", end="", flush=True)
    label, untrained = score(start, task.stage, patients)
    print(f"{label:<26}{untrained:>8.3f}", end="", flush=True)
    for epsilon in given.epsilons:
        model = build_model(start.config, seed=given.seed)
        model.load_state_dict(start.state_dict())
        noises[epsilon] = _train(model, task, patients, public, epsilon, given)
        values[epsilon] = score(model, task.stage, patients)[1]
        print(f"{values[epsilon]:>10.3f}", end="", flush=True)
    shown = "/".join(f"{n:.2f}" for n in noises.values())
    print(f"   {shown}   ({time.process_time() - began:.0f} CPU s)", flush=True)
    return {
        **asdict(task),
        "epochs": given.epochs,
        "batch_factor": given.batch_factor,
        "seed": given.seed,
        "patients": patients.name,
        "metric": label,
        "start": untrained,
        "values": {str(e): v for e, v in values.items()},
        "noise": {str(e): n for e, n in noises.items()},
    }


def _start(task: Task, public: Patients, seed: int) -> CardioNet:
    """Return the model that a task starts from; public hearts may be learned without privacy."""
    if task.lever == "built on":
        return _founded(task, public, seed)
    if task.lever not in ("public", "head"):
        return build_model(public.model("own"), seed=seed)
    learned = _learned(public, seed)
    if task.lever == "public":
        return learned
    model = build_model(public.model("shared"), seed=seed)
    known = {k: v for k, v in learned.state_dict().items() if k in model.state_dict()}
    model.load_state_dict(known, strict=False)
    model.start_head("phenotype_head")
    return model


_LEARNED: dict[int, CardioNet] = {}
_FOUNDED: dict[int, CardioNet] = {}


def _learned(public: Patients, seed: int) -> CardioNet:
    """Return a model whose encoder has learned the phenotypes of public hearts; kept for all rows.

    Its ecg_encoder and both heads start from that encoder, as after a stage of alignment.
    """
    if id(public.dataset) not in _LEARNED:
        model = build_model(public.model("own"), seed=seed)
        _ordinary(model, "phenotypes", public, _plan(PUBLIC_EPOCHS, 64, 1e-3, 0), seed)
        model.ecg_encoder.load_state_dict(model.phenotype_head.encoder.state_dict())
        model.ecg_projector.regress.load_state_dict(model.phenotype_head.readout.state_dict())
        for part in ("phenotype_head", "disease_head"):
            model.start_head(part)
        _LEARNED[id(public.dataset)] = model
    return _LEARNED[id(public.dataset)]


def _founded(task: Task, public: Patients, seed: int) -> CardioNet:
    """Return a model with the parts that a stage uses from public pairs, and all others new."""
    founded = _FOUNDED.get(id(public.dataset))
    if founded is None:
        founded = build_model(public.model("own"), seed=seed)
        for stage in FOUNDATION:
            _ordinary(founded, stage, public, _plan(PUBLIC_EPOCHS, 64, 1e-3, 0), seed)
        rows = public.dataset.indices("train", STAGES["tokenizer"].needs)
        founded.update_latent_statistics([public.dataset.batch(rows, rng=None)])
        _FOUNDED[id(public.dataset)] = founded
    model = build_model(public.model("own"), seed=seed)
    for part in STAGES[task.stage].uses:
        getattr(model, part).load_state_dict(getattr(founded, part).state_dict())
    return model


def _train(
    model: CardioNet,
    task: Task,
    patients: Patients,
    public: Patients,
    epsilon: float,
    given: argparse.Namespace,
) -> float:
    """Train in place; return the noise multiplier, 0 where there is no privacy."""
    batch = min(patients.size // 2, BATCH.get(patients.size, 64)) * given.batch_factor
    rate = min(0.5, batch / patients.size)
    steps = math.ceil(given.epochs / rate)
    plan = _plan(given.epochs, max(1, int(rate * patients.size)), task.lr, steps)
    if math.isinf(epsilon):
        _ordinary(model, task.stage, patients, plan, given.seed)
        return 0.0
    delta = min(1e-5, 1 / (10 * patients.size))
    noise = noise_for([(rate, steps)], epsilon=epsilon, delta=delta)
    contrastive = "public_negatives" if task.lever == "bank" else "bucket"
    asked = PrivateTask(noise, rate, task.clip, steps, contrastive=contrastive)
    stage = STAGES[task.stage]
    bank: Bank | None = public.bank_for(patients) if task.lever == "bank" else None
    train_privately(
        model,
        patients.dataset,
        private_objective(task.stage, {}, 0.0, task=asked, bank=bank),
        trains=stage.trains,
        needs=stage.needs,
        plan=plan,
        mechanism=mechanism_for(asked, stage=task.stage, patients=patients.size),
        rng=PrivacyRandom(),
        seed=given.seed,
        device=CPU,
    )
    return noise


def _ordinary(model: CardioNet, stage: str, patients: Patients, plan: TrainPlan, seed: int) -> None:
    """Train without privacy."""
    train_locally(
        model,
        patients.dataset,
        make_objective(stage, {}, 0.0),
        trains=STAGES[stage].trains,
        indices=patients.dataset.indices("train", STAGES[stage].needs),
        plan=replace(plan, clip_norm=3.0),
        seed=seed,
        device=CPU,
    )


def _plan(epochs: int, batch: int, lr: float, steps: int) -> TrainPlan:
    return TrainPlan(
        local_epochs=epochs + 1 if steps else epochs,
        batch_size=batch,
        lr=lr,
        weight_decay=0.0,
        clip_norm=0.0,
        max_steps=steps,
        progress=0.0,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Metric against epsilon.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 2000, 10_000])
    parser.add_argument("--epsilons", type=float, nargs="+", default=[math.inf, 8.0, 3.0, 1.0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--batch-factor", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=2000, help="Largest cohort with cines.")
    parser.add_argument("--ptbxl", type=Path, help="Folder of PTB-XL.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", type=Path, help="Keep the cohorts here; else they are deleted.")
    parser.add_argument("--output", type=Path, help="JSON of the table.")
    return parser.parse_args()


if __name__ == "__main__":
    main()
