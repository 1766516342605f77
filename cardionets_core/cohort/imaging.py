"""A cine of one plane: the moving surfaces painted into the torso, then scanned.

Tissue borders are ramps as wide as pixel and slice make them (partial volume); the scanner adds
coil fall-off, banding at 3 T, limited resolution and Rician noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import maximum_filter

from cardionets_core.cohort.geometry import PHI_COLUMNS, THETA_ROWS, Floats, Geometry
from cardionets_core.cohort.heart import Heart
from cardionets_core.cohort.motion import Motion
from cardionets_core.cohort.planes import Plane
from cardionets_core.cohort.sites import Scanner
from cardionets_core.cohort.tissue import (
    Background,
    Image,
    edge,
    paint_torso,
    steady_state_signals,
    textures,
)

_SEPTUM, _LATERAL, _EQUATOR = 0, PHI_COLUMNS // 2, 22


def take_cine(
    heart: Heart,
    geometry: Geometry,
    motion: Motion,
    plane: Plane,
    *,
    scanner: Scanner,
    rng: np.random.Generator,
) -> Image:
    """Scan one plane: magnitude images of arbitrary scale, float32 [phases, size, size]."""
    signals = steady_state_signals(scanner)
    points = plane.points().astype(np.float32)
    torso = paint_torso(heart, geometry, signals, points, rng)
    grain = textures(rng, (1.2, 0.8), plane.size)
    pixels = _heart_pixels(heart, geometry, motion, plane, points)
    water, fat = _static_frames(torso, motion, signals)
    inks = _Inks(
        blood=signals["blood"] * (1 + 0.07 * grain[0][pixels.place]),
        muscle=signals["myocardium"] * (1 + 0.035 * grain[0][pixels.place]),
        trabeculae=0.79 * grain[1][pixels.place],
        fat=signals["fat"],
    )
    _paint_heart(heart, geometry, motion, pixels, inks, (water, fat))
    clean = np.abs(water - fat)  # opposed phase: borders of fat and water go dark
    return _scan(clean.reshape(-1, plane.size, plane.size), points, heart, scanner, rng)


@dataclass(frozen=True)
class _Inks:
    """Signal of blood and muscle with their grain, and roughness of the inner wall, each [n]."""

    blood: Image
    muscle: Image
    trabeculae: Image
    fat: float


@dataclass(frozen=True)
class _HeartPixels:
    """Pixels that the heart can reach, in its own coordinates, mm.

    Attributes:
        place: index of each pixel in the image [n].
        septal: coordinate r [n].
        anterior: coordinate a [n].
        phi: angle around the long axis [n].
        depth: stretched l relative to the centre of the radii [phases, n].
        radius: distance from that centre [phases, n].
        surfaces: endo, epi, rv, rv_outer in the pixel's direction, each [phases, n].
        blur: width of tissue borders [phases, n].
    """

    place: NDArray[np.intp]
    septal: Image
    anterior: Image
    phi: Image
    depth: Image
    radius: Image
    surfaces: tuple[Image, Image, Image, Image]
    blur: Image


def _fat_layer(heart: Heart) -> float:
    """Thickness of the fat on the heart, mm."""
    return float(2.0 + 0.26 * max(heart.person.bmi - 22, 0))


def _reach(
    heart: Heart, geometry: Geometry, motion: Motion, along: Image, across: Image, phi: Image
) -> NDArray[np.intp]:
    """Indices of the pixels that heart, atria or their fat can ever cover.

    The beating heart stays within its outline at end-diastole, but for a few mm of margin.
    """
    margin = np.float32(2.8 * _fat_layer(heart) + 8)
    widest = motion.rv_outer.max(axis=0)
    widest = maximum_filter(widest, size=(5, 3), mode=("nearest", "wrap")) + margin
    column = np.rint(phi * (PHI_COLUMNS / (2 * np.pi))).astype(np.intp) % PHI_COLUMNS
    depth = along - np.float32(geometry.valve_mm)
    row = np.arctan2(across, depth) * np.float32(THETA_ROWS / np.pi)
    row = np.minimum(row.astype(np.intp), THETA_ROWS - 1)
    inside = depth * depth + across * across < (widest[row, column] ** 2).astype(np.float32)
    largest = np.cbrt(max(motion.left_atrium.max(), motion.right_atrium.max()) * 1000 * 0.278)
    atrial = (along < margin) & (along > -1.9 * largest - 8)
    atrial &= across < (widest.max(axis=0).astype(np.float32) * 1.05)[column]
    return np.flatnonzero(atrial | (inside & (along > 0)))


def _heart_pixels(
    heart: Heart, geometry: Geometry, motion: Motion, plane: Plane, points: Image
) -> _HeartPixels:
    axes, base = geometry.axes.astype(np.float32), geometry.base.astype(np.float32)
    along, septal, anterior = ((points - base) @ axes.T).T
    phi, across = np.arctan2(anterior, septal), np.hypot(septal, anterior)
    place = _reach(heart, geometry, motion, along, across, phi)
    along, septal, anterior, phi, across = (
        values[place] for values in (along, septal, anterior, phi, across)
    )
    length = np.float32(geometry.length_mm)
    squeeze = motion.shortening.astype(np.float32)[:, None]
    depth = length - (length - along) / squeeze - np.float32(geometry.valve_mm)
    radius = np.sqrt(depth * depth + across * across)
    tilt = np.abs(np.cross(plane.across, plane.down) @ geometry.axes[0])
    slant = np.abs(depth) / np.maximum(radius, 1)
    return _HeartPixels(
        place=place,
        septal=septal,
        anterior=anterior,
        phi=phi,
        depth=depth,
        radius=radius,
        surfaces=_surfaces_at(motion, depth, radius, phi),
        blur=np.float32(1.15 * plane.pixel_mm) + np.float32(tilt * plane.thickness_mm) * slant,
    )


def _surfaces_at(
    motion: Motion, depth: Image, radius: Image, phi: Image
) -> tuple[Image, Image, Image, Image]:
    """The four surfaces in the direction of every pixel and phase, bilinear, each [phases, n]."""
    cosine = np.clip(depth / np.maximum(radius, 1e-6), -1, 1)
    x = np.arccos(cosine) * np.float32(THETA_ROWS / np.pi) - np.float32(0.5)
    x = np.clip(x, 0, np.float32(THETA_ROWS - 1.001))
    y = (phi % np.float32(2 * np.pi)) * np.float32(PHI_COLUMNS / (2 * np.pi))
    i, j = x.astype(np.int32), y.astype(np.int32)
    u, v = x - i.astype(np.float32), y - j.astype(np.float32)
    row = (np.arange(motion.phases, dtype=np.int32)[:, None] * THETA_ROWS + i) * PHI_COLUMNS
    left, right = row + j % PHI_COLUMNS, row + (j + 1) % PHI_COLUMNS
    corners = (left, right, left + PHI_COLUMNS, right + PHI_COLUMNS)
    surfaces = (motion.endo, motion.epi, motion.rv, motion.rv_outer)
    endo, epi, rv, rv_outer = (_bilinear(surface, corners, u, v) for surface in surfaces)
    return endo, epi, rv, rv_outer


def _bilinear(surface: Floats, corners: tuple[NDArray[np.int32], ...], u: Image, v: Image) -> Image:
    """Values between four corners (flat indices): v along phi, u along theta."""
    table = surface.astype(np.float32).ravel()
    a, b, c, d = (table.take(corner) for corner in corners)
    a += (b - a) * v
    c += (d - c) * v
    return np.asarray(a + (c - a) * u)


def _static_frames(
    torso: Background, motion: Motion, signals: dict[str, float]
) -> tuple[Image, Image]:
    """Torso in every phase with the pulsating descending aorta: water and fat [phases, n]."""
    water = np.repeat(torso.water[None], motion.phases, axis=0)
    fat = np.repeat(torso.fat[None], motion.phases, axis=0)
    near = np.flatnonzero(torso.aorta_mm < motion.aorta_mm.max() + 6)
    from_wall = torso.aorta_mm[near] - motion.aorta_mm.astype(np.float32)[:, None]
    lumen, vessel = edge(from_wall, 2.2), edge(from_wall - 2, 2.2)
    painted = (vessel - lumen) * signals["myocardium"] + lumen * signals["blood"]
    water[:, near] = water[:, near] * (1 - vessel) + painted
    fat[:, near] *= 1 - vessel
    return water, fat


def _paint_heart(
    heart: Heart,
    geometry: Geometry,
    motion: Motion,
    pixels: _HeartPixels,
    inks: _Inks,
    frames: tuple[Image, Image],
) -> None:
    """Paint ventricles, atria and their fat into `frames` (water, fat; [phases, n]) in place."""
    squeeze = motion.shortening.astype(np.float32)[:, None]
    below_valve = (pixels.depth + np.float32(geometry.valve_mm)) * squeeze
    ventricular = edge(-below_valve, 2.5)
    layer = _fat_thickness(heart, below_valve / squeeze, pixels.phi)
    water, fat, covered = _ventricles(pixels, inks, ventricular, layer)
    atria, atrial_wall, around = _atria(motion, pixels, below_valve, 1 - ventricular, layer)
    valves = 1 - 0.75 * np.exp(-0.5 * ((below_valve + 1.5) / 1.6) ** 2)
    water += atria * inks.blood * valves + atrial_wall * inks.muscle
    fat += around * (0.9 * inks.fat)
    visible = 1 - np.clip(covered + atria + atrial_wall + around, 0, 1)
    for frame, paint in zip(frames, (water, fat), strict=True):
        frame[:, pixels.place] = frame[:, pixels.place] * visible + paint


def _fat_thickness(heart: Heart, depth: Image, phi: Image) -> Image:
    """Epicardial fat in mm: thick in the grooves at the base and along the septum's edges."""
    at_base = 1.5 * np.exp(-0.5 * ((depth - 4) / 9) ** 2)
    at_grooves = 0.8 * np.exp(-0.5 * ((np.abs(phi) - 1.25) / 0.28) ** 2)
    return np.asarray(_fat_layer(heart) * (0.45 + at_base + at_grooves), np.float32)


def _ventricles(
    pixels: _HeartPixels, inks: _Inks, ventricular: Image, layer: Image
) -> tuple[Image, Image, Image]:
    """Water, fat and covered share of each pixel below the valve plane, each [phases, n]."""
    endo, epi, rv, outer = pixels.surfaces
    radius, blur = pixels.radius, pixels.blur
    blood, muscle = inks.blood, inks.muscle
    in_endo, in_epi, in_rv = (edge(radius - s, blur) for s in (endo, epi, rv))
    in_outer, in_fat = edge(radius - outer, blur), edge(radius - outer - layer, blur)
    left_rim = edge(radius - endo, 0.8 * blur) - edge(radius - endo + 3.2, blur)
    left_trabeculae = 0.45 * np.clip(0.5 + inks.trabeculae, 0, 1) * left_rim
    right_rim = np.clip(in_rv - edge(radius - rv + 4, blur), 0, 1)
    right_trabeculae = 0.55 * np.clip(0.3 + inks.trabeculae, 0, 1) * right_rim
    water = in_endo * (blood * (1 - left_trabeculae) + left_trabeculae * muscle)
    water += np.clip(in_epi - in_endo, 0, 1) * muscle
    right = blood * (1 - right_trabeculae) + right_trabeculae * muscle
    water += np.clip(in_rv - in_epi, 0, 1) * right
    free_wall = np.clip(in_outer - in_rv, 0, 1) * (outer - rv > 0.3)
    water += free_wall * muscle
    fat = np.clip(in_fat - in_outer, 0, 1) * (0.92 * inks.fat)
    return ventricular * water, ventricular * fat, ventricular * in_fat


def _atria(
    motion: Motion, pixels: _HeartPixels, below_valve: Image, behind: Image, layer: Image
) -> tuple[Image, Image, Image]:
    """Shares of atrial blood, atrial wall and groove fat, each [phases, n]."""
    left_mm = motion.endo[:, _EQUATOR, _LATERAL].astype(np.float32)[:, None]
    right_mm = motion.rv[:, _EQUATOR, _SEPTUM].astype(np.float32)[:, None]
    left = _atrium(pixels, below_valve, motion.left_atrium, (-0.22 * left_mm, -6.0), 1.05)
    at = left_mm + 0.40 * (right_mm - left_mm) + 6
    right = _atrium(pixels, below_valve, motion.right_atrium, (at, -8.0), 1.02)
    outer = np.clip(np.maximum(left[1], right[1]) * behind, 0, 1)
    blood = left[0] * behind
    blood = blood + np.clip((right[0] - left[1]) * behind, 0, 1)
    groove = edge(np.abs(below_valve + 3) - 6, 5) * behind * (1 - outer)
    groove = groove * edge(pixels.radius - pixels.surfaces[3] - 0.6 * layer, pixels.blur)
    return blood, np.clip(outer - blood, 0, 1), groove


def _atrium(
    pixels: _HeartPixels,
    below_valve: Image,
    volume: Floats,
    centre: tuple[Image, float],
    elongation: float,
) -> tuple[Image, Image]:
    """Lumen and lumen-with-wall of an ellipsoid that hangs on the moving valve plane."""
    size = np.cbrt(volume * 1000 * 3 / 4 / np.pi / 0.86).astype(np.float32)[:, None]
    along = below_valve / np.float32(elongation) + np.float32(0.80) * size
    across = pixels.septal - centre[0]
    up = pixels.anterior - np.float32(centre[1])
    outside = np.sqrt(along * along + across * across + up * up) - size
    width = float(pixels.blur.min()) * 1.05
    return edge(outside, width), edge(outside - 2.6, width)


def _scan(
    frames: Image, points: Image, heart: Heart, scanner: Scanner, rng: np.random.Generator
) -> Image:
    """Coil, banding, resolution and noise: [phases, size, size] -> magnitude images."""
    size = frames.shape[-1]
    deep = np.clip(points[:, 1] + heart.torso.half_depth_mm, 0, None)
    sensitivity = np.exp(-deep / scanner.coil_mm) * (1 + 0.0012 * points[:, 0] * rng.normal())
    if scanner.field_t > 2:
        shim = points @ rng.normal(0, 0.011, 3) + rng.uniform(0.9, 2.2)
        band = np.abs(np.sin(0.5 * shim)) / 0.10
        sensitivity = sensitivity * (1 - 0.75 * np.exp(-band * band))
    frames = frames * sensitivity.reshape(size, size).astype(np.float32)
    down, across = np.abs(fft.fftfreq(size)) * 2, fft.rfftfreq(size) * 2
    distance = np.maximum(down[:, None], across[None]) / scanner.resolution
    window = np.where(distance < 1, 1 - 0.35 * distance**4, 0).astype(np.float32)
    images = fft.irfft2(fft.rfft2(frames) * window, s=(size, size))
    noise = np.float32(0.8 * np.percentile(np.abs(images[0]), 97) / scanner.snr)
    real, imaginary = rng.standard_normal((2, *images.shape), dtype=np.float32) * noise
    real += images
    return np.asarray(np.sqrt(real * real + imaginary * imaginary))
