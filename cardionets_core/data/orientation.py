"""One way to look at a slice, however it was stored.

A scanner, a converter and a segmentation tool store the same slice with any of eight orders of its
two axes. One of the eight is kept: columns run towards the patient's left and, where that says
little, towards the back; the slice is seen from the feet, the front and the left, which is from
the apex. So axial slices are seen from the feet, coronal ones from the front, sagittal ones with
the front on the left, short axes with the right ventricle on the left: the field's own convention.
Pixels only change places; nothing is interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

TOWARDS_COLUMNS = np.array([1.0, 0.5, 0.0])
"""LPS: the direction in the patient that columns follow as closely as they can."""

AWAY_FROM_VIEWER = np.array([-0.25, 0.5, 1.0])
"""LPS: the side of the slice that the viewer does not stand on."""


@dataclass(frozen=True)
class Orientation:
    """How the two stored axes of a slice become rows and columns.

    Attributes:
        swap: whether the axes change places; comes first.
        flip_rows, flip_columns: whether rows, columns are then reversed.
        normal: unit vector away from the viewer (LPS), from apex to base in a short axis; zeros
            where the place of the slice in the patient is not known.
    """

    swap: bool
    flip_rows: bool
    flip_columns: bool
    normal: tuple[float, float, float]

    @property
    def is_as_stored(self) -> bool:
        """Whether nothing changes places."""
        return not (self.swap or self.flip_rows or self.flip_columns)

    def apply(self, frames: NDArray[Any]) -> NDArray[Any]:
        """Return a view of [..., rows, columns] in this orientation."""
        turned = frames.swapaxes(-1, -2) if self.swap else frames
        rows = slice(None, None, -1 if self.flip_rows else 1)
        columns = slice(None, None, -1 if self.flip_columns else 1)
        return turned[..., rows, columns]

    def spacing(self, pixel_mm: tuple[float, float]) -> tuple[float, float]:
        """Return (row, column) spacing in this orientation."""
        return (pixel_mm[1], pixel_mm[0]) if self.swap else pixel_mm


AS_STORED = Orientation(False, False, False, (0.0, 0.0, 0.0))


def canonical_orientation(rows: Vector, columns: Vector) -> Orientation:
    """Return the orientation of a slice whose stored axes run along these directions.

    Args:
        rows: patient direction (LPS, any length) in which the row number rises [3].
        columns: likewise for the column number [3].
    """
    down, across = rows / np.linalg.norm(rows), columns / np.linalg.norm(columns)
    best, found = -np.inf, AS_STORED
    for swap in (False, True):
        first, second = (across, down) if swap else (down, across)
        for flip_columns in (False, True):
            towards = -second if flip_columns else second
            normal = np.cross(towards, first)
            flip_rows = bool(normal @ AWAY_FROM_VIEWER < 0)
            score = float(towards @ TOWARDS_COLUMNS)
            if score > best + 1e-9:
                seen = -normal if flip_rows else normal
                best = score
                found = Orientation(swap, flip_rows, flip_columns, (seen[0], seen[1], seen[2]))
    return found
