"""How bright each tissue is in a balanced steady-state image, and the torso around the heart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from cardionets_core.cohort.geometry import Geometry
from cardionets_core.cohort.heart import Heart
from cardionets_core.cohort.sites import Scanner

Image = NDArray[np.float32]

_TISSUES: dict[float, dict[str, tuple[float, float, float]]] = {
    1.5: {
        "blood": (1480, 240, 1.10),
        "myocardium": (1000, 47, 0.86),
        "fat": (300, 80, 0.80),
        "lung": (1100, 30, 0.17),
        "liver": (590, 46, 0.85),
        "muscle": (900, 38, 0.82),
        "bone": (500, 55, 0.45),
        "rib": (700, 30, 0.30),
    },
    3.0: {
        "blood": (1820, 190, 1.12),
        "myocardium": (1180, 44, 0.86),
        "fat": (370, 75, 0.80),
        "lung": (1250, 26, 0.15),
        "liver": (800, 38, 0.85),
        "muscle": (1050, 34, 0.82),
        "bone": (560, 50, 0.45),
        "rib": (800, 28, 0.30),
    },
}
"""T1 ms, T2 ms, proton density at each field strength (Stanisz et al., MRM 54:507, 2005; Bojorquez
et al., MRI 35:69, 2017)."""
_REPETITION_MS = 3.0


def steady_state_signals(scanner: Scanner) -> dict[str, float]:
    """Signal of each tissue in bSSFP (Bernstein, Handbook of MRI Pulse Sequences, 14.1)."""
    angle = np.deg2rad(scanner.flip_deg)
    signals = {}
    for name, (t1, t2, density) in _TISSUES[scanner.field_t].items():
        e1, e2 = np.exp(-_REPETITION_MS / t1), np.exp(-_REPETITION_MS / t2)
        steady = (1 - e1) / (1 - (e1 - e2) * np.cos(angle) - e1 * e2)
        echo = np.exp(-_REPETITION_MS / 2 / t2)
        signals[name] = float(density * np.sin(angle) * steady * echo)
    return signals


def edge(distance: Image, width: float | Image) -> Image:
    """1 inside (negative distance), 0 outside, a straight ramp of `width` mm between."""
    return np.asarray(np.clip(np.float32(0.5) - distance / width, 0, 1))


def textures(rng: np.random.Generator, scales: tuple[float, ...], size: int) -> Image:
    """Smooth random fields of unit spread, one per scale in pixels [scales, size * size]."""
    white = rng.standard_normal((len(scales), size, size), dtype=np.float32)
    down, across = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    square = (down**2 + across**2).astype(np.float32)
    sigma = np.array(scales, np.float32)[:, None, None]
    spectrum = fft.rfft2(white) * (np.exp(-2 * np.pi**2 * sigma**2 * square) * sigma * 3.5)
    return np.asarray(fft.irfft2(spectrum, s=(size, size)).reshape(len(scales), -1))


@dataclass(frozen=True)
class Background:
    """The torso without heart and aorta, pixel by pixel, row by row.

    Attributes:
        water: signal of water [pixels].
        fat: signal of fat [pixels].
        aorta_mm: distance from the axis of the descending aorta [pixels].
        inside: share of the pixel within the chest [pixels].
    """

    water: Image
    fat: Image
    aorta_mm: Image
    inside: Image


def paint_torso(
    heart: Heart,
    geometry: Geometry,
    signals: dict[str, float],
    points: Image,
    rng: np.random.Generator,
) -> Background:
    """Paint chest wall, lungs, mediastinum, fat, liver, stomach and spine at `points` [n, 3]."""
    size = round(len(points) ** 0.5)
    grain = textures(rng, (2.0, 3.0, 1.4, 2.5, 1.5, 1.3, 2.5, 2.0, 2.0), size)
    chest = _Chest(heart, geometry, points)
    wall = _chest_wall(chest, signals, grain[0])
    lung = signals["lung"] * (1 + 0.22 * grain[1])
    lung = lung + np.clip(grain[2] - 1.0, 0, 1) * signals["blood"] * 0.30
    water = lung * (1 - chest.mediastinum) + chest.mediastinum * signals["muscle"] * 0.9
    fat = chest.fat_pad * (1 - chest.below) * signals["fat"] * (0.62 + 0.10 * grain[3])
    water = water * (1 - chest.fat_pad) * (1 - chest.below)
    water = water + chest.below * _abdomen(chest, signals, grain[4:7])
    spine = edge(np.hypot(chest.x / 22, (chest.y - chest.depth + 52) / 19) * 20 - 20, 2.2)
    water = water * (1 - spine) + spine * signals["bone"] * (1 + 0.2 * grain[7])
    skin = (chest.body - chest.muscle) * signals["fat"] * (1 + 0.06 * grain[8])
    return Background(
        water=wall + chest.cavity * water,
        fat=skin + chest.cavity * fat * (1 - spine),
        aorta_mm=np.hypot(chest.x - 26, chest.y - chest.depth + 74),
        inside=chest.cavity,
    )


class _Chest:
    """Shapes of the torso at the pixels: each is a share 0..1 of the pixel [n]."""

    def __init__(self, heart: Heart, geometry: Geometry, points: Image) -> None:
        torso = heart.torso
        self.x, self.y, self.z = points.T
        self.width, self.depth = torso.half_width_mm, torso.half_depth_mm
        self.wall_mm = torso.wall_mm
        self.body = edge(self.to_ellipse(0), 2.2)
        self.muscle = edge(self.to_ellipse(torso.fat_mm), 2.2)
        self.cavity = edge(self.to_ellipse(torso.wall_mm), 2.2)
        behind = (self.y - self.depth * 0.30) / (self.depth * 0.48)
        self.mediastinum = edge(np.hypot((self.x - 4) / 40, behind) * 30 - 30, 10)
        axes, base = geometry.axes.astype(np.float32), geometry.base.astype(np.float32)
        along, septal, anterior = ((points - base) @ axes.T).T
        dome = geometry.lowest_mm - 3 - 0.0016 * (along - 40) ** 2 - 0.0011 * (septal - 15) ** 2
        self.below = edge(anterior - dome, 4)
        plenty = float(np.clip(0.75 + 0.045 * (heart.person.bmi - 22), 0.6, 1.5))
        length = geometry.length_mm
        pad = ((along - 0.42 * length) / (0.62 * length * plenty**0.3)) ** 2
        pad = pad + ((septal - 38) ** 2) / (40 * plenty) ** 2
        pad = pad + ((anterior - 6) ** 2) / (36 * plenty) ** 2
        self.fat_pad = edge(np.sqrt(pad) * 40 - 40, 7)

    def to_ellipse(self, inset_mm: float) -> Image:
        """Roughly the distance in mm to the chest's ellipse moved inwards by `inset_mm`."""
        width, depth = self.width - inset_mm, self.depth - inset_mm
        return np.asarray((np.hypot(self.x / width, self.y / depth) - 1) * min(width, depth))


def _chest_wall(chest: _Chest, signals: dict[str, float], grain: Image) -> Image:
    """Muscle with ribs that run downwards to the front."""
    wall = chest.muscle - chest.cavity
    muscle = wall * signals["muscle"] * (1 + 0.12 * grain)
    across = np.abs((chest.z + 8 + 0.25 * chest.y) % 30 - 15) - 5
    deep = np.abs(chest.to_ellipse(chest.wall_mm - 7)) - 4
    rib = edge(across, 3) * np.clip(wall, 0, 1) * edge(deep, 3)
    return np.asarray(muscle * (1 - rib) + rib * signals["rib"])


def _abdomen(chest: _Chest, signals: dict[str, float], grain: Image) -> Image:
    """Liver with vessels, and the stomach to the left of it."""
    liver = signals["liver"] * (1 + 0.07 * grain[0])
    liver = liver + signals["blood"] * 0.5 * np.clip(grain[1] - 1.15, 0, 1)
    stomach = edge(np.hypot((chest.x - 75) / 45, (chest.y - 5) / 40) * 40 - 40, 8)
    return np.asarray(liver * (1 - stomach) + stomach * signals["muscle"] * (1 + 0.5 * grain[2]))
