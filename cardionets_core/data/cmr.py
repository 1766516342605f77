"""NIfTI cine volumes -> frames with their pixel size. The only reader that knows nibabel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from cardionets_core.data.paths import sibling
from cardionets_core.data.refusal import RecordRefused

PIXELS = (16, 1024)
"""Fewest and most pixels along an edge of a frame."""

MAX_SLICES = 64
PHASES = (4, 300)
MAX_VOXELS = 200_000_000
PIXEL_MM = (0.3, 6.0)
CYCLE_S = (0.2, 3.0)
"""Shortest and longest cardiac cycle that is believed (20 to 300 beats a minute)."""

_MILLIMETRES = {"mm": 1.0, "unknown": 1.0, "meter": 1000.0, "micron": 1e-3}
_SECONDS = {"sec": 1.0, "unknown": 1.0, "msec": 1e-3, "usec": 1e-6}


@dataclass(frozen=True)
class CineVolume:
    """One slice over the cardiac cycle.

    Attributes:
        frames: float32 [phases, h, w] in the scanner's own grey values; rows run along the second
            NIfTI axis, columns along the first, as stored (no reorientation).
        pixel_mm: height and width of a pixel.
        cycle_s: duration of the cycle, None where the header has no believable one.
    """

    frames: NDArray[np.float32]
    pixel_mm: tuple[float, float]
    cycle_s: float | None


def read_nifti(path: Path, *, root: Path | None = None) -> CineVolume:
    """Read a cine of one slice, or the middle slice of a stack.

    Args:
        path: `.nii` or `.nii.gz` with axes (x, y, slice, phase).
        root: folder that the file may not lie outside of; its own by default.

    Raises:
        RecordRefused: with one of the codes of refusal.REASONS; sizes are judged by the header
            before any pixel is read.
    """
    file = sibling(path, path.name, path.parent if root is None else root)
    if not file.name.lower().endswith((".nii", ".nii.gz")):
        raise RecordRefused("file_type")
    try:
        image: Any = nib.load(file)
    except Exception as error:  # nibabel and gzip raise whatever a broken header trips over
        raise RecordRefused("header") from error
    _check_shape(image.shape)
    if image.get_data_dtype().kind not in "iuf":
        raise RecordRefused("image_type")
    pixel_mm = _pixel_mm(image)
    return CineVolume(_read_frames(image), pixel_mm, _cycle_s(image))


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) != 4:
        raise RecordRefused("image_shape", f"{len(shape)} axes")
    x, y, slices, phases = shape
    if max(x, y) > PIXELS[1] or slices > MAX_SLICES or phases > PHASES[1]:
        raise RecordRefused("too_large", "x".join(map(str, shape)))
    if x * y * slices * phases > MAX_VOXELS:
        raise RecordRefused("too_large", "x".join(map(str, shape)))
    if min(x, y) < PIXELS[0] or slices < 1:
        raise RecordRefused("image_shape", "x".join(map(str, shape)))
    if phases < PHASES[0]:
        raise RecordRefused("too_few_phases", f"{phases} phases")


def _pixel_mm(image: Any) -> tuple[float, float]:
    """Return (row, column) spacing from the affine, or from the zooms where there is none."""
    header = image.header
    coded = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    sizes = voxel_sizes(image.affine) if coded else header.get_zooms()[:3]
    if np.all(np.asarray(sizes) == 1.0):
        raise RecordRefused("spacing", "1 x 1 x 1 mm stands for a spacing that was lost")
    to_mm = _MILLIMETRES.get(header.get_xyzt_units()[0], 1.0)
    column, row = (float(size) * to_mm for size in sizes[:2])
    if not all(PIXEL_MM[0] <= size <= PIXEL_MM[1] for size in (row, column)):
        raise RecordRefused("spacing", f"{row:.3g} x {column:.3g} mm")
    return row, column


def _cycle_s(image: Any) -> float | None:
    """Return phases x seconds per phase; a header without units may mean s or ms."""
    unit = image.header.get_xyzt_units()[1]
    cycle = float(image.header.get_zooms()[3]) * image.shape[3] * _SECONDS.get(unit, 1.0)
    candidates = (cycle, cycle / 1000) if unit == "unknown" else (cycle,)
    return next((c for c in candidates if CYCLE_S[0] <= c <= CYCLE_S[1]), None)


def _read_frames(image: Any) -> NDArray[np.float32]:
    middle = image.shape[2] // 2
    try:
        voxels = np.asarray(image.dataobj[:, :, middle, :], dtype=np.float32)
    except Exception as error:  # see read_nifti; a short or torn file ends here
        raise RecordRefused("unreadable") from error
    frames = np.ascontiguousarray(voxels.transpose(2, 1, 0))
    if not np.isfinite(frames).all() or np.ptp(frames) == 0:
        raise RecordRefused("empty_image")
    return frames
