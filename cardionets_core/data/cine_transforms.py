"""Volumes -> the arrays that a model sees, as CineSpec says."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cardionets_core.data.cmr import CineVolume
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.model_config import CineSpec

GREY_PERCENTILES = (1.0, 99.5)
"""Grey values that become 0 and 255."""

HEART_WINDOW_MM = 45.0
"""Sd of the Gaussian window in which motion is followed to the heart."""


def prepare_cine(volume: CineVolume, spec: CineSpec) -> NDArray[np.uint8]:
    """Resample a cine to the model's phases and millimetres, cut around the heart, scale to 8 bit.

    The heart's centre comes from a mask where the volume has it, else from what moves.
    Phase k of K is taken at k / K of the cycle by linear interpolation, and the cycle closes on
    itself. In the plane every output pixel is `pixel_mm` wide whatever the scanner stored.

    Returns:
        uint8 [phases, size_px, size_px]; black outside the scanned field.

    Raises:
        RecordRefused: `empty_image`.
    """
    frames = _resample_cycle(volume.frames, spec.phases)
    centre_mm = heart_centre_mm(volume) if volume.heart_mm is None else volume.heart_mm
    shape = volume.frames.shape[1:]
    rows, columns = (
        _axis_weights(shape[k], volume.pixel_mm[k], centre_mm[k], spec.size_px, spec.pixel_mm)
        for k in range(2)
    )
    crop = np.asarray(rows @ frames @ columns.T, dtype=np.float32)
    return _to_grey(crop, np.outer(rows.any(axis=1), columns.any(axis=1)))


def heart_centre_mm(volume: CineVolume) -> tuple[float, float]:
    """Return (row, column) of the heart's centre in mm from the centre of the first pixel.

    The heart is what moves: the temporal variance above its median is followed by mean shift with a
    Gaussian window, starting in the middle of the image.
    """
    motion = ndimage.gaussian_filter(
        volume.frames.var(axis=0), [4.0 / size for size in volume.pixel_mm]
    )
    rounding = 1e-9 * float(volume.frames.var())
    motion = np.maximum(motion - np.median(motion) - rounding, 0.0).astype(np.float64)
    axes = [np.arange(n) * size for n, size in zip(motion.shape, volume.pixel_mm, strict=True)]
    centre = [float(axis[-1]) / 2 for axis in axes]
    for _ in range(20):
        row_window, column_window = (
            np.exp(-0.5 * ((axis - c) / HEART_WINDOW_MM) ** 2)
            for axis, c in zip(axes, centre, strict=True)
        )
        weight = motion * np.outer(row_window, column_window)
        total = float(weight.sum())
        if total <= 0:  # nothing moves: stay in the middle
            break
        centre = [float(weight.sum(axis=1 - k) @ axes[k]) / total for k in range(2)]
    return centre[0], centre[1]


def _resample_cycle(frames: NDArray[np.float32], phases: int) -> NDArray[np.float32]:
    stored = len(frames)
    if stored == phases:
        return frames
    at = np.arange(phases) * stored / phases
    before = np.floor(at).astype(int)
    share = (at - before).astype(np.float32)[:, None, None]
    after = (before + 1) % stored
    return np.asarray(frames[before] * (1 - share) + frames[after] * share, dtype=np.float32)


def _axis_weights(
    stored: int, stored_mm: float, centre_mm: float, size: int, pixel_mm: float
) -> NDArray[np.float32]:
    """Return float32 [size, stored]: weights that resample one axis around `centre_mm`.

    A triangle as wide as the coarser of both pixels: linear interpolation when enlarging, an
    anti-aliasing average when reducing. Rows that lie outside the image are zero.
    """
    targets = centre_mm + (np.arange(size) - (size - 1) / 2) * pixel_mm
    width = max(pixel_mm, stored_mm)
    distance = np.abs(targets[:, None] - np.arange(stored) * stored_mm)
    weights = np.maximum(0.0, 1 - distance / width)
    weights[(targets < -stored_mm / 2) | (targets > (stored - 0.5) * stored_mm)] = 0.0
    total = weights.sum(axis=1, keepdims=True)
    np.divide(weights, total, out=weights, where=total > 0)
    return weights.astype(np.float32)


def _to_grey(crop: NDArray[np.float32], scanned: NDArray[np.bool_]) -> NDArray[np.uint8]:
    if not scanned.any():
        raise RecordRefused("empty_image")
    low, high = np.percentile(crop[:, scanned], GREY_PERCENTILES)
    if not high > low:
        raise RecordRefused("empty_image")
    grey = np.clip((crop - low) * (255 / (high - low)), 0, 255)
    return np.where(scanned, np.rint(grey), 0).astype(np.uint8)
