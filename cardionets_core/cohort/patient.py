"""One virtual patient from a seed: table, ECG and cines, all from the same heart."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from cardionets_core.cohort.conduction import Activation, activate
from cardionets_core.cohort.electrics import beat
from cardionets_core.cohort.geometry import Geometry, build_geometry
from cardionets_core.cohort.heart import Heart, draw_heart, draw_heart_with
from cardionets_core.cohort.imaging import take_cine
from cardionets_core.cohort.motion import Motion, move
from cardionets_core.cohort.nuisance import Nuisance, draw_nuisance
from cardionets_core.cohort.phenotypes import measure
from cardionets_core.cohort.planes import Plane, four_chamber_plane, short_axis_plane
from cardionets_core.cohort.recording import record
from cardionets_core.cohort.sites import SitePreset

IMAGE_SIZE, PHASES = 96, 10


@dataclass(frozen=True)
class Streams:
    """Independent generators of one patient; each draws for its own purpose only."""

    heart: np.random.Generator
    nuisance: np.random.Generator
    recording: np.random.Generator
    imaging: np.random.Generator
    files: np.random.Generator


@dataclass(frozen=True)
class Cine:
    """A cine as the scanner gives it: magnitude float32 [phases, rows, columns] in its plane."""

    frames: NDArray[np.float32]
    plane: Plane
    phase_s: float


@dataclass(frozen=True)
class VirtualPatient:
    """Everything that is known about one patient.

    Attributes:
        heart: what was drawn.
        nuisance: ECG-only variation.
        geometry: surfaces at end-diastole.
        activation: activation times.
        motion: surfaces over the cycle.
        phenotypes: the 82 numbers by name.
        ecg: mV [12, samples] at the device's rate.
        cines: by view; empty without CMR.
    """

    heart: Heart
    nuisance: Nuisance
    geometry: Geometry
    activation: Activation
    motion: Motion
    phenotypes: dict[str, float]
    ecg: NDArray[np.float32]
    cines: dict[str, Cine]


def open_streams(preset: SitePreset, seed: int, index: int) -> Streams:
    """Generators of patient `index` (from 0): a function of site, seed and index alone."""
    sequence = np.random.SeedSequence([seed, crc32(preset.name.encode()), index])
    return Streams(*(np.random.Generator(np.random.PCG64(child)) for child in sequence.spawn(5)))


def simulate_patient(
    preset: SitePreset,
    streams: Streams,
    *,
    with_cmr: bool = True,
    diagnosis: str | None = None,
) -> VirtualPatient:
    """Simulate one patient of a site.

    Args:
        preset: the site.
        streams: the patient's generators.
        with_cmr: whether to image; table and ECG do not depend on it.
        diagnosis: fix the main diagnosis instead of drawing it from the case mix.
    """
    if diagnosis is None:
        heart = draw_heart(streams.heart, preset)
    else:
        heart = draw_heart_with(streams.heart, diagnosis)
    return simulate_heart(heart, preset, streams, with_cmr=with_cmr)


def simulate_heart(
    heart: Heart, preset: SitePreset, streams: Streams, *, with_cmr: bool = True
) -> VirtualPatient:
    """Simulate everything that follows from one heart."""
    nuisance = draw_nuisance(streams.nuisance, heart)
    geometry = build_geometry(heart)
    activation = activate(heart, nuisance, geometry)
    motion = move(heart, geometry, activation, PHASES)
    poses = beat(heart, nuisance, geometry, activation)
    return VirtualPatient(
        heart=heart,
        nuisance=nuisance,
        geometry=geometry,
        activation=activation,
        motion=motion,
        phenotypes=measure(heart, geometry, motion),
        ecg=record(heart, nuisance, poses, preset.device, streams.recording),
        cines=_image(heart, geometry, motion, preset, streams.imaging) if with_cmr else {},
    )


def _image(
    heart: Heart,
    geometry: Geometry,
    motion: Motion,
    preset: SitePreset,
    rng: np.random.Generator,
) -> dict[str, Cine]:
    """Both cines of the vocabulary's views."""
    scanner, cines = preset.scanner, {}
    for view, place in (("4ch", four_chamber_plane), ("sax", short_axis_plane)):
        plane = place(geometry, rng, scanner.pixel_mm, IMAGE_SIZE)
        frames = take_cine(heart, geometry, motion, plane, scanner=scanner, rng=rng)
        cines[view] = Cine(frames, plane, motion.phase_s)
    return cines
