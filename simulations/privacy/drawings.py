"""The charts of the privacy table as SVG bytes: who is found by an attack, what noise costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from simulations.report_figures import INK, SERIES, SOFT, STYLE, svg

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

FEWEST = 5e-3
"""Left edge of the false alarms: a smaller share is less than one of the attacked patients."""

COLUMNS = 3
MARKS, DASHES = "osD^v", ("-", "--", ":", "-.", (0, (1, 3)))
"""Of the numbers of patients, in their order."""


def draw_attacks(attacks: Mapping[str, tuple[NDArray[np.float64], NDArray[np.bool_]]]) -> bytes:
    """Draw which share of members an attack finds against its false alarms, on logarithmic axes.

    Args:
        attacks: what was attacked -> the attack's values and who was a member, of one shape.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 3.6), layout="constrained")
        axes = figure.subplots()
        chance = np.geomspace(FEWEST, 1.0, 50)
        axes.plot(chance, chance, color=SOFT, linewidth=1.0, linestyle=":", label="Chance")
        for colour, (words, (values, member)) in zip(SERIES, attacks.items(), strict=False):
            alarms, found = shares_found(values.ravel(), member.ravel())
            axes.step(alarms, found, where="post", color=colour, linewidth=1.6, label=words)
        axes.set(xscale="log", yscale="log", xlim=(FEWEST, 1.0), ylim=(FEWEST, 1.05))
        axes.set_xlabel("False alarms (share of those who were not in)")
        axes.set_ylabel("Members found")
        axes.legend(fontsize=8, loc="lower right")
        return svg(figure)


def shares_found(
    values: NDArray[np.float64], member: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (false alarms, members found) over all thresholds, from none to all: a ROC curve."""
    ranked = member[np.argsort(-values, kind="stable")]
    found = np.concatenate([[0], np.cumsum(ranked)]) / max(1, ranked.sum())
    alarms = np.concatenate([[0], np.cumsum(~ranked)]) / max(1, (~ranked).sum())
    return alarms, found


def draw_utility(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw each stage's metric against epsilon, a line for each way to train it and size.

    Args:
        rows: of benchmarks/privacy/utility.py: `stage`, `lever`, `patients`, `metric`, `start` and
            `values` (epsilon as text -> metric).
    """
    stages = list(dict.fromkeys((r["stage"], r["metric"].split(",")[0]) for r in rows))
    height = -(-len(stages) // COLUMNS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * COLUMNS, 3.3 * height), layout="constrained")
        panels = figure.subplots(height, COLUMNS, squeeze=False).ravel()
        for axes, stage in zip(panels, stages, strict=False):
            _stage(axes, stage, [r for r in rows if r["stage"] == stage[0]])
        for axes in panels[len(stages) :]:
            axes.set_axis_off()
        return svg(figure)


def _stage(axes: Axes, stage: tuple[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw one stage: the start, then epsilon from the smallest to none (inf)."""
    epsilons = sorted({float(e) for r in rows for e in r["values"]})
    places = ["start", *(f"{e:g}" for e in epsilons)]
    levers = list(dict.fromkeys(r["lever"] for r in rows))
    sizes = list(dict.fromkeys(r["patients"] for r in rows))
    for row in rows:
        size = sizes.index(row["patients"]) % len(DASHES)
        colour, mark = SERIES[levers.index(row["lever"])], MARKS[size]
        values = [row["values"].get(str(e), np.nan) for e in epsilons]
        # Not joined to the line: from the start to epsilon 1 there is no path.
        axes.plot(places[:1], [row["start"]], mark, color=colour, markersize=4, fillstyle="none")
        axes.plot(
            places[1:],
            values,
            color=colour,
            marker=mark,
            linestyle=DASHES[size],
            markersize=4,
            linewidth=1.3,
            label=f"{row['lever']}, {row['patients']} patients",
        )
    axes.set_title(f"{stage[0]}: {stage[1]}", color=INK)
    axes.set_xlabel("Epsilon")
    axes.legend(fontsize=7)
