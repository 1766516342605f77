"""Phenotypes measured on the segmentation masks of a short-axis stack.

Volumes are sums of areas times the distance between slices (Simpson's rule as the SCMR uses it:
Schulz-Menger et al., J Cardiovasc Magn Reson 2020;22:19), mass is the volume of the myocardium at
end-diastole times 1.05 g/mL. Whether papillary muscles count as cavity is as the masks have it.
Wall thickness follows the levels and segments of Cerqueira et al., Circulation 2002;105:539; it is
measured across the wall in the plane of the slice, which near the apex is more than across the wall
in space.

Only what a stack can show is returned: see `phenotypes_of_masks` for what is left out and why.
Strain is never returned: the masks of two phases do not say which piece of the wall went where
(the heart twists and moves through the slices), and UK Biobank's strain comes from motion tracking.

Checked against: ellipsoids and shells of known volume and thickness, scipy and skimage, contours
of the Sunnybrook data, and ACDC's volumes as Khened et al. (Med Image Anal 2019;51:21) published
them, rebuilt voxel for voxel. The files of ACDC themselves were not at hand when this was written:
the test that reads them runs where CARDIONETS_ACDC names their folder.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cardionets_core.data.cmr import CYCLE_S, MAX_VOXELS, PIXEL_MM
from cardionets_core.data.refusal import RecordRefused

MYOCARDIUM_G_PER_ML = 1.05

SLICE_MM = (1.0, 25.0)
"""Distances between slices, gaps included, that are believed."""

LEAST_LENGTH_MM = 40.0
"""A stack in which the left ventricle is shorter at end-diastole shows only a part of it: an
adult's is 70 to 110 mm long."""

MOST_BARE_SLICES = 0.25
"""Share of the slices with cavity at end-diastole that may have no myocardium (at the valves)."""

LEVEL_SEGMENTS = (6, 6, 4)
"""AHA segments of the basal, the mid-cavity and the apical level."""

RAYS = 360
SEPTUM_REACH_MM = 4.0
"""The wall is septum where the right ventricle begins within this distance behind it."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class MaskLabels:
    """The values of the structures in a mask; None for one that was not outlined.

    Attributes:
        lv: cavity of the left ventricle.
        myo: its myocardium.
        rv: cavity of the right ventricle.
    """

    lv: int | None
    myo: int | None
    rv: int | None


def phenotypes_of_masks(
    masks: NDArray[np.uint8],
    *,
    labels: MaskLabels,
    pixel_mm: tuple[float, float],
    slice_mm: float,
    cycle_s: float | None = None,
    right_handed: bool | None = None,
) -> dict[str, float]:
    """Return the phenotypes of `vocabulary.PHENOTYPE_NAMES` that the masks can show.

    End-diastole is the phase with the largest left ventricle, end-systole the one with the
    smallest; phases without any left ventricle were not outlined and do not count.

    Nothing is returned where there is no cavity of the left ventricle, where fewer than two phases
    differ, where the stack shows less than 40 mm of it or misses slices inside it, or where it
    touches the border of the image. The right ventricle is left out where it is missing at one of
    both phases, cut off, or does not get smaller; mass and wall where the myocardium is cut off or
    missing in more than a quarter of the slices; the output where the cycle is unknown.

    Args:
        masks: whole numbers [phases, slices, h, w].
        labels: which number is what.
        pixel_mm: height and width of a pixel.
        slice_mm: distance between the middles of two slices: thickness and gap together.
        cycle_s: duration of the cardiac cycle.
        right_handed: whether the directions of columns, rows and slices of the array form a
            right-handed triple in the patient (the determinant of the affine of (x, y, slice) is
            positive); None where the file does not know. Without it a wall seen from the apex
            cannot be told from its mirror image, and only its global thickness is returned.

    Raises:
        RecordRefused: `image_shape`, `image_type` or `spacing`.
    """
    _check(masks, pixel_mm, slice_mm)
    cavity = _of(masks, labels.lv)
    volumes = volumes_ml(cavity, pixel_mm, slice_mm)
    outlined = np.flatnonzero(volumes > 0)
    if len(outlined) < 2:
        return {}
    ends = (
        int(outlined[volumes[outlined].argmax()]),
        int(outlined[volumes[outlined].argmin()]),
    )
    if volumes[ends[1]] >= volumes[ends[0]] or not _is_whole(cavity[list(ends)], slice_mm):
        return {}
    values = _ventricle("lv", volumes[ends[0]], volumes[ends[1]])
    if cycle_s is not None and CYCLE_S[0] <= cycle_s <= CYCLE_S[1]:
        values["lv_co"] = values["lv_sv"] * (60.0 / cycle_s) / 1000.0
    right = _of(masks, labels.rv)[list(ends)]
    values |= _right_ventricle(right, pixel_mm, slice_mm)
    wall = _of(masks, labels.myo)[ends[0]]
    if _is_whole_wall(wall, cavity[ends[0]]):
        values["lv_mass"] = MYOCARDIUM_G_PER_ML * float(
            volumes_ml(wall[None], pixel_mm, slice_mm)[0]
        )
        stack = _Stack(cavity[ends[0]], wall, right[0], pixel_mm, right_handed)
        values |= _wall_thickness(stack)
    return values


def volumes_ml(
    structure: Mask, pixel_mm: tuple[float, float], slice_mm: float
) -> NDArray[np.float64]:
    """Return the volume at each phase in mL: the sum of areas times the distance of slices.

    Args:
        structure: bool [phases, slices, h, w].
        pixel_mm: height and width of a pixel.
        slice_mm: distance between the middles of two slices.
    """
    voxel_ml = pixel_mm[0] * pixel_mm[1] * slice_mm / 1000.0
    counts = np.count_nonzero(structure, axis=(1, 2, 3))
    return np.asarray(counts * voxel_ml, dtype=np.float64)


def _check(masks: NDArray[np.uint8], pixel_mm: tuple[float, float], slice_mm: float) -> None:
    if masks.ndim != 4 or 0 in masks.shape:
        raise RecordRefused("image_shape", f"{masks.ndim} axes")
    if masks.dtype.kind not in "iu":
        raise RecordRefused("image_type")
    if masks.size > MAX_VOXELS:
        raise RecordRefused("too_large", "x".join(map(str, masks.shape)))
    if not all(PIXEL_MM[0] <= size <= PIXEL_MM[1] for size in pixel_mm):
        raise RecordRefused("spacing", f"{pixel_mm[0]:.3g} x {pixel_mm[1]:.3g} mm")
    if not SLICE_MM[0] <= slice_mm <= SLICE_MM[1]:
        raise RecordRefused("spacing", f"{slice_mm:.3g} mm between slices")


def _of(masks: NDArray[np.uint8], label: int | None) -> Mask:
    return np.zeros(masks.shape, bool) if label is None else masks == label


def _is_whole(structure: Mask, slice_mm: float) -> bool:
    """Whether [2, slices, h, w] is long enough at end-diastole, without a hole, and not cut off."""
    length = np.count_nonzero(structure[0].any(axis=(1, 2))) * slice_mm
    return bool(length >= LEAST_LENGTH_MM) and all(_is_uncut(phase) for phase in structure)


def _is_uncut(structure: Mask) -> bool:
    """Whether [slices, h, w] has no empty slice inside it and stays off the image's border."""
    inside = np.flatnonzero(structure.any(axis=(1, 2)))
    if len(inside) == 0 or len(inside) != inside[-1] - inside[0] + 1:
        return False
    border = (structure[:, 0], structure[:, -1], structure[:, :, 0], structure[:, :, -1])
    return not any(edge.any() for edge in border)


def _is_whole_wall(wall: Mask, cavity: Mask) -> bool:
    has_cavity = cavity.any(axis=(1, 2))
    bare = np.count_nonzero(has_cavity & ~wall.any(axis=(1, 2)))
    return _is_uncut(wall) and bool(bare <= MOST_BARE_SLICES * np.count_nonzero(has_cavity))


def _ventricle(short: str, largest: float, smallest: float) -> dict[str, float]:
    """Volumes in mL and the ejection fraction in percent."""
    return {
        f"{short}_edv": float(largest),
        f"{short}_esv": float(smallest),
        f"{short}_sv": float(largest - smallest),
        f"{short}_ef": float(100.0 * (largest - smallest) / largest),
    }


def _right_ventricle(
    structure: Mask, pixel_mm: tuple[float, float], slice_mm: float
) -> dict[str, float]:
    """Volumes at the phases that the left ventricle gives; {} where they cannot be known."""
    if not all(_is_uncut(phase) for phase in structure):
        return {}
    diastole, systole = volumes_ml(structure, pixel_mm, slice_mm)
    return _ventricle("rv", diastole, systole) if systole < diastole else {}


# ---------------------------------------------------------------------------------- the wall


@dataclass(frozen=True, eq=False)
class _Stack:
    """The structures at end-diastole, each bool [slices, h, w]."""

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


def _wall_thickness(stack: _Stack) -> dict[str, float]:
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


def _toward_apex(stack: _Stack) -> int:
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
