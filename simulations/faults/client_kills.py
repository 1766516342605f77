"""The kill matrix of a site: its client process and its SuperNode at each of eight phases."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from simulations.faults.harness import federate
from simulations.faults.kills import STAGE, compare, hospitals, kill_plan, rounds, undisturbed
from simulations.faults.plan import SITE_POINTS, Fault
from simulations.faults.row import is_quick

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from simulations.faults.kills import Verdict
    from simulations.faults.plan import Victim

VICTIMS: tuple[Victim, ...] = ("client process", "SuperNode")
QUICK_POINTS = ("mid_epoch", "packed")


def points() -> tuple[str, ...]:
    """Return the phases that are tried: all, or a few for a quick look."""
    return QUICK_POINTS if is_quick() else SITE_POINTS


def site_faults(sites: Sequence[str]) -> tuple[Fault, ...]:
    """Return the faults of one run: each round from the second on, one at every site at once.

    A client process that was killed is noticed by Flower after a minute; so two of them cost one.
    """
    faults = []
    for v, victim in enumerate(VICTIMS):
        for p, point in enumerate(points()):
            number = 2 + (v * len(points()) + p) // len(sites)
            faults.append(Fault(point, victim, STAGE, number, sites[p % len(sites)]))
    return tuple(faults)


@cache
def site_killed(folder: Path) -> Verdict:
    """Kill every site at every phase; hold the result against the federation without a fault."""
    sites = hospitals(folder)
    faults = site_faults(list(sites))
    hit = federate(folder / "sites", kill_plan(rounds()), sites, faults)
    return compare(hit, undisturbed(folder))
