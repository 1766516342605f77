"""The two imaged planes, and the exact masks of the chambers in any plane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cardionets_core.cohort.conduction import sample_surface
from cardionets_core.cohort.geometry import Floats, Geometry
from cardionets_core.cohort.motion import Motion

LV, MYOCARDIUM, RV = 1, 2, 3
"""Labels of `ventricle_masks`."""


@dataclass(frozen=True)
class Plane:
    """A square image in the patient frame (LPS, mm).

    Attributes:
        centre: middle of the image [3].
        across: unit vector along a row, towards higher columns [3].
        down: unit vector along a column, towards higher rows [3].
        pixel_mm: pixel size.
        size: pixels per side.
        thickness_mm: slice thickness.
    """

    centre: Floats
    across: Floats
    down: Floats
    pixel_mm: float
    size: int
    thickness_mm: float

    def points(self) -> Floats:
        """Positions of all pixels, row by row [size * size, 3]."""
        steps = (np.arange(self.size) - (self.size - 1) / 2) * self.pixel_mm
        rows, columns = np.meshgrid(steps, steps, indexing="ij")
        return np.asarray(
            self.centre + rows.reshape(-1, 1) * self.down + columns.reshape(-1, 1) * self.across
        )

    def affine(self) -> Floats:
        """NIfTI affine [4, 4] from (column, row, 0) to scanner RAS mm."""
        corner = self.centre - (self.size - 1) / 2 * self.pixel_mm * (self.across + self.down)
        lps = np.eye(4)
        lps[:3, 0] = self.across * self.pixel_mm
        lps[:3, 1] = self.down * self.pixel_mm
        lps[:3, 2] = np.cross(self.across, self.down) * self.thickness_mm
        lps[:3, 3] = corner
        return np.asarray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps)


def short_axis_plane(
    geometry: Geometry, rng: np.random.Generator, pixel_mm: float, size: int
) -> Plane:
    """The mid-ventricular short axis, as a radiographer would roughly place it."""
    depth = 0.45 * geometry.length_mm + rng.normal(0, 2.0)
    return short_axis_at(geometry, depth, rng.normal(0, 1.2, 2), pixel_mm=pixel_mm, size=size)


def short_axis_at(
    geometry: Geometry, depth_mm: float, shift_mm: Floats, *, pixel_mm: float, size: int
) -> Plane:
    """A short axis `depth_mm` below the valve plane; the right ventricle lies to the left."""
    along, septal, anterior = geometry.axes
    centre = geometry.base + along * depth_mm + septal * (14 + shift_mm[0]) + anterior * shift_mm[1]
    return Plane(centre, -septal, -anterior, pixel_mm, size, 8.0)


def four_chamber_plane(
    geometry: Geometry, rng: np.random.Generator, pixel_mm: float, size: int
) -> Plane:
    """The four-chamber view: apex up, right heart to the left."""
    along, septal, anterior = geometry.axes
    tilt = np.deg2rad(-14 + rng.normal(0, 4))
    sideways = np.cos(tilt) * septal + np.sin(tilt) * anterior
    centre = geometry.base + along * 0.22 * geometry.length_mm + sideways * 14
    return Plane(centre, -sideways, -along, 1.15 * pixel_mm, size, 6.0)


def ventricle_masks(
    geometry: Geometry, motion: Motion, plane: Plane, phase: int
) -> NDArray[np.uint8]:
    """Exact labels of the ventricles in a plane at one phase [size, size]."""
    along, septal, anterior = ((plane.points() - geometry.base) @ geometry.axes.T).T
    length, squeezed = geometry.length_mm, motion.shortening[phase]
    depth = length - (length - along) / squeezed
    across = np.hypot(septal, anterior)
    radius = np.hypot(depth - geometry.valve_mm, across)
    theta = np.arccos(np.clip((depth - geometry.valve_mm) / np.maximum(radius, 1e-6), -1, 1))
    phi = np.arctan2(anterior, septal)
    surfaces = (motion.endo, motion.epi, motion.rv)
    endo, epi, rv = (sample_surface(surface[phase], theta, phi) for surface in surfaces)
    labels = np.select([radius < endo, radius < epi, radius < rv], [LV, MYOCARDIUM, RV], 0)
    return np.where(depth > 0, labels, 0).astype(np.uint8).reshape(plane.size, plane.size)
