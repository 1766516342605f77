"""The charts of a report as SVG bytes: training curves of sites, phenotype R2, calibration.

Drawn with the object interface of matplotlib, so that nothing depends on its global state, and
without a date or random ids, so that the same run gives the same page.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator

from cardionets_core.vocabulary import DISEASES, PHENOTYPE_BY_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

INK, SOFT, LINE = "#16202c", "#55606e", "#d5dae1"
SERIES = ("#1f5a94", "#d1662a", "#3c8d53", "#7b4ea3", "#b03a4b", "#2a9d9d", "#946c1f")
"""Colours of sites, dark enough on white and apart for colour-blind readers."""

MARKS = {
    "covariates": ("Age, sex, size only", "#8a94a0", "s"),
    "ecg": ("ECG only", SERIES[0], "o"),
    "ecg_covariates": ("ECG + age, sex, size", INK, "D"),
}

STYLE = {
    "font.size": 9.0,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "svg.hashsalt": "cardionets",
}

Curve = dict[int, float]
"""Round -> value."""


def draw_training(
    sites: Mapping[str, Mapping[str, Curve]], mean: Mapping[str, Curve], colours: Mapping[str, str]
) -> bytes:
    """Draw train and validation loss over the rounds of one stage, side by side on one scale.

    Args:
        sites: site title -> `train_loss` and `validation_loss` -> curve; thin lines.
        mean: the federated means likewise; thick lines.
        colours: of each site title.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 2.5), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, key in zip(panels, ("train_loss", "validation_loss"), strict=True):
            for site, curves in sites.items():
                _line(axes, curves.get(key, {}), colours[site], site, width=1.0)
            _line(axes, mean.get(key, {}), INK, "All sites", width=2.4)
            axes.set_title("Training" if key == "train_loss" else "Validation")
            axes.set_xlabel("Round")
            last = max([*mean.get(key, {}), 1])
            axes.set_xlim(0.5, last + 0.5)
            axes.xaxis.set_major_locator(MultipleLocator(-(-last // 6)))
        panels[0].set_ylabel("Loss")
        lines = panels[0].get_lines()
        if lines:
            figure.legend(
                lines[::-1],
                [str(line.get_label()) for line in lines[::-1]],
                loc="outside lower center",
                ncols=2,
                fontsize=8,
            )
        return svg(figure)


def draw_phenotypes(found: Mapping[str, Any], names: Sequence[str]) -> bytes:
    """Draw R2 with its interval for each of `names`, one mark per set of predictors.

    A value below the axis stands as an arrow at its edge; the table has the number.
    """
    by_name = found["by_phenotype"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.8, 0.4 * len(names) + 1.0), layout="constrained")
        axes = figure.subplots()
        left = left_edge(drawn_r2(found, names))
        for offset, (key, (label, colour, mark)) in zip(
            (-0.24, 0, 0.24), MARKS.items(), strict=True
        ):
            axes.plot([], [], mark, color=colour, markersize=5, label=label)
            for place, name in enumerate(names):
                r2 = by_name[name].get(key, {}).get("r2", {})
                _dot(axes, r2, place + offset, left=left, colour=colour, mark=mark)
        axes.axvline(0.0, color=INK, linewidth=0.9)
        axes.set_xlim(left, 1.0)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_yticks(range(len(names)), [PHENOTYPE_BY_NAME[n].title for n in names])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("R² on held-out patients")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        figure.legend(loc="outside upper center", ncols=3, fontsize=8.5, columnspacing=1.2)
        return svg(figure)


def drawn_r2(found: Mapping[str, Any], names: Sequence[str]) -> list[Mapping[str, float | None]]:
    """Return the R2 of every mark that `draw_phenotypes` draws."""
    rows = [found["by_phenotype"][name] for name in names]
    return [row[key]["r2"] for row in rows for key in MARKS if key in row]


def left_edge(estimates: Sequence[Mapping[str, float | None]]) -> float:
    """Return where the axis begins: room for the values, at most down to -1."""
    values = [e["value"] for e in estimates if e["value"] is not None]
    return max(min([-0.1, *(v - 0.1 for v in values)]), -1.0)


def _dot(
    axes: Axes,
    r2: Mapping[str, float | None],
    place: float,
    *,
    left: float,
    colour: str,
    mark: str,
) -> None:
    value, low, high = (r2.get(k) for k in ("value", "low", "high"))
    if value is None:
        return
    if low is not None and high is not None:
        axes.plot([low, high], [place, place], color=colour, linewidth=1.4)
    shown = mark if value >= left else "<"
    axes.plot(max(value, left), place, shown, color=colour, markersize=5, clip_on=False)


def draw_calibration(curves: Mapping[str, Mapping[str, Sequence[float | None]]]) -> bytes:
    """Draw predicted probability against observed frequency, one small panel per disease.

    Args:
        curves: disease -> `probability`, `frequency`, `patients` per bin; None where it is empty.
    """
    columns = 4
    rows = -(-len(curves) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 2.2 * rows + 0.3), layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(curves) :]:
            axes.remove()
        for axes, (name, curve) in zip(grid.flat, curves.items(), strict=False):
            _calibration(axes, curve)
            axes.set_title(DISEASES.get(name, name), fontsize=8.5)
        figure.supxlabel("Predicted probability", fontsize=9)
        figure.supylabel("Observed frequency", fontsize=9)
        return svg(figure)


def _calibration(axes: Axes, curve: Mapping[str, Sequence[float | None]]) -> None:
    bins = zip(curve["probability"], curve["frequency"], curve["patients"], strict=True)
    known = [(p, f, n) for p, f, n in bins if p is not None and f is not None and n]
    predicted, observed, patients = (list(column) for column in zip(*known, strict=True))
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.plot(predicted, observed, color=SERIES[0], linewidth=1.2)
    sizes = [12 + 90 * n / sum(patients) for n in patients]
    axes.scatter(predicted, observed, s=sizes, color=SERIES[0], zorder=3)
    axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), aspect="equal")


def site_colours(titles: Sequence[str]) -> dict[str, str]:
    """Return a colour per site, the same in every chart."""
    return {t: SERIES[i % len(SERIES)] for i, t in enumerate(titles)}


def _line(axes: Axes, curve: Curve, colour: str, label: str, *, width: float) -> None:
    rounds = sorted(curve)
    values = [curve[r] for r in rounds]
    axes.plot(
        rounds,
        values,
        color=colour,
        linewidth=width,
        label=label,
        marker="o",
        markersize=width + 1.6,
    )


def svg(figure: Figure) -> bytes:
    """Return a figure as SVG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
