"""A short-axis stack with its masks -> the middle slice, the heart's centre and the phenotypes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import nan
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cardionets_core.data.cmr import CineVolume, MaskStack, read_masks, read_nifti, read_phase_files
from cardionets_core.data.mask_phenotypes import MaskLabels, phenotypes_of_masks
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.sources.recording import Facts, SourceCmr


def read_masked(
    cine: Sequence[Path],
    masks: Sequence[Path],
    *,
    labels: MaskLabels | Callable[[MaskStack], MaskLabels],
    root: Path,
    facts: Facts,
    diastole: int | None = None,
) -> SourceCmr:
    """Read a short-axis cine and measure its masks; each is kept where the other is refused.

    Args:
        cine: one file with every phase, or one for each; none where there is no cine.
        masks: one file with every phase (empty where nothing was outlined), or one for each phase.
        labels: what the numbers of the masks mean, or who finds that out.
        root: folder that no file may lie outside of.
        facts: what is known besides.
        diastole: number of the end-diastolic phase, from 0; the cine is turned to begin there.

    Returns:
        The view `sax` and the phenotypes, or in `refused` why not; `study` stands for the masks.
    """
    views: dict[str, CineVolume] = {}
    refused: dict[str, str] = {}
    stack: MaskStack | None = None
    try:
        stack = read_masks(list(masks), root=root) if masks else None
    except RecordRefused as error:
        refused["study"] = error.code
    if cine:
        try:
            volume = read_slice(cine, stack, root=root)
            views["sax"] = _turned(volume, diastole)
        except RecordRefused as error:
            refused["sax"] = error.code
    elif masks:
        refused["sax"] = "ed_es_only"
    if stack is not None:
        cycle_s = views["sax"].cycle_s if "sax" in views else None
        try:
            known = labels if isinstance(labels, MaskLabels) else labels(stack)
            values = _measure(stack, known, cycle_s)
            facts = Facts(values=values).or_else(facts)
        except RecordRefused as error:
            refused["study"] = error.code
    return SourceCmr(views, refused, facts)


def read_slice(cine: Sequence[Path], stack: MaskStack | None, *, root: Path) -> CineVolume:
    """Read the slice in the middle of the heart, and where it is in it, from the masks if any.

    Raises:
        RecordRefused: as `read_nifti`; `image_shape` where cine and masks do not fit together.
    """

    def at(index: int | None) -> CineVolume:
        if len(cine) == 1:
            return read_nifti(cine[0], root=root, slice_index=index)
        return read_phase_files(list(cine), root=root, slice_index=index)

    if stack is None or not stack.masks.any():
        return at(None)
    heart = stack.masks > 0
    inside = np.flatnonzero(heart.any(axis=(0, 2, 3)))
    middle = int(inside[len(inside) // 2])
    volume = at(middle)
    alike = np.allclose(volume.pixel_mm, stack.pixel_mm, rtol=0.01)
    if volume.frames.shape[1:] != heart.shape[2:] or not alike:
        raise RecordRefused("image_shape", "cine and masks differ in size")
    return replace(volume, heart_mm=centroid_mm(heart[:, middle], volume.pixel_mm))


def centroid_mm(
    heart: NDArray[np.bool_], pixel_mm: tuple[float, float]
) -> tuple[float, float] | None:
    """Return (row, column) mm of the middle of [phases, h, w] over all phases, None where empty."""
    if not heart.any():
        return None
    _, row, column = ndimage.center_of_mass(heart)
    return float(row) * pixel_mm[0], float(column) * pixel_mm[1]


def _turned(volume: CineVolume, diastole: int | None) -> CineVolume:
    if diastole is None or not 0 < diastole < len(volume.frames):
        return volume
    return replace(volume, frames=np.roll(volume.frames, -diastole, axis=0))


def _measure(stack: MaskStack, labels: MaskLabels, cycle_s: float | None) -> dict[str, float]:
    return phenotypes_of_masks(
        stack.masks,
        labels=labels,
        pixel_mm=stack.pixel_mm,
        slice_mm=stack.slice_mm,
        cycle_s=cycle_s,
        right_handed=stack.right_handed,
    )


def number(written: str) -> float:
    """Return a number that a text file holds, NaN where it holds none."""
    try:
        return float(written.strip().replace(",", "."))
    except ValueError:
        return nan
