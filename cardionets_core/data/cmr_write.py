"""Cines -> NIfTI: what `cardionets predict` hands to a viewer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

SLICE_MM = 8.0
"""Thickness written for a synthetic slice: that of a usual cine; the model has no third axis."""

SFORM_ALIGNED = 2
"""NIfTI code for coordinates that are not the scanner's."""


def write_nifti(
    path: Path,
    frames: NDArray[np.float32],
    *,
    pixel_mm: float,
    phase_s: float,
    description: str,
) -> None:
    """Write a cine as uint8 NIfTI (column, row, 1, phase), the layout that `cmr.read_nifti` reads.

    Args:
        path: a `.nii.gz` file.
        frames: [phases, height, width] in [-1, 1].
        pixel_mm: height and width of a pixel.
        phase_s: seconds from one phase to the next.
        description: at most 79 ASCII characters, kept in the header.
    """
    grey = np.rint((np.clip(frames, -1, 1) + 1) * 127.5).astype(np.uint8)
    height, width = frames.shape[1:]
    affine = np.diag([pixel_mm, pixel_mm, SLICE_MM, 1.0])
    affine[:2, 3] = -pixel_mm * (width - 1) / 2, -pixel_mm * (height - 1) / 2
    image: Any = nib.Nifti1Image(grey.transpose(2, 1, 0)[:, :, None], affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((pixel_mm, pixel_mm, SLICE_MM, phase_s))
    image.header["descrip"] = description.encode("ascii", "replace")[:79]
    image.set_sform(affine, SFORM_ALIGNED)
    image.set_qform(affine, SFORM_ALIGNED)
    nib.save(image, path)
