"""Kills before a run has found its pace: in the handshake, in round 1, and in a long training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from simulations.faults import harness
from simulations.faults.harness import federate
from simulations.faults.kills import STAGE, Verdict, compare, hospitals, kill_plan
from simulations.faults.plan import Fault, Slow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ROUNDS = 3
"""Round 1 meets a fault, round 2 holds the long training, and nothing happens to round 3."""

WORDS = "early (handshake, round 1, a training that outlives its ServerApp)"


@dataclass(frozen=True)
class Early:
    """What the federation came to.

    Attributes:
        faults: what it was to meet.
        verdict: beside the federation without a fault.
        outlived: whether a site still trained for the old Flower run when the new one was there.
    """

    faults: tuple[Fault, ...]
    verdict: Verdict
    outlived: bool

    @property
    def wrong(self) -> list[str]:
        """Return what was wrong, in words."""
        found = [f"early: {words}" for words in self.verdict.failed]
        return found if self.outlived else [*found, "early: no training outlived its ServerApp"]

    def count(self, victim: str) -> str:
        """Return how many faults of a victim were survived, of how many."""
        asked = sum(fault.victim == victim for fault in self.faults)
        return f"{victim} {sum(f.victim == victim for f in self.verdict.survived)}/{asked}"


def early_faults(sites: Sequence[str]) -> tuple[tuple[Fault, ...], Slow]:
    """Return the kills, and the training during which the last of them happens.

    In round 2 one site is held in its training, so that the first reply, at which the ServerApp is
    killed, is another site's.
    """
    slow, other = sites[0], sites[1]
    kills = (
        Fault("plan_stored", "ServerApp", "handshake", 1),
        Fault("received", "SuperNode", "handshake", 1, other),
        Fault("saved_not_committed", "ServerApp", "handshake", 1),
        Fault("some_replies", "ServerApp", STAGE, 1),
        Fault("some_replies", "ServerApp", STAGE, 2),
    )
    return kills, Slow(STAGE, 2, slow)


@cache
def early_killed(folder: Path) -> Early:
    """Kill at each of them; hold the result against the federation without a fault."""
    sites, config = hospitals(folder), kill_plan(ROUNDS)
    faults, slow = early_faults(list(sites))
    hit = federate(folder / "early", config, sites, faults, slow=slow)
    calm = harness.undisturbed(folder / "early-undisturbed", config, sites)
    return Early(faults, compare(hit, calm), hit.outlived)
