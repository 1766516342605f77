"""Figure 13: ECG-only, CMR-only and paired sites in one run; each part the average of its owners.

The check trusts nothing of the aggregation: it takes what crossed the wire, and makes every average
again in exact arithmetic.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from cardionets_core.checkpoint import part_arrays, read_checkpoint
from cardionets_core.config_tree import digest
from cardionets_core.errors import SiteError
from cardionets_core.messages import task_from_records, update_from_records
from simulations.faults.flower_side import flower_13
from simulations.faults.row import Row, is_quick
from simulations.faults.small import NANO, plan, write_hospital

if TYPE_CHECKING:
    from pathlib import Path

    from cardionets_core.messages import Task, Update
    from cardionets_core.packing import Arrays, Groups

STEP = Fraction(1, 2**36)
"""Of the fixed-point sums (docs/architecture.md)."""

STAGES = ("masked", "tokenizer", "contrastive", "phenotypes", "diseases")
PATIENTS = 24


@dataclass(frozen=True)
class Answer:
    """One training task and its answer, as they crossed the wire."""

    task: Task
    update: Update


@dataclass
class Wire:
    """Hears the training rounds of a run, in order."""

    answers: list[Answer] = field(default_factory=list)

    def overhear(self, site: str, task: Any, reply: Any) -> None:
        """Keep a training task and its answer; a refusal is none."""
        asked = task_from_records(task)
        if asked.header.action != "train":
            return
        try:
            self.answers.append(Answer(asked, update_from_records(reply)))
        except SiteError:
            return

    def rounds(self) -> list[list[Answer]]:
        """Return the answers of each round."""
        found: dict[tuple[str, int], list[Answer]] = {}
        for answer in self.answers:
            header = answer.task.header
            found.setdefault((header.stage, header.round), []).append(answer)
        return list(found.values())


@dataclass(frozen=True)
class Comparison:
    """Weights after a round beside the average that was made again.

    Attributes:
        averages: parts x rounds that were compared.
        numbers: weights that were compared.
        differing: weights that were not the same to the bit.
    """

    averages: int
    numbers: int
    differing: int


def figure_13(work: Path) -> Row:
    """Run a federation of four hospitals of three kinds and make every average again."""
    wire = Wire()
    folder = federate(work, wire)
    summary = json.loads((folder / "summary.json").read_text())
    kinds = sorted(
        "+".join(m for m in ("ecg", "cine") if m in site["modalities"])
        for site in summary["sites"].values()
    )
    refused = sum(len(r["refused"]) for r in summary["rounds"])
    found = compare(wire, final_weights(folder))
    met = (
        summary["status"] == "COMPLETED"
        and kinds == ["cine", "ecg", "ecg+cine", "ecg+cine"]
        and not refused
        and found.averages > len(STAGES)
        and not found.differing
    )
    return Row(
        13,
        "sites with ECGs only, with cines only and with both, in one run",
        "all complete; each part is the average of its owners, to the bit",
        f"run {summary['status']}; {found.averages} averages of parts, {found.numbers:,} weights, "
        f"{found.differing} of them differ",
        flower_13(work),
        met,
    )


def federate(work: Path, wire: Wire) -> Path:
    """Run the federation in this process and return its folder."""
    from client.client_app import app as client_app
    from server.server_app import app as server_app
    from server.server_app import write_config
    from simulations.grid import run_in_process

    sites = {
        "north": write_hospital(work / "sites", "north", "A", patients=PATIENTS),
        "river": write_hospital(work / "sites", "river", "B", patients=PATIENTS),
        "hill": write_hospital(work / "sites", "hill", "C", patients=PATIENTS, ecg_only=True),
        "coast": write_hospital(work / "sites", "coast", "D", patients=PATIENTS, cmr_only=True),
    }
    stages = STAGES[:1] if is_quick() else STAGES
    brief = [f"stage.{name}.{key}=1" for name in stages for key in ("rounds", "local_epochs")]
    words = [*NANO, *brief, "stage.masked.rounds=2", "seed=13"]
    words += [f"stages=[{','.join(('handshake', *stages, 'evaluate'))}]"]
    words += ["stage.masked.part_sites={ecg_encoder: 3, cmr_encoder: 3}"]
    config = plan("mixed", words, sites=len(sites))
    folder = work / "runs" / config.name
    write_config(folder, config)
    run_in_process(
        server_app,
        client_app,
        run_config={"run": config.name, "config-hash": digest(config)},
        sites=sites,
        outputs=folder.parent,
        overhear=wire.overhear,
    )
    return folder


def final_weights(folder: Path) -> Groups:
    """Return the weights that a run ended with."""
    model = read_checkpoint(folder / "checkpoint").model
    return {part: part_arrays(model, part) for part, _ in model.named_children()}


def compare(wire: Wire, final: Groups, *, every: int = 1) -> Comparison:
    """Compare each part after each round with the average of its owners, made again.

    What a part came to is what the next task with it holds; after the last one, the checkpoint.

    Args:
        wire: what the run sent.
        final: the weights that it ended with.
        every: 1 compares every weight, n each n-th of an array.
    """
    rounds = wire.rounds()
    averages = numbers = differing = 0
    for number, answers in enumerate(rounds):
        for part in sorted({p for a in answers for p in a.update.delta}):
            owners = [a.update for a in answers if part in a.update.delta]
            before = next(a.task.weights[part] for a in answers if part in a.task.weights)
            after = sent_later(rounds[number + 1 :], part) or final[part]
            averages += 1
            for name, array in before.items():
                want = owners_average(array, owners, part, name, every=every)
                got = np.ascontiguousarray(after[name].reshape(-1)[::every])
                numbers += len(want)
                bits = f"u{want.itemsize}"
                differing += int((got.view(bits) != want.view(bits)).sum())
    return Comparison(averages, numbers, differing)


def sent_later(rounds: list[list[Answer]], part: str) -> Arrays | None:
    """Return the weights of a part in the first task after a round that holds it."""
    for answers in rounds:
        for answer in answers:
            if part in answer.task.weights:
                return answer.task.weights[part]
    return None


def owners_average(
    before: np.ndarray, owners: list[Update], part: str, name: str, *, every: int
) -> np.ndarray[Any, Any]:
    """Return each n-th weight of an array after a round, flat, from what its owners sent.

    Every product studies x change is rounded once to whole steps (half to even), the sum is exact,
    the quotient is rounded to float64, added in float64 and rounded to the array's dtype.
    """
    flat = np.ascontiguousarray(before.reshape(-1)[::every])
    if not np.issubdtype(flat.dtype, np.floating):
        return flat
    studies = [u.examples.get(part, u.num_examples) for u in owners]
    changes = [u.delta[part][name].reshape(-1)[::every].tolist() for u in owners]
    divisor = sum(studies) / STEP
    moved = []
    for old, *sent in zip(flat.tolist(), *changes, strict=True):
        steps = sum(round(Fraction(v) * n / STEP) for v, n in zip(sent, studies, strict=True))
        moved.append(old + float(steps / divisor))
    return np.array(moved).astype(flat.dtype)
