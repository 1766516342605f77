"""The ECG follows from the anatomy, as a cardiologist expects it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import butter, freqz_sos

from cardionets_core.cohort.conduction import PHI_NODES, sample_surface
from cardionets_core.cohort.electrics import BEAT_TIMES, _blocked_product, beat
from cardionets_core.cohort.geometry import PHI, THETA
from cardionets_core.cohort.patient import (
    VirtualPatient,
    open_streams,
    simulate_heart,
    simulate_patient,
)
from cardionets_core.cohort.recording import _FREQUENCY, _filter_gain, p_wave
from cardionets_core.cohort.sites import PRESETS
from cardionets_core.vocabulary import LEADS

QRS = (BEAT_TIMES > -10) & (BEAT_TIMES < 130)


def _clean_beat(patient: VirtualPatient) -> NDArray[np.float64]:
    """Leads I, II, V1..V6 without noise, at the end of expiration."""
    poses = beat(patient.heart, patient.nuisance, patient.geometry, patient.activation)
    return np.asarray(poses[0])


def _axis_deg(patient: VirtualPatient) -> float:
    one, two = _clean_beat(patient)[:2, QRS].sum(axis=1)
    return float(np.degrees(np.arctan2((2 * two - one) / np.sqrt(3), one)))


def _again(patient: VirtualPatient, **changes: object) -> VirtualPatient:
    """The same patient with another property; same noise."""
    site = PRESETS["A"]
    heart = dataclasses.replace(patient.heart, **changes)  # type: ignore[arg-type]
    return simulate_heart(heart, site, open_streams(site, 6, 0), with_cmr=False)


def _left_delay(patient: VirtualPatient) -> float:
    """Mean activation of the left ventricle behind that of the right one, ms."""
    times, used = patient.activation.times, patient.activation.used
    return float(times[0].mean() - times[2][used[2]].mean())


def test_limb_leads_are_consistent(population: list[VirtualPatient]) -> None:
    for patient in population[:5]:
        leads = dict(zip(LEADS, patient.ecg, strict=True))
        np.testing.assert_allclose(leads["I"] + leads["III"], leads["II"], atol=1e-5)
        np.testing.assert_allclose(leads["aVR"], -(leads["I"] + leads["II"]) / 2, atol=1e-5)
        np.testing.assert_allclose(leads["aVR"] + leads["aVL"] + leads["aVF"], 0, atol=1e-5)


def test_a_record_is_ten_seconds_at_the_devices_rate() -> None:
    for name, samples in (("A", 5000), ("B", 10000), ("C", 2500)):
        site = PRESETS[name]
        streams = open_streams(site, 1, 0)
        patient = simulate_patient(site, streams, with_cmr=False, diagnosis="normal")
        assert patient.ecg.shape == (12, samples)
        assert patient.ecg.dtype == np.float32
        assert 0.2 < np.abs(patient.ecg).max() < 8


def test_r_waves_grow_from_v1_to_v5(population: list[VirtualPatient]) -> None:
    beats = np.stack([_clean_beat(p) for p in population[:40]])[:, :, QRS]
    r, s = beats.max(axis=2).mean(axis=0), -beats.min(axis=2).mean(axis=0)
    assert r[2] < r[3] < r[4] < r[5]  # V1 < V2 < V3 < V4
    assert s[2] > r[2] and r[6] > s[6]  # V1 mostly negative, V5 mostly positive
    assert r[7] > s[7]


def test_conduction_times_of_healthy_hearts(population: list[VirtualPatient]) -> None:
    healthy = [p for p in population if not (p.heart.lbbb or p.heart.rbbb)]
    qrs = np.array([p.activation.qrs_ms for p in healthy])
    assert 75 < qrs.mean() < 105
    assert (qrs > 120).mean() < 0.1


def test_bundle_branch_blocks_widen_the_qrs(population: list[VirtualPatient]) -> None:
    narrow = next(p for p in population if not (p.heart.lbbb or p.heart.rbbb))
    left, right = _again(narrow, lbbb=True), _again(narrow, rbbb=True)
    assert left.activation.qrs_ms > 120
    assert right.activation.qrs_ms > 110
    assert _left_delay(left) > 30 and _left_delay(right) < -20
    v1, v6 = _clean_beat(left)[2], _clean_beat(left)[7]
    assert v1[QRS].sum() < 0 < v6[QRS].sum()


def test_left_anterior_block_turns_the_axis_left(population: list[VirtualPatient]) -> None:
    free = [p for p in population if not (p.heart.lbbb or p.heart.rbbb or p.heart.lafb)][:6]
    turn = [_axis_deg(_again(p, lafb=True)) - _axis_deg(_again(p)) for p in free]
    assert max(turn) < 0 and np.median(turn) < -5


def test_pulmonary_hypertension_turns_the_axis_right(
    by_diagnosis: dict[str, list[VirtualPatient]],
) -> None:
    axes = {
        name: np.median([_axis_deg(p) for p in by_diagnosis[name]]) for name in ("normal", "ph")
    }
    assert axes["ph"] > axes["normal"] + 15


def test_voltage_follows_mass(population: list[VirtualPatient]) -> None:
    beats = np.stack([_clean_beat(p) for p in population])[:, :, QRS]
    sokolow = beats[:, 6:].max(axis=(1, 2)) - beats[:, 2].min(axis=1)
    mass = [p.phenotypes["lv_mass"] for p in population]
    assert 0.2 < np.corrcoef(sokolow, mass)[0, 1] < 0.7


def test_strain_inverts_the_lateral_t_wave(population: list[VirtualPatient]) -> None:
    t_wave = (BEAT_TIMES > 200) & (BEAT_TIMES < 450)
    for patient in population[:3]:
        plain = _clean_beat(_again(patient, repolarisation_strain_ms=0.0))
        strained = _clean_beat(_again(patient, repolarisation_strain_ms=50.0))
        assert strained[7, t_wave].sum() < plain[7, t_wave].sum() - 1


def test_large_atria_make_tall_p_waves(population: list[VirtualPatient]) -> None:
    patient = population[0]
    large = dataclasses.replace(patient.heart, la_max=2 * patient.heart.la_max)
    before, after = (p_wave(h, patient.nuisance)[0].max() for h in (patient.heart, large))
    assert after > 1.2 * before


def test_fibrillating_hearts_beat_irregularly(
    by_diagnosis: dict[str, list[VirtualPatient]],
) -> None:
    assert all(p.heart.af for p in by_diagnosis["af"])
    assert np.mean([p.heart.heart_rate for p in by_diagnosis["af"]]) > 70


def test_filters_are_butterworths_run_both_ways() -> None:
    for name in ("A", "C"):
        device = PRESETS[name].device
        gain = np.ones_like(_FREQUENCY)
        for order, corner, kind in ((1, device.high_pass_hz, "hp"), (2, device.low_pass_hz, "lp")):
            # a rate far above the corner: there the digital filter is the analogue one
            sos = butter(order, corner, kind, fs=20000, output="sos")
            gain *= np.abs(freqz_sos(sos, _FREQUENCY, fs=20000)[1]) ** 2
        kept = (_FREQUENCY > 0) & (_FREQUENCY < 0.4 * device.sampling_rate_hz)
        np.testing.assert_allclose(_filter_gain(device)[kept], gain[kept], atol=0.01)


def test_blocked_product_is_a_product() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(5, 150)), rng.normal(size=(150, 33))
    np.testing.assert_allclose(_blocked_product(left, right), left @ right, rtol=1e-9)  # type: ignore[arg-type]


def test_sampling_a_surface_is_exact_for_linear_fields() -> None:
    field = 2 * THETA + 0 * PHI
    theta = np.full(48, 1.234)
    np.testing.assert_allclose(sample_surface(field, theta, PHI_NODES), 2.468, rtol=1e-9)


@pytest.mark.parametrize("name", ["A", "B", "C", "D"])
def test_case_mixes_sum_to_one(name: str) -> None:
    assert sum(PRESETS[name].case_mix.values()) == pytest.approx(1)
