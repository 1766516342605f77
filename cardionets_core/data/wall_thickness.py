"""Thickness of the left ventricle's wall in the masks of a short-axis stack at end-diastole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

LEVEL_SEGMENTS = (6, 6, 4)
"""AHA segments of the basal, the mid-cavity and the apical level."""

RAYS = 360
SEPTUM_REACH_MM = 4.0
"""The wall is septum where the right ventricle begins within this distance behind it."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class WallStack:
    """What is known of the wall at end-diastole.

    Attributes:
        cavity, wall, right: left ventricle, its myocardium, right ventricle; bool [slices, h, w].
        pixel_mm: height and width of a pixel.
        right_handed: see `mask_phenotypes.phenotypes_of_masks`.
    """

    cavity: Mask
    wall: Mask
    right: Mask
    pixel_mm: tuple[float, float]
    right_handed: bool | None


@dataclass(frozen=True, eq=False)
class _Ring:
    """One slice along `RAYS` rays from the middle of the cavity, turning from +column to +row.

    Attributes:
        thickness: mm across the wall [RAYS].
        septum: where the right ventricle lies behind the wall [RAYS].
    """

    thickness: NDArray[np.float64]
    septum: Mask


def wall_thickness(stack: WallStack) -> dict[str, float]:
    """Return `wt_1` to `wt_16` where they can be numbered, and `wt_global`.

    Slices count where the wall goes all the way round a cavity (Cerqueira et al.); thirds of them,
    from the base, are the levels. The middle of the septum, between both insertions of the right
    ventricle, is the border between segments 2 and 3, and the middle of segment 14.
    """
    toward_apex = _toward_apex(stack)
    rings = [
        ring
        for k in range(len(stack.cavity))
        if (ring := _ring(stack.cavity[k], stack.wall[k], stack.right[k], stack.pixel_mm))
    ][:: toward_apex or 1]
    if toward_apex == 0 or len(rings) < len(LEVEL_SEGMENTS):
        return {}
    level = np.arange(len(rings)) * 3 // len(rings)
    levels = [
        np.mean([r.thickness for r, at in zip(rings, level, strict=True) if at == k], axis=0)
        for k in range(3)
    ]
    weights = np.array(LEVEL_SEGMENTS) / sum(LEVEL_SEGMENTS)
    values = {"wt_global": float(sum(w * t.mean() for w, t in zip(weights, levels, strict=True)))}
    septum = _mean_angle(np.sum([ring.septum for ring in rings], axis=0))
    if septum is None or stack.right_handed is None:
        return values
    turn = 1 if stack.right_handed == (toward_apex > 0) else -1
    return _segments(levels, septum, turn) | values


def _toward_apex(stack: WallStack) -> int:
    """Return 1 where slices go from base to apex, -1 where from apex to base, 0 where unclear."""
    area = (stack.cavity | stack.wall).sum(axis=(1, 2)).astype(np.float64)
    inside = np.flatnonzero(area)
    slope = np.corrcoef(inside, area[inside])[0, 1] if np.ptp(area[inside]) > 0 else 0.0
    return 0 if abs(slope) < 0.3 else int(-np.sign(slope))


def _ring(cavity: Mask, wall: Mask, right: Mask, pixel_mm: tuple[float, float]) -> _Ring | None:
    """Measure one slice; None where there is no cavity or the wall does not close around it."""
    if not cavity.any() or not wall.any():
        return None
    middle = np.array(ndimage.center_of_mass(cavity))
    if not cavity[tuple(np.rint(middle).astype(int))]:
        return None
    farthest = np.hypot(*((np.argwhere(wall) - middle) * pixel_mm).T).max()
    step = 0.2 * min(pixel_mm)
    reach = np.arange(step / 2, farthest + max(pixel_mm) + SEPTUM_REACH_MM, step)
    angle = np.arange(RAYS) * 2 * np.pi / RAYS
    at = np.stack(
        [
            middle[0] + np.outer(np.sin(angle), reach) / pixel_mm[0],
            middle[1] + np.outer(np.cos(angle), reach) / pixel_mm[1],
        ]
    )
    inner, ring, behind = (
        ndimage.map_coordinates(part.astype(np.float64), at, order=1)
        for part in (cavity, wall, right)
    )
    radial = ring.sum(axis=1) * step
    if radial.min() < 0.5 * min(pixel_mm):
        return None
    outer = (reach[None] * (ring >= 0.5)).max(axis=1)
    near = (reach[None] > outer[:, None]) & (reach[None] < outer[:, None] + SEPTUM_REACH_MM)
    septum = ((behind >= 0.5) & near).any(axis=1)
    return _Ring(radial * _obliquity(inner.sum(axis=1) * step + radial / 2), septum)


def _obliquity(radius: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cosine between the rays and the normals of the closed curve `radius` [RAYS].

    Only its four slowest harmonics count: the steps of pixels have normals of their own.
    """
    spectrum = np.fft.rfft(radius)
    spectrum[5:] = 0
    smooth = np.fft.irfft(spectrum, RAYS)
    slope = np.fft.irfft(spectrum * 1j * np.arange(len(spectrum)), RAYS)
    return np.asarray(smooth / np.hypot(smooth, slope), dtype=np.float64)


def _mean_angle(weights: NDArray[np.float64]) -> float | None:
    """Return the mean direction of weighted rays in radians; None where there is none."""
    vector = np.fft.rfft(weights)[1].conjugate()
    return float(np.angle(vector)) if abs(vector) > 1e-6 else None


def _segments(levels: list[NDArray[np.float64]], septum: float, turn: int) -> dict[str, float]:
    """Return `wt_1` to `wt_16`.

    Args:
        levels: thickness along the rays of base, middle and apex.
        septum: angle of the middle of the septum, turning from +column to +row.
        turn: 1 where the angles go from the anterior wall to the septum, -1 where the other way.
    """
    ray = np.arange(RAYS) * 2 * np.pi / RAYS
    values: dict[str, float] = {}
    for thickness, count in zip(levels, LEVEL_SEGMENTS, strict=True):
        width = 2 * np.pi / count
        # 1 and 13 are anterior: two segments before the middle of the septum at six, one and a
        # half at four, so that the septum lies between 2 and 3, and in the middle of 14
        first = 2 * width if count == 6 else 1.5 * width
        place = np.mod(turn * (ray - septum) + first, 2 * np.pi)
        segment = np.minimum(place // width, count - 1)
        for k in range(count):
            values[f"wt_{len(values) + 1}"] = float(thickness[segment == k].mean())
    return values
