"""What a NIfTI file says before its voxels are read. The only reader that knows nibabel.

The header is parsed from the first bytes of the file, so that neither a size nor an extension that
it claims is ever allocated. Layout: NIfTI-1 and NIfTI-2 (nifti.nimh.nih.gov).
"""

from __future__ import annotations

import gzip
import json
import logging
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from nibabel import imageglobals
from nibabel.affines import voxel_sizes
from nibabel.arrayproxy import ArrayProxy
from numpy.typing import NDArray

from cardionets_core.data.orientation import AS_STORED, Orientation, canonical_orientation
from cardionets_core.data.paths import sibling
from cardionets_core.data.refusal import RecordRefused

HEART_KEY = "cardionets_heart_mm"
COMMENT = 6
"""NIfTI's code for an extension of plain text; ours is JSON with `HEART_KEY`."""

_LARGEST_OFFSET = 2**20
"""Bytes before the voxels: header and extensions."""

_MILLIMETRES = {"mm": 1.0, "unknown": 1.0, "meter": 1000.0, "micron": 1e-3}
_SECONDS = {"sec": 1.0, "unknown": 1.0, "msec": 1e-3, "usec": 1e-6}
# nibabel prints what it corrects in a header; what cannot be corrected it raises
imageglobals.logger.setLevel(logging.CRITICAL)

_RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class NiftiHeader:
    """The part of a header that matters, axes already sorted.

    Attributes:
        file: where the voxels are; not shown.
        shape: as stored.
        place: stored axes that hold rows, columns and slices before orientation, and orientation.
        stored_sizes: voxel sizes along the stored axes, in the file's unit.
        pixel_mm: (row, column) spacing, after orientation.
        slice_mm: distance of slices.
        phase_step: seconds from phase to phase, or whatever unit was not named.
        time_unit: NIfTI's word for it.
        heart_mm: from our own extension; None where there is none.
        proxy: nibabel's door to the scaled voxels.
    """

    shape: tuple[int, ...]
    place: tuple[tuple[int, int, int], Orientation, bool]
    stored_sizes: tuple[float, float, float]
    pixel_mm: tuple[float, float]
    slice_mm: float
    phase_step: float
    time_unit: str
    heart_mm: tuple[float, float] | None
    proxy: Any

    @property
    def plane(self) -> tuple[int, int]:
        """Stored edges of a frame."""
        return self.shape[self.place[0][0]], self.shape[self.place[0][1]]

    @property
    def slices(self) -> int:
        """How many slices."""
        return self.shape[self.place[0][2]]

    @property
    def phases(self) -> int:
        """How many phases; 1 where there is no fourth axis."""
        return self.shape[3] if len(self.shape) > 3 else 1


def read_header(path: Path, *, root: Path) -> NiftiHeader:
    """Read and sort out a header; no voxel is touched.

    Raises:
        RecordRefused: `path_escape`, `missing_file`, `file_type`, `header`, `image_type` (colours,
            complex numbers), `image_shape` (fewer than three axes).
    """
    file = sibling(path, path.name, root)
    if not file.name.lower().endswith((".nii", ".nii.gz")):
        raise RecordRefused("file_type")
    try:
        header, start = _parse(file)
        if header.get_data_dtype().kind not in "iuf":
            raise RecordRefused("image_type")
        shape = tuple(int(n) for n in header.get_data_shape())
        if len(shape) < 3:
            raise RecordRefused("image_shape", f"{len(shape)} axes")
        return _sort_out(file, header, shape, start)
    except RecordRefused:
        raise
    except Exception as error:  # nibabel and gzip raise whatever a broken header trips over
        raise RecordRefused("header") from error


def read_voxels(header: NiftiHeader, slice_index: int) -> NDArray[np.float32]:
    """Read one slice in every phase: float32 [phases, h, w], oriented, counted from the apex.

    Raises:
        RecordRefused: `unreadable`; `image_shape` where there is no such slice.
    """
    (row_axis, column_axis, slice_axis), orientation, reverse = header.place
    if not 0 <= slice_index < header.slices:
        raise RecordRefused("image_shape", "no such slice")
    where: list[Any] = [slice(None)] * len(header.shape)
    where[slice_axis] = header.slices - 1 - slice_index if reverse else slice_index
    try:
        voxels = np.asarray(header.proxy[tuple(where)], dtype=np.float32)
    except Exception as error:  # see read_header; a short or torn file ends here
        raise RecordRefused("unreadable") from error
    if row_axis > column_axis:
        voxels = voxels.swapaxes(0, 1)
    frames = voxels[None] if voxels.ndim == 2 else np.moveaxis(voxels, 2, 0)
    return np.ascontiguousarray(orientation.apply(frames))


def _parse(file: Path) -> tuple[Any, bytes]:
    """Return nibabel's header and the bytes before the voxels."""
    opened = gzip.open if file.name.lower().endswith(".gz") else open
    with opened(file, "rb") as stream:
        start = stream.read(540)
        second = start[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c")
        header: Any = nib.Nifti2Header(start) if second else nib.Nifti1Header(start[:348])
        offset = int(header.get_data_offset())
        if not 0 <= offset <= _LARGEST_OFFSET:
            raise RecordRefused("header")
        return header, (start + stream.read(max(0, offset - len(start))))[:offset]


def _sort_out(file: Path, header: Any, shape: tuple[int, ...], start: bytes) -> NiftiHeader:
    zooms = [float(size) for size in header.get_zooms()]
    affine = _affine(header, zooms)
    sizes = [float(s) for s in (zooms[:3] if affine is None else voxel_sizes(affine))]
    slice_axis = _slice_axis(shape, sizes)
    # rows run along the later axis, as in the layout (x, y, slice, phase)
    column_axis, row_axis = (axis for axis in range(3) if axis != slice_axis)
    orientation, reverse = AS_STORED, False
    if affine is not None and min(sizes) > 0:
        directions = (affine[:3, :3] * _RAS_TO_LPS[:, None]).T
        orientation = canonical_orientation(directions[row_axis], directions[column_axis])
        reverse = bool(directions[slice_axis] @ np.array(orientation.normal) < 0)
    to_mm = _MILLIMETRES.get(header.get_xyzt_units()[0], 1.0)
    stored = (sizes[row_axis] * to_mm, sizes[column_axis] * to_mm)
    time_unit = header.get_xyzt_units()[1]
    is_ours = orientation.is_as_stored and shape[slice_axis] == 1
    intercept = header.get_slope_inter()
    spec = (shape, header.get_data_dtype(), header.get_data_offset(), *intercept)
    return NiftiHeader(
        shape=shape,
        place=((row_axis, column_axis, slice_axis), orientation, reverse),
        stored_sizes=(sizes[0], sizes[1], sizes[2]),
        pixel_mm=orientation.spacing(stored),
        slice_mm=sizes[slice_axis] * to_mm,
        phase_step=(zooms[3] if len(zooms) > 3 else 0.0) * _SECONDS.get(time_unit, 1.0),
        time_unit=time_unit,
        heart_mm=_heart_mm(start, header) if is_ours else None,
        proxy=ArrayProxy(file, spec),
    )


def _affine(header: Any, zooms: list[float]) -> NDArray[np.float64] | None:
    """Return where the header says that the voxels lie, None where it says nothing.

    ACDC's sform lost the sizes that its qform and zooms still have: one of 1 x 1 x 1 mm is not
    believed against other zooms.
    """
    sform: NDArray[np.float64] | None = header.get_sform(coded=True)[0]
    if sform is not None:
        lost = bool(np.allclose(voxel_sizes(sform), 1.0)) and not np.allclose(zooms[:3], 1.0)
        if not lost:
            return sform
    qform: NDArray[np.float64] | None = header.get_qform(coded=True)[0]
    return qform


def _slice_axis(shape: tuple[int, ...], sizes: list[float]) -> int:
    """Return the axis of fewest voxels if it is single or the thickest, else the third.

    Scanners take fewer slices than pixels, and thicker ones.
    """
    fewest = min(range(2, -1, -1), key=lambda axis: shape[axis])
    if shape[fewest] == 1 or sizes[fewest] >= 0.999 * max(sizes):
        return fewest
    return 2


def _heart_mm(start: bytes, header: Any) -> tuple[float, float] | None:
    """Return the heart's centre from our extension, None where there is none to be believed."""
    order: Literal["little", "big"] = "little" if header.endianness == "<" else "big"
    at = int(header.sizeof_hdr)
    if start[at : at + 1] != b"\1":
        return None
    at += 4
    while at + 8 <= len(start):
        size = int.from_bytes(start[at : at + 4], order, signed=True)
        code = int.from_bytes(start[at + 4 : at + 8], order)
        if size < 16:
            return None
        if code == COMMENT:
            found = _parse_heart(start[at + 8 : at + size])
            if found is not None:
                return found
        at += size
    return None


def _parse_heart(text: bytes) -> tuple[float, float] | None:
    try:
        facts = json.loads(text.rstrip(b"\0 "))
    except (ValueError, RecursionError):  # somebody else's comment
        return None
    pair = facts.get(HEART_KEY) if isinstance(facts, dict) else None
    if not (isinstance(pair, list) and len(pair) == 2):
        return None
    if not all(isinstance(v, int | float) and isfinite(v) and 0 <= v <= 2000 for v in pair):
        return None
    return float(pair[0]), float(pair[1])
