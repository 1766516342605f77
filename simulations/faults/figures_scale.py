"""Figures 8, 9, 14 and 24: order of arrival, server memory, a malicious site, the pooled step."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from cardionets_core.errors import EngineError
from cardionets_core.training.objectives import KINDS, make_objective
from simulations.faults.flower_side import flower_8, flower_9
from simulations.faults.malicious import (
    ATTACKS,
    FEDAVG,
    FLOWER,
    ROBUST,
    federate,
    flowers,
    ours,
    worst_loss,
)
from simulations.faults.orders import different_models, exact, five_updates
from simulations.faults.pooled import COUPLED, PROGRESS, Federation, flowers_step
from simulations.faults.row import Row

if TYPE_CHECKING:
    from pathlib import Path

MODELS, LOSS, FIDELITY = 2.5, 0.02, 1e-6
"""Most memory of a server; most AUROC that an attack may cost; largest relative distance from the
pooled step."""


def figure_8(work: Path) -> Row:
    """Average five updates in their 120 orders of arrival."""
    counts = [different_models(exact, five_updates(seed=8, decades=d)) for d in (0.0, 8.0)]
    return Row(
        8,
        "5 updates in 120 orders of arrival, numbers of one size and over 8 decades",
        "1 model",
        f"{counts[0]} and {counts[1]} models",
        flower_8(work),
        counts == [1, 1],
    )


def figure_9(work: Path) -> Row:
    """Run rounds of 2, 8 and 32 sites; how much memory the server takes at most."""
    peaks = {sites: server_peak(sites, work / str(sites)) for sites in (2, 8, 32)}
    return Row(
        9,
        "peak memory of the server beyond an empty one, in models, 2 to 32 sites",
        f"<= {MODELS} x at any number",
        ", ".join(f"{peak:.2f} x at {sites} sites" for sites, peak in peaks.items()),
        flower_9(work),
        max(peaks.values()) <= MODELS,
    )


def server_peak(sites: int, work: Path) -> float:
    """Return the peak memory of our server over the rounds of `sites` sites, in models."""
    words = [sys.executable, "-m", "simulations.faults.server_memory", str(sites), str(work)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EngineError(f"{' '.join(words[1:])} failed: {done.stderr[-500:]}")
    return float(done.stdout.split()[0])


def figure_14(work: Path) -> Row:
    """Let one of five hospitals turn its update x 10, turn its labels, or send noise."""
    honest = federate(ours(FEDAVG, work))
    mean = worst_loss(ours(FEDAVG, work), honest)
    losses = {name: worst_loss(ours(rule, work), honest) for name, rule in ROBUST.items()}
    theirs = {name: worst_loss(flowers(name), honest) for name in FLOWER}
    return Row(
        14,
        f"1 of 5 sites malicious, {len(ATTACKS)} attacks: AUROC lost (of {honest:.3f})",
        f"<= {LOSS} with a robust rule",
        f"{_listed(losses)}; fedavg {mean:.2f}",
        _listed(theirs),
        max(losses.values()) <= LOSS,
    )


def _listed(losses: dict[str, float]) -> str:
    return ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())


def figure_24(work: Path) -> Row:
    """Take one full-batch SGD step on three sites and on all of their patients."""
    federation = Federation(work)
    alone = [n for n in KINDS if make_objective(n, {}, PROGRESS).per_patient]
    found = [federation.compare(name) for name in alone]
    worst = max(found, key=lambda comparison: comparison.relative)
    coupled = federation.compare(COUPLED)
    theirs = max(federation.compare(name, flowers_step).relative for name in alone)
    return Row(
        24,
        f"one full-batch SGD step of 3 sites against the pooled one, {len(found)} stages",
        f"<= {FIDELITY:g} of the weights",
        f"{worst.relative:.0e} at most ({worst.stage}; {worst.of_step:.0e} of the step); "
        f"{coupled.stage} {coupled.of_step:.0%} of the step, as its loss couples patients",
        f"{theirs:.0e} at most, with our losses in its app",
        worst.relative <= FIDELITY,
    )
