"""NIfTI cine volumes and masks -> arrays in one orientation, with their size in millimetres."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cardionets_core.data.nifti_header import NiftiHeader, read_header, read_voxels
from cardionets_core.data.refusal import RecordRefused

PIXELS = (16, 1024)
"""Fewest and most pixels along an edge of a frame."""

MAX_SLICES = 64
PHASES = (4, 300)
MAX_VOXELS = 200_000_000
PIXEL_MM = (0.3, 6.0)
ALONG_AN_AXIS = 0.9999
CYCLE_S = (0.2, 3.0)
"""Shortest and longest cardiac cycle that is believed (20 to 300 beats a minute)."""


@dataclass(frozen=True)
class CineVolume:
    """One slice over the cardiac cycle.

    Attributes:
        frames: float32 [phases, h, w] in the scanner's own grey values, in the orientation of
            orientation.py; as stored where the file does not say how the slice lay in the patient.
        pixel_mm: height and width of a pixel.
        cycle_s: duration of the cycle, None where the header has no believable one.
        heart_mm: row and column of the heart's centre in mm from the centre of the first pixel,
            from a mask; None where there was none.
    """

    frames: NDArray[np.float32]
    pixel_mm: tuple[float, float]
    cycle_s: float | None
    heart_mm: tuple[float, float] | None = None


@dataclass(frozen=True)
class MaskStack:
    """Labels of a stack.

    Attributes:
        masks: uint8 [phases, slices, h, w], oriented as its cine; slices run from apex to base
            where the file says how the stack lay in the patient.
        pixel_mm: height and width of a pixel.
        slice_mm: from the middle of one slice to that of the next.
        right_handed: True where columns, rows and slices are known to be a right-handed triple in
            the patient; None where the file does not know. One that calls the stack exactly axial
            does not: no short axis is.
    """

    masks: NDArray[np.uint8]
    pixel_mm: tuple[float, float]
    slice_mm: float
    right_handed: bool | None = None


def read_nifti(
    path: Path, *, root: Path | None = None, slice_index: int | None = None
) -> CineVolume:
    """Read a cine of one slice, or one slice of a stack.

    Args:
        path: `.nii` or `.nii.gz` with three axes in space, in any order, and then the phases.
        root: folder that the file may not lie outside of; its own by default.
        slice_index: which slice, counted from the apex; the middle one by default.

    Raises:
        RecordRefused: with one of the codes of refusal.REASONS; sizes are judged by the header
            before any pixel is read.
    """
    header = read_header(path, root=path.parent if root is None else root)
    _check_shape(header, axes=4)
    check_phases(header.phases)
    pixel_mm = _pixel_mm(header)
    voxels = read_voxels(header, header.slices // 2 if slice_index is None else slice_index)
    return CineVolume(_finite(voxels), pixel_mm, _cycle_s(header), header.heart_mm)


def read_phase_files(
    paths: list[Path], *, root: Path, slice_index: int | None = None
) -> CineVolume:
    """Read a cine whose phases lie in a file each; see `read_nifti`.

    Args:
        paths: volumes of three axes, in the order of their phases.
        root: folder that no file may lie outside of.
        slice_index: which slice, counted from the apex; the middle one by default.

    Raises:
        RecordRefused: also `image_shape` where the files are not alike.
    """
    check_phases(len(paths))
    headers = [read_header(path, root=root) for path in paths]
    for header in headers:
        _check_shape(header, axes=3)
    first = headers[0]
    if any((h.shape, h.place) != (first.shape, first.place) for h in headers):
        raise RecordRefused("image_shape", "phases differ in size or orientation")
    pixel_mm = _pixel_mm(first)
    middle = first.slices // 2 if slice_index is None else slice_index
    return CineVolume(
        _finite(np.concatenate([read_voxels(h, middle) for h in headers])), pixel_mm, None
    )


def read_masks(paths: list[Path], *, root: Path) -> MaskStack:
    """Read the labels of a stack: one file with every phase, or a file of three axes for each.

    Raises:
        RecordRefused: as `read_nifti`; `image_type` where values are not small whole numbers.
    """
    headers = [read_header(path, root=root) for path in paths]
    for header in headers:
        _check_shape(header, axes=len(header.shape) if len(headers) == 1 else 3)
    first = headers[0]
    if any((h.shape, h.place) != (first.shape, first.place) for h in headers):
        raise RecordRefused("image_shape", "phases differ in size or orientation")
    pixel_mm = _pixel_mm(first)
    every = np.concatenate([_labels(header) for header in headers])
    normal = np.abs(first.place[1].normal)
    right_handed = True if normal.any() and normal.max() < ALONG_AN_AXIS else None
    return MaskStack(every, pixel_mm, first.slice_mm, right_handed)


def check_phases(phases: int) -> None:
    """Refuse what cannot show the motion of a heart.

    Raises:
        RecordRefused: `ed_es_only`, `too_few_phases`.
    """
    if phases == 2:
        raise RecordRefused("ed_es_only")
    if phases < PHASES[0]:
        raise RecordRefused("too_few_phases", f"{phases} phases")


def _check_shape(header: NiftiHeader, *, axes: int) -> None:
    if len(header.shape) != axes or axes not in (3, 4):
        raise RecordRefused("image_shape", f"{len(header.shape)} axes")
    size = "x".join(map(str, header.shape))
    too_many = header.slices > MAX_SLICES or header.phases > PHASES[1]
    if max(header.plane) > PIXELS[1] or too_many or np.prod(header.shape, dtype=float) > MAX_VOXELS:
        raise RecordRefused("too_large", size)
    if min(header.plane) < PIXELS[0] or header.slices < 1 or header.phases < 1:
        raise RecordRefused("image_shape", size)


def _pixel_mm(header: NiftiHeader) -> tuple[float, float]:
    """Return (row, column) spacing in the orientation that frames have."""
    if all(size == 1.0 for size in header.stored_sizes):
        raise RecordRefused("spacing", "1 x 1 x 1 mm stands for a spacing that was lost")
    row, column = header.pixel_mm
    if not all(PIXEL_MM[0] <= size <= PIXEL_MM[1] for size in (row, column)):
        raise RecordRefused("spacing", f"{row:.3g} x {column:.3g} mm")
    return row, column


def _cycle_s(header: NiftiHeader) -> float | None:
    """Return phases x seconds per phase; a header without units may mean s or ms."""
    cycle = header.phase_step * header.phases
    candidates = (cycle, cycle / 1000) if header.time_unit == "unknown" else (cycle,)
    return next((c for c in candidates if CYCLE_S[0] <= c <= CYCLE_S[1]), None)


def _finite(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(frames).all() or np.ptp(frames) == 0:
        raise RecordRefused("empty_image")
    return frames


def _labels(header: NiftiHeader) -> NDArray[np.uint8]:
    """Return uint8 [phases, slices, h, w]."""
    slices = [read_voxels(header, k) for k in range(header.slices)]
    values = np.stack(slices, axis=1)
    labels = np.rint(values)
    if not np.isfinite(values).all() or labels.min() < 0 or labels.max() > 255:
        raise RecordRefused("image_type", "labels are whole numbers from 0 to 255")
    if np.abs(labels - values).max() > 1e-3:
        raise RecordRefused("image_type", "labels are whole numbers from 0 to 255")
    return labels.astype(np.uint8)
