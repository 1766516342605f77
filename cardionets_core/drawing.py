"""Pictures for clinicians: the ECG on its paper, frames of a cine, a moving cine.

Matplotlib's Agg canvas is used without pyplot, so nothing is global and no screen is needed.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from cardionets_core.vocabulary import LEADS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

MM_PER_SECOND = 25.0
MM_PER_MV = 10.0
LAYOUT = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))
"""The usual 3 x 4 sheet; below it lead II over the whole length."""

SYSTOLE_ENDS = (0.15, 0.65)
"""Shares of the cardiac cycle between which systole ends, from slow to fast hearts."""

SHEET_SECONDS = 10.0
ROW_MM = 27.0
LEFT_MM = 12.0
INK, GRID_FINE, GRID_BOLD, PAPER = "#16202c", "#f6d9d3", "#e9a99d", "#fffaf8"

# ----------------------------------------------------------------------------------------- ECG


def ecg_strip(
    signal_mv: NDArray[np.float32],
    lead_mask: NDArray[np.bool_],
    rate_hz: float,
    *,
    title: str = "",
    note: str = "",
) -> bytes:
    """Draw a 12-lead ECG on millimetre paper, 25 mm/s and 10 mm/mV, and return a PNG.

    The sheet shows the first 10 s: each lead for a quarter of it, lead II below for all of it. Tall
    ECGs are drawn at 5 mm/mV, and the sheet says so.

    Args:
        signal_mv: [12, n] in mV, in the order of vocabulary.LEADS.
        lead_mask: [12], False for a lead that was not recorded.
        rate_hz: samples per second.
        title: printed above.
        note: printed at the end of the line below (filters, say).
    """
    kept = signal_mv[:, : round(SHEET_SECONDS * rate_hz)].astype(np.float64)
    seconds = kept.shape[1] / rate_hz
    gain = MM_PER_MV if np.quantile(np.abs(kept), 0.998) < 2.5 else MM_PER_MV / 2
    width, height = LEFT_MM + max(seconds, 2.5) * MM_PER_SECOND + 4, 4 * ROW_MM + 12
    figure, axes = _paper(width, height)
    for row, names in enumerate(LAYOUT):
        base = height - 10 - (row + 0.5) * ROW_MM
        _pulse(axes, base, gain)
        for column, name in enumerate(names):
            span = (column * seconds / 4, (column + 1) * seconds / 4)
            _trace(axes, kept, lead_mask, rate_hz, name=name, base=base, gain=gain, span=span)
    base = height - 10 - 3.5 * ROW_MM
    _pulse(axes, base, gain)
    _trace(axes, kept, lead_mask, rate_hz, name="II", base=base, gain=gain, span=(0, seconds))
    axes.text(2, height - 2, title, va="top", fontsize=9, weight="bold", color=INK)
    scale = f"25 mm/s   {gain:g} mm/mV"
    axes.text(2, 1.2, "   ".join(x for x in (scale, note) if x), fontsize=7.5, color=INK)
    return _png(figure, dpi=110)


def _paper(width: float, height: float) -> tuple[Figure, Any]:
    """Return a figure whose data units are millimetres, with the grid of ECG paper."""
    figure = Figure(figsize=(width / 25.4, height / 25.4))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    figure.patch.set_facecolor(PAPER)
    for step, colour, line in ((1, GRID_FINE, 0.35), (5, GRID_BOLD, 0.6)):
        down = [[(x, 0), (x, height)] for x in np.arange(0, width, step)]
        across = [[(0, y), (width, y)] for y in np.arange(0, height, step)]
        axes.add_collection(LineCollection(down + across, colors=colour, linewidths=line, zorder=0))
    return figure, axes


def _pulse(axes: Any, base: float, gain: float) -> None:
    """Draw the calibration pulse: 1 mV for 0.2 s."""
    x = np.array([3.0, 4.0, 4.0, 9.0, 9.0, 10.0])
    y = base + gain * np.array([0, 0, 1, 1, 0, 0])
    axes.plot(x, y, color=INK, linewidth=0.8)


def _trace(
    axes: Any,
    signal_mv: NDArray[np.float64],
    lead_mask: NDArray[np.bool_],
    rate_hz: float,
    *,
    name: str,
    base: float,
    gain: float,
    span: tuple[float, float],
) -> None:
    """Draw one lead over `span` seconds of the sheet."""
    lead = LEADS.index(name)
    start, stop = round(span[0] * rate_hz), round(span[1] * rate_hz)
    x = LEFT_MM + np.arange(start, stop) / rate_hz * MM_PER_SECOND
    left = LEFT_MM + span[0] * MM_PER_SECOND
    if span[0] > 0:
        axes.plot([left, left], [base - 5, base - 2], color=INK, linewidth=0.7)
        axes.plot([left, left], [base + 2, base + 5], color=INK, linewidth=0.7)
    if lead_mask[lead]:
        piece = signal_mv[lead] - np.median(signal_mv[lead])
        axes.plot(x, base + gain * piece[start:stop], color=INK, linewidth=0.75)
        label = name
    else:
        axes.plot([left + 2, x[-1]], [base, base], color="#999", linewidth=0.6, linestyle=":")
        label = f"{name}  not recorded"
    axes.text(left + 1.2, base + ROW_MM * 0.36, label, fontsize=8, weight="bold", color=INK)


# ----------------------------------------------------------------------------------------- cines


def end_systole(cine: NDArray[np.float32]) -> int:
    """Return the phase that differs most from the first one, which is end-diastole.

    Only phases at which systole can end are asked, so that a late artefact is not called systole.
    """
    change = ((cine - cine[:1]).astype(np.float64) ** 2).mean(axis=(1, 2))
    share = np.arange(len(cine)) / len(cine)
    change[(share < SYSTOLE_ENDS[0]) | (share > SYSTOLE_ENDS[1])] = -1.0
    return int(change.argmax())


def frames_panel(cines: Mapping[str, NDArray[np.float32]], *, title: str = "") -> bytes:
    """Draw end-diastole (above) and end-systole (below) of several cines side by side; a PNG.

    Args:
        cines: label -> [K, H, W] in [-1, 1].
        title: printed above.
    """
    figure = Figure(figsize=(1.75 * len(cines) + 0.5, 4.0), layout="constrained")
    axes = figure.subplots(2, len(cines), squeeze=False)
    for column, (label, cine) in enumerate(cines.items()):
        for row, phase in enumerate((0, end_systole(cine))):
            place = axes[row][column]
            place.imshow(cine[phase], cmap="gray", vmin=-1, vmax=1, interpolation="bicubic")
            place.set(xticks=[], yticks=[])
            share = f"{phase / len(cine):.0%} of the cycle"
            place.set_xlabel(share, fontsize=7, color="#555", labelpad=2)
        axes[0][column].set_title(label, fontsize=8.5, color=INK)
    for row, name in enumerate(("End-diastole", "End-systole")):
        axes[row][0].set_ylabel(name, fontsize=8.5, color=INK)
    if title:
        figure.suptitle(title, fontsize=9.5, color=INK)
    return _png(figure, dpi=120)


@dataclass(frozen=True, eq=False)
class CroppedView:
    """A cine as it was scanned, and what is cut out of it for a model.

    Attributes:
        label: name of the view.
        frames: scanner's grey values [2, h, w]: end-diastole, end-systole.
        pixel_mm: height and width of a pixel.
        centre_mm: (row, column) of the crop's middle from the centre of the first pixel.
        side_mm: height and width of the crop.
        crops: grey values [2, s, s] of the crop at the same phases.
    """

    label: str
    frames: NDArray[np.float32]
    pixel_mm: tuple[float, float]
    centre_mm: tuple[float, float]
    side_mm: float
    crops: NDArray[np.uint8]


def crop_panel(views: Sequence[CroppedView]) -> bytes:
    """Draw each view in a row: both phases to scale with the crop's outline, then the crops."""
    figure = Figure(figsize=(7.6, 1.86 * len(views) + 0.25), layout="constrained")
    axes = figure.subplots(len(views), 4, squeeze=False)
    for row, view in zip(axes, views, strict=True):
        low, high = np.percentile(view.frames, (1, 99.5))
        height, width = (n * mm for n, mm in zip(view.frames.shape[1:], view.pixel_mm, strict=True))
        corner = [
            c + mm / 2 - view.side_mm / 2
            for c, mm in zip(view.centre_mm, view.pixel_mm, strict=True)
        ]
        for place, frame in zip(row[:2], view.frames, strict=True):
            place.imshow(frame, cmap="gray", vmin=low, vmax=high, extent=(0, width, height, 0))
            outline = Rectangle(
                (corner[1], corner[0]), view.side_mm, view.side_mm, fill=False, color="#ffb020"
            )
            place.add_patch(outline)
            place.set(xlim=(0, width), ylim=(height, 0))
        for place, crop in zip(row[2:], view.crops, strict=True):
            place.imshow(crop, cmap="gray", vmin=0, vmax=255)
        row[0].set_ylabel(view.label, fontsize=8.5, color=INK)
        for place in row:
            place.set(xticks=[], yticks=[])
    titles = ("End-diastole", "End-systole", "Crop, end-diastole", "Crop, end-systole")
    for place, name in zip(axes[0], titles, strict=True):
        place.set_title(name, fontsize=8.5, color=INK)
    return _png(figure, dpi=120)


def cine_gif(cines: Sequence[NDArray[np.float32]], *, cycle_s: float, scale: int = 3) -> bytes:
    """Return an animated GIF of one or more cines [K, H, W] in [-1, 1] side by side.

    Args:
        cines: of the same shape.
        cycle_s: duration of one cardiac cycle; the animation repeats in real time.
        scale: screen pixels per image pixel.
    """
    gap = np.ones((*cines[0].shape[:2], 2), np.float32)
    joined = [part for cine in cines for part in (cine, gap)][:-1]
    grey = np.rint((np.clip(np.concatenate(joined, axis=2), -1, 1) + 1) * 127.5).astype(np.uint8)
    size = (grey.shape[2] * scale, grey.shape[1] * scale)
    frames = [Image.fromarray(g).resize(size, Image.Resampling.BICUBIC) for g in grey]
    # GIF counts in hundredths of a second, and players slow down below two of them
    hold = max(20, round(100 * cycle_s / len(frames)) * 10)
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=frames[1:],
        duration=hold,
        loop=0,
        optimize=False,
    )
    return buffer.getvalue()


# ----------------------------------------------------------------------------------------- output


def data_uri(data: bytes, kind: str = "image/png") -> str:
    """Return the bytes as a `data:` address, so that a page needs no second file."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def few_colours(png: bytes, colours: int = 64) -> bytes:
    """Return the PNG with a palette: a line drawing looks the same at a third of the size."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(colours).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _png(figure: Figure, *, dpi: int) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    # no software version in the file: the same picture, the same bytes
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
