"""The cines show the heart that the table describes."""

from __future__ import annotations

import numpy as np
import pytest

from cardionets_core.cohort.patient import VirtualPatient, open_streams, simulate_patient
from cardionets_core.cohort.planes import LV, MYOCARDIUM, ventricle_masks
from cardionets_core.cohort.sites import PRESETS
from cardionets_core.cohort.tissue import edge, steady_state_signals, textures


@pytest.fixture(scope="module")
def imaged() -> list[VirtualPatient]:
    return [
        simulate_patient(PRESETS[name], open_streams(PRESETS[name], 8, k))
        for name in "ABC"
        for k in range(3)
    ]


def test_signals_are_those_of_a_steady_state_sequence() -> None:
    signals = steady_state_signals(PRESETS["A"].scanner)
    # T1 >> TR: M = sin a / (1 + cos a + (1 - cos a) T1 / T2), Bernstein eq. 14.17
    angle = np.deg2rad(60)
    ratio = 1480 / 240
    expected = 1.10 * np.sin(angle) / (1 + np.cos(angle) + (1 - np.cos(angle)) * ratio)
    assert signals["blood"] == pytest.approx(expected, rel=0.02)
    assert signals["blood"] > 2 * signals["myocardium"] > 4 * signals["lung"]


def test_cines_have_the_right_shape_and_plane(imaged: list[VirtualPatient]) -> None:
    for patient in imaged:
        assert set(patient.cines) == {"4ch", "sax"}
        for cine in patient.cines.values():
            assert cine.frames.shape == (10, 96, 96)
            assert cine.frames.dtype == np.float32
            assert np.isfinite(cine.frames).all() and cine.frames.min() >= 0
            assert cine.plane.across @ cine.plane.down == pytest.approx(0, abs=1e-9)
            assert cine.phase_s * 10 == pytest.approx(60 / patient.heart.heart_rate)


def test_blood_is_bright_where_the_masks_say(imaged: list[VirtualPatient]) -> None:
    for patient in imaged:
        cine = patient.cines["sax"]
        for phase in (0, patient.motion.end_systole):
            mask = ventricle_masks(patient.geometry, patient.motion, cine.plane, phase)
            blood = cine.frames[phase][mask == LV].mean()
            muscle = cine.frames[phase][mask == MYOCARDIUM].mean()
            assert blood > 1.6 * muscle


def test_the_bright_cavity_shrinks_in_systole(imaged: list[VirtualPatient]) -> None:
    for patient in imaged:
        cine, end = patient.cines["sax"], patient.motion.end_systole
        mask = ventricle_masks(patient.geometry, patient.motion, cine.plane, 0) == LV
        bright = cine.frames[:, mask] > 0.6 * np.median(cine.frames[0][mask])
        share = bright.mean(axis=1)
        if patient.heart.lv_ef > 50:
            assert share[end] < 0.75 * share[0]


def test_the_descending_aorta_pulsates(imaged: list[VirtualPatient]) -> None:
    for patient in imaged:
        area = np.pi * patient.motion.aorta_mm**2
        vessel = patient.heart.descending_aorta
        assert area.min() == pytest.approx(vessel.min_area, rel=1e-6)
        assert 0.9 * vessel.max_area < area.max() <= vessel.max_area * (1 + 1e-9)


def test_right_heart_is_on_the_left_of_the_image(imaged: list[VirtualPatient]) -> None:
    for patient in imaged:
        plane = patient.cines["sax"].plane
        mask = ventricle_masks(patient.geometry, patient.motion, plane, 0)
        columns = np.arange(96)
        centre = {k: np.average(columns, weights=(mask == k).sum(axis=0)) for k in (LV, 3)}
        assert centre[3] < centre[LV]


def test_sites_differ_in_noise(imaged: list[VirtualPatient]) -> None:
    def roughness(patient: VirtualPatient) -> float:
        cine = patient.cines["sax"]
        still = np.abs(np.diff(cine.frames[:, :12, :12], axis=0)).mean()
        return float(still / np.percentile(cine.frames[0], 97))

    quiet = np.mean([roughness(p) for p in imaged[3:6]])
    noisy = np.mean([roughness(p) for p in imaged[6:9]])
    assert noisy > 1.3 * quiet


def test_textures_have_unit_spread() -> None:
    fields = textures(np.random.default_rng(0), (1.2, 2.0), 96)
    np.testing.assert_allclose(fields.std(axis=1), 1.0, atol=0.12)


def test_edges_are_ramps() -> None:
    ramp = edge(np.array([-2.0, -0.5, 0.0, 0.5, 2.0], np.float32), 2.0)
    np.testing.assert_allclose(ramp, [1, 0.75, 0.5, 0.25, 0])
