"""The picture of a noise plan: what is spent on the way, and what another budget would need."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cardionets_core.privacy.accounting import Charge, epsilon_prv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from cardionets_core.privacy.noise_plan import NoisePlan

INK, GATE, QUOTE, LIMIT = "#16202c", "#1f5fa8", "#d9822b", "#b3261e"

POINTS_GATE, POINTS_QUOTE = 48, 9
"""Points of the two curves, shared among the stages; PRV takes about half a second for each."""

EPSILONS = (0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0)
BATCHES = {0.5: "#9ec5e8", 1.0: "#1f5fa8", 2.0: "#0b2f57"}
"""Sizes of a batch, as multiples of the plan's, and their colours."""


def plan_picture(
    plan: NoisePlan, noise: float, *, told: Callable[[str], None] = lambda what: None
) -> bytes:
    """Draw a plan and return a PNG.

    Args:
        plan: stages and budget.
        noise: of all stages.
        told: is called with what is being computed; it takes some seconds.
    """
    figure = Figure(figsize=(11, 4.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    told("drawing: epsilon on the way")
    _spending(left, plan, noise)
    told("drawing: noise for other budgets")
    _alternatives(right, plan, noise)
    figure.suptitle(
        f"{plan.patients:,} patients, delta {plan.delta:g}, all stages on one ledger",
        fontsize=10,
        color=INK,
    )
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def _spending(axes: Any, plan: NoisePlan, noise: float) -> None:
    """Draw epsilon over the noisy steps, stage after stage."""
    charges = plan.charges(noise)
    ends = np.cumsum([0, *(c.steps for c in charges)])
    for rule, points, colour, label in (
        (plan.cost, POINTS_GATE, GATE, "RDP: what the ledger counts"),
        (_prv_of(plan), POINTS_QUOTE, QUOTE, "PRV: what may be quoted of a fixed schedule"),
    ):
        steps = _places(ends, max(2, points // len(charges)))
        values = [rule((*plan.before, *_until(charges, n))) for n in steps]
        axes.plot(steps, values, color=colour, label=label, linewidth=1.8)
    axes.axhline(plan.epsilon, color=LIMIT, linestyle="--", linewidth=1.1)
    axes.text(0, plan.epsilon, f" budget {plan.epsilon:g}", va="bottom", color=LIMIT, fontsize=8.5)
    for start, end, stage in zip(ends[:-1], ends[1:], plan.stages, strict=True):
        axes.axvline(end, color="#c5ccd3", linewidth=0.8, zorder=0)
        middle = (start + end) / 2
        axes.annotate(
            stage.name, (middle, 0.02), xycoords=("data", "axes fraction"),
            ha="center", va="bottom", fontsize=8, color="#55606b",
        )  # fmt: skip
    axes.set(xlabel="noisy steps", ylabel="epsilon", xlim=(0, ends[-1]))
    axes.set_ylim(0, plan.epsilon * 1.14)
    axes.set_title(f"Spent on the way, noise {noise:g}", fontsize=9.5, color=INK)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0.02, 0.86), frameon=False)


def _prv_of(plan: NoisePlan) -> Callable[[Iterable[Charge]], float]:
    return lambda charges: epsilon_prv(charges, plan.delta)


def _places(ends: NDArray[np.int64], points: int) -> NDArray[np.int64]:
    """Return steps to compute, dense after each stage's begin, where the curves are steep."""
    shares = np.linspace(0, 1, points + 1) ** 2
    places = [a + shares * (b - a) for a, b in itertools.pairwise(ends)]
    return np.unique(np.concatenate(places).round().astype(np.int64))


def _until(charges: Sequence[Charge], steps: int) -> list[Charge]:
    """Return the first `steps` steps."""
    kept, left = [], int(steps)
    for charge in charges:
        if left > 0:
            kept.append(Charge(charge.noise, charge.rate, min(left, charge.steps)))
        left -= charge.steps
    return kept


def _alternatives(axes: Any, plan: NoisePlan, noise: float) -> None:
    """Draw the noise that other budgets need, in batches of half, once and twice the size.

    Each at its own best order: another budget would be another ledger's.
    """
    free = replace(plan, order=None)
    for factor, colour in BATCHES.items():
        if any(s.rate * factor > 1 or s.batch(plan.patients) * factor < 1 for s in plan.stages):
            continue
        other = free.with_batches(factor)
        needed = _needed(other)
        batches = sorted({round(s.batch(plan.patients)) for s in other.stages})
        label = "batch " + " and ".join(f"{b:,}" for b in batches)
        axes.plot(*zip(*needed, strict=True), color=colour, marker="o", markersize=3, label=label)
    before = free.epsilon_before()
    if before > EPSILONS[0]:
        axes.axvspan(EPSILONS[0] * 0.8, before, color="#f1f3f5", zorder=0)
        told = f"{before:.2g} are counted\nor go to sums"
        axes.text(EPSILONS[0] * 0.85, noise, told, fontsize=7.5, color="#55606b", va="center")
    axes.plot([plan.epsilon], [noise], "o", color=LIMIT, markersize=7, zorder=3)
    axes.annotate(
        "this plan", (plan.epsilon, noise), textcoords="offset points", xytext=(-9, -12),
        ha="right", fontsize=8.5, color=LIMIT,
        bbox={"facecolor": "white", "linewidth": 0, "pad": 1},
    )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="budget epsilon", ylabel="noise multiplier needed")
    axes.set_xticks([*EPSILONS], [f"{e:g}" for e in EPSILONS])
    low, high = axes.get_ylim()
    marks = [m * 10.0**power for power in range(-3, 5) for m in (1, 2, 5)]
    marks = [mark for mark in marks if low <= mark <= high]
    axes.set_yticks(marks, [f"{mark:g}" for mark in marks])
    axes.minorticks_off()
    axes.tick_params(labelsize=8)
    axes.grid(color="#e6eaee", linewidth=0.6)
    axes.set_title("Noise for the same epochs (RDP, at best orders)", fontsize=9.5, color=INK)
    axes.legend(fontsize=8, frameon=False)


def _needed(plan: NoisePlan) -> list[tuple[float, float]]:
    """Return (epsilon, noise) of the budgets that can be kept at all."""
    spent = plan.epsilon_before()
    return [
        (epsilon, replace(plan, epsilon=epsilon).noise())
        for epsilon in EPSILONS
        if epsilon > spent * 1.05
    ]
