"""The charts of the privacy table as SVG bytes: who is found by an attack, what noise costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from server.report.figures import INK, SERIES, SOFT, STYLE, svg

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

FEWEST = 5e-3
"""Left edge of the false alarms: a smaller share is less than one of the attacked patients."""

COLUMNS = 4


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
    """Draw metric against epsilon: a panel per stage and number of patients, a line per lever.

    Args:
        rows: of benchmarks/privacy/utility.py: `stage`, `lever`, `patients`, `metric`, `start`,
            `batch_factor` and `values` (epsilon as text -> metric). Enlarged batches are left out.
    """
    drawn = [r for r in rows if r["batch_factor"] == 1]
    panels = list(dict.fromkeys((r["stage"], r["patients"]) for r in drawn))
    levers = list(dict.fromkeys(r["lever"] for r in drawn))
    height = -(-len(panels) // COLUMNS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.9 * COLUMNS, 2.7 * height), layout="constrained")
        places = figure.subplots(height, COLUMNS, squeeze=False).ravel()
        for axes, panel in zip(places, panels, strict=False):
            _panel(axes, [r for r in drawn if (r["stage"], r["patients"]) == panel], levers)
            axes.set_ylim(*_limits([r for r in drawn if r["stage"] == panel[0]]))
        for axes in places[len(panels) :]:
            axes.set_axis_off()
        return svg(figure)


def _limits(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the range of a stage's metric, the same in each of its panels."""
    values = [v for r in rows for v in (r["start"], *r["values"].values())]
    margin = 0.06 * (max(values) - min(values))
    return min(values) - margin, max(values) + margin


def _panel(axes: Axes, rows: Sequence[Mapping[str, Any]], levers: Sequence[str]) -> None:
    """Draw one stage at one number of patients: the start, then epsilon from 1 to none (inf)."""
    epsilons = sorted({float(e) for r in rows for e in r["values"]})
    places = ["start", *(f"{e:g}" for e in epsilons)]
    for row in rows:
        colour = SERIES[levers.index(row["lever"]) % len(SERIES)]
        values = [row["values"].get(str(e), np.nan) for e in epsilons]
        # Not joined to the line: from the start to epsilon 1 there is no path.
        axes.plot(places[:1], [row["start"]], "o", color=colour, markersize=4, fillstyle="none")
        axes.plot(places[1:], values, "o-", color=colour, markersize=4, label=row["lever"])
    first = rows[0]
    axes.set_title(f"{first['stage']}, {first['patients']} patients", color=INK)
    axes.set_ylabel(first["metric"].split(",")[0])
    axes.set_xlabel("Epsilon")
    axes.legend(fontsize=7)
