"""Cines -> NIfTI in the one orientation that `cmr.read_nifti` gives back unchanged."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.nifti1 import Nifti1Extension
from numpy.typing import NDArray

from cardionets_core.data.cmr import CineVolume
from cardionets_core.data.nifti_header import COMMENT, HEART_KEY

SLICE_MM = 8.0
"""Thickness written for a slice: that of a usual cine; a cine of one slice has no third axis."""

SFORM_ALIGNED = 2
"""NIfTI code for coordinates that are not the scanner's."""

_GZIP = 31
"""zlib's word for a gzip stream; without a time, so that the same cine is the same file."""

_WHOLE = (np.uint8, np.int16, np.uint16)


def write_nifti(path: Path, volume: CineVolume, *, description: str = "") -> None:
    """Write a cine as NIfTI (column, row, 1, phase): grey values, millimetres, cycle, heart.

    Whole grey values are kept as integers, others as float32: nothing is rounded.

    Args:
        path: a `.nii.gz` file.
        volume: the cine.
        description: at most 79 ASCII characters, kept in the header; no free text of a hospital.
    """
    frames = volume.frames
    row_mm, column_mm = volume.pixel_mm
    height, width = frames.shape[1:]
    # columns towards the left, rows towards the back: the orientation that readers keep
    affine = np.diag([-column_mm, -row_mm, SLICE_MM, 1.0])
    affine[:2, 3] = column_mm * (width - 1) / 2, row_mm * (height - 1) / 2
    stored = frames.astype(_stored_type(frames)).transpose(2, 1, 0)[:, :, None]
    image: Any = nib.Nifti1Image(stored, affine)
    image.header.set_xyzt_units("mm", "sec")
    phase_s = 0.0 if volume.cycle_s is None else volume.cycle_s / len(frames)
    image.header.set_zooms((column_mm, row_mm, SLICE_MM, phase_s))
    image.header["descrip"] = description.encode("ascii", "replace")[:79]
    image.set_sform(affine, SFORM_ALIGNED)
    image.set_qform(affine, SFORM_ALIGNED)
    if volume.heart_mm is not None:
        text = json.dumps({HEART_KEY: [round(v, 3) for v in volume.heart_mm]})
        image.header.extensions.append(Nifti1Extension(COMMENT, text.encode()))
    packer = zlib.compressobj(1, wbits=_GZIP)
    path.write_bytes(packer.compress(image.to_bytes()) + packer.flush())


def write_synthetic(
    path: Path,
    frames: NDArray[np.float32],
    *,
    pixel_mm: float,
    phase_s: float,
    description: str,
) -> None:
    """Write a cine that a model made, as uint8.

    Args:
        path: a `.nii.gz` file.
        frames: [phases, height, width] in [-1, 1].
        pixel_mm: height and width of a pixel.
        phase_s: seconds from one phase to the next.
        description: at most 79 ASCII characters, kept in the header.
    """
    grey = np.rint((np.clip(frames, -1, 1) + 1) * 127.5).astype(np.float32)
    volume = CineVolume(grey, (pixel_mm, pixel_mm), phase_s * len(frames))
    write_nifti(path, volume, description=description)


def _stored_type(frames: NDArray[np.float32]) -> Any:
    """Return the smallest type that holds every value exactly."""
    if np.array_equal(frames, np.rint(frames)):
        low, high = float(frames.min()), float(frames.max())
        for kind in _WHOLE:
            limits = np.iinfo(kind)
            if limits.min <= low and high <= limits.max:
                return kind
    return np.float32
