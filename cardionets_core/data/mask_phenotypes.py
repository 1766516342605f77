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
of the Sunnybrook data, and the volumes that Khened et al. (Med Image Anal 2019;51:21) published for
patients of ACDC, on made-up stacks with exactly their numbers of voxels: the formula agrees. ACDC's
own masks were not at hand when this was written: the test that reads them runs where
CARDIONETS_ACDC names their folder. No reference for the thickness of real hearts was at hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cardionets_core.data.cmr import CYCLE_S, MAX_VOXELS, PIXEL_MM
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.data.wall_thickness import Mask, WallStack, wall_thickness

MYOCARDIUM_G_PER_ML = 1.05

SLICE_MM = (1.0, 25.0)
"""Distances between slices, gaps included, that are believed."""

LEAST_LENGTH_MM = 40.0
"""A stack in which the left ventricle is shorter at end-diastole shows only a part of it: an
adult's is 70 to 110 mm long."""

LEAST_SYSTOLIC_LENGTH = {"lv": 0.6, "rv": 0.5}
"""A ventricle's slices at end-systole per slice at end-diastole. Its base moves towards the apex
and slices at the apex vanish, the right ventricle's more; below this, slices were not outlined."""

LEAST_OF_NEIGHBOURS = 0.6
"""A phase whose volume is less than this share of the median of those beside it (a tenth of the
beat on both sides), or more than one over it, is badly outlined."""

FEWEST_OF_A_CINE = 10
MOST_BAD_PHASES = 0.25
"""Share of the phases of a cine that may be badly outlined; with more, none is believed."""

MOST_EJECTED = 90.0
"""Percent; beyond it the end-systolic outline is wrong."""

MOST_BARE_SLICES = 0.25
"""Share of the slices with cavity at end-diastole that may have no myocardium (at the valves)."""


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

    End-diastole is the phase with the largest left ventricle, end-systole the smallest of those
    that are long enough beside it; phases without any left ventricle were not outlined and do not
    count, nor do, in a cine, those that do not fit the phases beside them. Where no end-systole can
    be believed (too short, or more than 90 % ejected), only what end-diastole shows is returned.

    Nothing is returned where there is no cavity of the left ventricle, where fewer than two phases
    differ, where the stack shows less than 40 mm of it or misses slices inside it, or where it
    touches the border of the image. The right ventricle is left out where it is missing at one of
    both phases, cut off, does not get smaller, or does not fit the phases beside; mass and wall
    where the myocardium is cut off or missing in more than a quarter of the slices; the output
    where the cycle is unknown.

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
    ends = _ends(cavity, volumes)
    if not ends or not _is_whole(cavity[ends], slice_mm):
        return {}
    values = _ventricle("lv", *volumes[ends])
    if "lv_sv" in values and cycle_s is not None and CYCLE_S[0] <= cycle_s <= CYCLE_S[1]:
        values["lv_co"] = values["lv_sv"] * (60.0 / cycle_s) / 1000.0
    right = _of(masks, labels.rv)
    values |= _right_ventricle(right, ends, volumes_ml(right, pixel_mm, slice_mm))
    wall = _of(masks, labels.myo)[ends[0]]
    if _is_whole_wall(wall, cavity[ends[0]]):
        values["lv_mass"] = MYOCARDIUM_G_PER_ML * float(
            volumes_ml(wall[None], pixel_mm, slice_mm)[0]
        )
        stack = WallStack(cavity[ends[0]], wall, right[ends[0]], pixel_mm, right_handed)
        values |= wall_thickness(stack)
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


def _ends(cavity: Mask, volumes: NDArray[np.float64]) -> list[int]:
    """Return end-diastole and end-systole, end-diastole alone, or nothing that can be believed."""
    phases = _believed(volumes)
    if len(phases) < 2 or volumes[phases].min() >= volumes[phases].max():
        return []
    diastole = int(phases[volumes[phases].argmax()])
    lengths = _slices(cavity)
    smaller = phases[
        (volumes[phases] < volumes[diastole])
        & (lengths[phases] >= LEAST_SYSTOLIC_LENGTH["lv"] * lengths[diastole])
    ]
    return [diastole, int(smaller[volumes[smaller].argmin()])] if len(smaller) else [diastole]


def _believed(volumes: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the outlined phases; in a cine, without those that do not fit their neighbours.

    The worst goes first, because it makes the phases beside it look wrong, too.
    """
    phases = np.flatnonzero(volumes > 0)
    reach = max(1, len(phases) // 10)  # a tenth of the beat on both sides
    most = int(MOST_BAD_PHASES * len(phases))
    if len(phases) < FEWEST_OF_A_CINE or len(phases) < (1 - MOST_BAD_PHASES) * len(volumes):
        return phases  # some phases of a cine, as for ED and ES: no neighbours
    for _ in range(most + 1):
        own = volumes[phases]
        beside = [np.roll(own, k) for k in range(-reach, reach + 1) if k]
        away = np.abs(np.log(own / np.median(beside, axis=0)))
        worst = int(away.argmax())
        if away[worst] <= -np.log(LEAST_OF_NEIGHBOURS):
            return phases
        phases = np.delete(phases, worst)
    return phases[:0]


def _slices(structure: Mask) -> NDArray[np.intp]:
    """Return how many slices show it at each phase."""
    return np.asarray(np.count_nonzero(structure.any(axis=(2, 3)), axis=1), np.intp)


def _is_whole(structure: Mask, slice_mm: float) -> bool:
    """Whether [1 or 2, slices, h, w] is long at end-diastole, without a hole, and not cut off."""
    length = _slices(structure[:1])[0] * slice_mm
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


def _ventricle(short: str, largest: float, smallest: float | None = None) -> dict[str, float]:
    """Volumes in mL and the ejection fraction in percent; the first alone without a believable end.

    Args:
        short: `lv` or `rv`.
        largest: volume at end-diastole.
        smallest: volume at end-systole, None where it is unknown.
    """
    known = {f"{short}_edv": float(largest)}
    if smallest is None or (ejected := 100.0 * (largest - smallest) / largest) > MOST_EJECTED:
        return known
    return known | {
        f"{short}_esv": float(smallest),
        f"{short}_sv": float(largest - smallest),
        f"{short}_ef": float(ejected),
    }


def _right_ventricle(
    structure: Mask, ends: list[int], volumes: NDArray[np.float64]
) -> dict[str, float]:
    """Volumes at the phases that the left ventricle gives; {} where they cannot be known.

    Args:
        structure: bool [phases, slices, h, w].
        ends: end-diastole and end-systole, or end-diastole alone.
        volumes: of all phases in mL.
    """
    if not np.isin(ends, _believed(volumes)).all():
        return {}
    if not all(_is_uncut(phase) for phase in structure[ends]):
        return {}
    if len(ends) == 1 or volumes[ends[1]] >= volumes[ends[0]]:
        return {}
    diastole, systole = _slices(structure[ends])
    is_short = systole < LEAST_SYSTOLIC_LENGTH["rv"] * diastole
    return _ventricle("rv", volumes[ends[0]], None if is_short else volumes[ends[1]])
