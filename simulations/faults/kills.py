"""The kill matrix of a coordinator: its ServerApp and its SuperLink at each of eleven phases.

One federation in one process, to which nothing can happen, and one of real processes per victim
whose round k + 1 meets fault k: whatever a fault leaves behind, the next one comes on top of it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from simulations.faults import harness
from simulations.faults.harness import Ran, federate
from simulations.faults.plan import SERVER_POINTS, Fault, one_per_round
from simulations.faults.row import is_quick
from simulations.faults.small import NANO, ecg_hospitals, plan

if TYPE_CHECKING:
    from pathlib import Path

    from cardionets_core.run_config import RunConfig
    from simulations.faults.plan import Victim

STAGE = "ecg_masked"
SITES, PATIENTS = 2, 24
QUICK_POINTS = ("sent_some", "mid_aggregation", "saved_not_committed")


@dataclass(frozen=True)
class Verdict:
    """What a federation with faults came to beside the one without.

    Attributes:
        whole: the final weights have the same SHA-256.
        survived: faults whose round ended with the same weights, from the same sites.
        failed: the other faults, in words, with what was wrong.
        lost: rounds that had been told as finished and were done again.
        memory: whether every site remembers the same, to the bit.
        recovered_s: seconds from each kill to the next training task at a site; None see Hit.
        answered_s: seconds from each kill of a SuperLink to its next answer to a site.
    """

    whole: bool
    survived: tuple[Fault, ...]
    failed: tuple[str, ...]
    lost: int
    memory: bool
    recovered_s: tuple[float | None, ...]
    answered_s: tuple[float, ...] = ()

    def count(self, victim: Victim) -> int:
        """Return how many faults of a victim were survived."""
        return sum(fault.victim == victim for fault in self.survived)


@cache
def kill_plan(rounds: int) -> RunConfig:
    """Return a plan of short rounds in which every site remembers something from the last one."""
    words = [
        *NANO,
        f"stages=[handshake,{STAGE}]",
        f"stage.{STAGE}.rounds={rounds}",
        f"stage.{STAGE}.min_sites={SITES}",
        f"stage.{STAGE}.local_epochs=1",
        f"stage.{STAGE}.batch_size=4",
        f"stage.{STAGE}.max_steps=3",
        "strategy.name=scaffold",
        "wire.codec=int8",
    ]
    return plan("kills", words, sites=SITES)


def compare(hit: Ran, calm: Ran) -> Verdict:
    """Hold a federation with faults against the one without."""
    survived, failed = [], []
    for one in hit.hits:
        name = f"{one.fault.stage}-{one.fault.round}"
        wrong = []
        if hit.rounds.get(name) != calm.rounds.get(name) or name not in calm.rounds:
            wrong.append("other weights")
        if hit.sites.get(name) != calm.sites.get(name):
            wrong.append(f"sites {hit.sites.get(name)}")
        if name in hit.repeated:
            wrong.append("a finished round was done again")
        if wrong:
            failed.append(f"{one.fault.words}: {', '.join(wrong)}")
        else:
            survived.append(one.fault)
    failed += [f"{fault.words}: it did not happen" for fault in hit.missed]
    return Verdict(
        whole=bool(hit.weights) and hit.weights == calm.weights,
        survived=tuple(survived),
        failed=tuple(failed),
        lost=len(hit.repeated),
        memory=bool(calm.memory) and hit.memory == calm.memory,
        recovered_s=tuple(one.recovered_s for one in hit.hits),
        answered_s=tuple(one.answered_s for one in hit.hits if one.answered_s is not None),
    )


def points() -> tuple[str, ...]:
    """Return the phases that are tried: all, or a few for a quick look."""
    return QUICK_POINTS if is_quick() else SERVER_POINTS


def rounds() -> int:
    """Return the rounds of every federation here: one before the faults, and one after them."""
    return len(points()) + 2


@cache
def hospitals(folder: Path) -> dict[str, Path]:
    """Write the virtual hospitals that all federations share."""
    shutil.rmtree(folder / "hospitals", ignore_errors=True)  # of an earlier measurement
    return ecg_hospitals(folder / "hospitals", SITES, patients=PATIENTS)


@cache
def undisturbed(folder: Path) -> Ran:
    """Run the federation that nothing happens to."""
    return harness.undisturbed(folder / "undisturbed", kill_plan(rounds()), hospitals(folder))


@cache
def server_killed(folder: Path, victim: Victim) -> Verdict:
    """Kill one of the coordinator's processes at every phase; hold the result against the calm."""
    faults = one_per_round(points(), victim, stage=STAGE, first=2)
    where = folder / victim.lower().replace(" ", "-")
    hit = federate(where, kill_plan(rounds()), hospitals(folder), faults)
    return compare(hit, undisturbed(folder))
