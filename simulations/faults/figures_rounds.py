"""Figure 10: the fixed time of a round beyond training, beside plain Flower's in the same run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulations.faults.round_phases import compare, median_phases
from simulations.faults.row import Row, is_quick

if TYPE_CHECKING:
    from pathlib import Path

SITES = 5
GOAL_S, GOAL_SHARE = 1.5, 1 / 3


def figure_10(work: Path) -> Row:
    """Train a few rounds of a very small model with 5 sites under both."""
    sites = 2 if is_quick() else SITES
    found = compare(work, sites=sites, rounds=8, flower_rounds=3)
    phases = sorted(median_phases(found.ours).items(), key=lambda p: -p[1])[:3]
    longest = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in phases)
    return Row(
        figure=10,
        what=f"time per round beyond training and validation, {sites} sites on one machine, "
        f"median of {len(found.ours)} rounds ({len(found.flower)} of Flower's)",
        target=f"at most a third of Flower's; aim {GOAL_S} s + transfer",
        ours=f"{found.ours_s:.2f} s, {found.ratio:.2f} of Flower's; longest phases: {longest}",
        flower=f"{found.flower_s:.2f} s (train and evaluate)",
        met=found.ratio <= GOAL_SHARE,
    )
