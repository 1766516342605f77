"""Volumes, mass, masks and strain of the surfaces."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq

from cardionets_core.cohort.geometry import MYOCARDIUM_G_PER_ML, solve_increasing, volume_ml
from cardionets_core.cohort.motion import emptying
from cardionets_core.cohort.patient import VirtualPatient
from cardionets_core.cohort.phenotypes import _SEGMENTS
from cardionets_core.cohort.planes import LV, MYOCARDIUM, RV, short_axis_at, ventricle_masks
from cardionets_core.vocabulary import PHENOTYPE_NAMES


def test_roots_agree_with_brent() -> None:
    targets = np.array([0.5, 3.0, 40.0])
    found = solve_increasing(lambda x: x**3 - targets, np.zeros(3), np.full(3, 10.0))
    expected = [brentq(lambda x, t=t: x**3 - t, 0, 10) for t in targets]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_sphere_has_its_volume() -> None:
    volume = volume_ml(np.full((40, 64), 30.0), 1e9)
    assert volume == pytest.approx(4 / 3 * np.pi * 30**3 / 1000, rel=2e-3)


@pytest.mark.parametrize("name", ["normal", "hcm", "dcm", "mi", "ph"])
def test_surfaces_have_the_drawn_volumes(
    by_diagnosis: dict[str, list[VirtualPatient]], name: str
) -> None:
    for patient in by_diagnosis[name]:
        heart, shape, table = patient.heart, patient.geometry, patient.phenotypes
        assert volume_ml(shape.endo, shape.valve_mm) == pytest.approx(heart.lv_edv, rel=1e-6)
        assert table["lv_esv"] == pytest.approx(heart.lv_esv, rel=1e-4)
        assert table["rv_edv"] == pytest.approx(heart.rv_edv, rel=1e-4)
        assert table["rv_esv"] == pytest.approx(heart.rv_esv, rel=1e-4)
        if name != "hcm":  # there the bump comes on top of the drawn mass
            assert table["lv_mass"] == pytest.approx(heart.lv_mass, rel=1e-4)
        assert (shape.epi > shape.endo).all() and (shape.rv >= shape.epi).all()


def _simpson_ml(patient: VirtualPatient, phase: int) -> dict[int, float]:
    """Volumes from a stack of exact masks, 4 mm apart, 1.5 mm pixels."""
    step, pixel = 4.0, 1.5
    depths = np.arange(step / 2, 140, step)
    counts = dict.fromkeys((LV, MYOCARDIUM, RV), 0.0)
    for depth in depths:
        plane = short_axis_at(patient.geometry, float(depth), np.zeros(2), pixel_mm=pixel, size=120)
        mask = ventricle_masks(patient.geometry, patient.motion, plane, phase)
        for label in counts:
            counts[label] += float((mask == label).sum())
    return {label: n * pixel**2 * step / 1000 for label, n in counts.items()}


@pytest.mark.parametrize("name", ["normal", "hcm", "ph"])
def test_masks_agree_with_the_table(
    by_diagnosis: dict[str, list[VirtualPatient]], name: str
) -> None:
    patient = by_diagnosis[name][0]
    table, end = patient.phenotypes, patient.motion.end_systole
    diastole, systole = _simpson_ml(patient, 0), _simpson_ml(patient, end)
    assert diastole[LV] == pytest.approx(table["lv_edv"], rel=0.05)
    assert systole[LV] == pytest.approx(table["lv_esv"], rel=0.05)
    assert diastole[RV] == pytest.approx(table["rv_edv"], rel=0.05)
    assert systole[RV] == pytest.approx(table["rv_esv"], rel=0.05)
    mass = diastole[MYOCARDIUM] * MYOCARDIUM_G_PER_ML
    assert mass == pytest.approx(table["lv_mass"], rel=0.05)


def test_mass_is_kept_over_the_cycle(by_diagnosis: dict[str, list[VirtualPatient]]) -> None:
    for patient in by_diagnosis["normal"]:
        motion, valve = patient.motion, patient.geometry.valve_mm
        shell = volume_ml(motion.epi, valve) - volume_ml(motion.endo, valve)
        np.testing.assert_allclose(shell * motion.shortening, shell[0], rtol=0.015)


def test_end_systole_is_the_smallest_phase(population: list[VirtualPatient]) -> None:
    for patient in population[:20]:
        volume = volume_ml(patient.motion.endo, patient.geometry.valve_mm)
        volume = volume * patient.motion.shortening
        assert volume.argmin() == patient.motion.end_systole
        assert volume.argmax() == 0


def test_filling_has_a_kick_only_with_atrial_contraction() -> None:
    late = np.array([0.85, 0.97])
    kick = [np.ptp(emptying(late, 0.4, fibrillating=af)) for af in (False, True)]
    assert kick[0] > 0.2 > 0.05 > kick[1]


def test_every_phenotype_is_there_and_plausible(population: list[VirtualPatient]) -> None:
    table = {name: np.array([p.phenotypes[name] for p in population]) for name in PHENOTYPE_NAMES}
    for name, values in table.items():
        assert np.isfinite(values).all(), name
        assert values.std() > 0, name
    for name, low, high in (
        ("lv_edv", 125, 170),
        ("lv_ef", 57, 63),
        ("lv_mass", 75, 100),
        ("rv_edv", 140, 180),
        ("la_max", 60, 80),
        ("wt_global", 4.5, 7),
        ("ecc_global", -23, -15),
        ("ell_global", -22, -16),
        ("aao_distensibility", 1.0, 2.0),
        ("dao_max_area", 400, 560),
    ):
        assert low < table[name].mean() < high, name


def test_segments_cover_the_ventricle_once() -> None:
    assert _SEGMENTS.shape[0] == 16
    covered = _SEGMENTS.sum(axis=0)
    assert covered.max() <= 2  # neighbours share the meridian on their border
    assert (covered[2:28] >= 1).all()  # from near the apex to the base


def test_scar_does_not_contract(by_diagnosis: dict[str, list[VirtualPatient]]) -> None:
    for patient in by_diagnosis["mi"]:
        scarred = patient.geometry.scar > 0.5
        if scarred.sum() < 20:
            continue
        inward = 1 - patient.motion.endo[patient.motion.end_systole] / patient.geometry.endo
        remote = patient.geometry.scar < 0.05
        remote[:6] = scarred[:6] = False  # the apex hardly moves in anyone
        assert inward[scarred].mean() < 0.6 * inward[remote].mean()


def test_hypertrophy_and_load_show_in_the_table(
    by_diagnosis: dict[str, list[VirtualPatient]],
) -> None:
    def mean(name: str, column: str) -> float:
        return float(np.mean([p.phenotypes[column] for p in by_diagnosis[name]]))

    assert mean("lvh", "lv_mass") > 1.25 * mean("normal", "lv_mass")
    assert mean("hcm", "wt_2") > mean("normal", "wt_2") + 2
    assert mean("dcm", "lv_ef") < 45 < mean("normal", "lv_ef")
    assert mean("ph", "rv_edv") > 1.2 * mean("normal", "rv_edv")
    assert mean("ph", "rv_ef") < mean("normal", "rv_ef") - 5
