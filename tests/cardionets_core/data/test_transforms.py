import numpy as np
import pytest
from scipy import signal

from cardionets_core.data.ecg import EcgRecord
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.data.transforms import (
    SATURATION_MV,
    prepare_ecg,
    prepared_samples,
)
from cardionets_core.model_config import EcgSpec

ALL = np.ones(12, dtype=bool)


def record(values, rate, mask=ALL):
    return EcgRecord(np.asarray(values, dtype=np.float32), mask, rate)


@pytest.mark.parametrize(("rate", "target"), [(500, 100), (1000, 100), (100, 250), (257, 100)])
def test_against_a_script_of_its_own(beats, rate, target):
    spec = EcgSpec(sampling_rate_hz=target)
    values = beats(12, rate).T
    prepared = prepare_ecg(record(values, rate), spec)
    for k in range(12):
        x = signal.resample_poly(values[k], target, rate, padtype="line")
        b, a = signal.butter(5, 0.67 / (target / 2), "high")
        c, d = signal.butter(5, 40 / (target / 2), "low")
        x = signal.filtfilt(c, d, signal.filtfilt(b, a, x))[: spec.record_samples]
        # transfer functions instead of sections, other padding: equal away from the ends
        inner = slice(2 * target, -2 * target)
        np.testing.assert_allclose(prepared[k, inner] * spec.scale_mv, x[inner], atol=2e-3)


def test_frequencies_that_pass_and_that_do_not():
    spec = EcgSpec(sampling_rate_hz=250)
    t = np.arange(10 * 500) / 500
    tones = np.array([0.05, 0.2, 2, 5, 10, 20, 30, 60, 80, 100, 110, 120])
    amplitudes = prepare_ecg(record(np.sin(2 * np.pi * tones[:, None] * t), 500), spec)
    rms = amplitudes[:, 500:-500].std(axis=1) * spec.scale_mv * np.sqrt(2)
    np.testing.assert_allclose(rms[2:7], 1.0, atol=0.07)
    assert (rms[:2] < 0.02).all() and (rms[7:] < 0.02).all()


def test_zero_phase(beats):
    values = beats(10, 500)
    prepared = prepare_ecg(record(values.T, 500), EcgSpec())
    peaks = signal.find_peaks(prepared[1], height=0.5 * prepared[1].max(), distance=40)[0]
    truth = signal.find_peaks(values[:, 1], height=0.6, distance=200)[0] / 5
    inner = [p for p in truth if 50 < p < 950]
    assert len(inner) >= 8
    for p in inner:
        assert abs(peaks - p).min() <= 1


def test_the_same_heart_at_two_rates(beats):
    spec = EcgSpec()
    low, high = beats(10, 250), beats(10, 1000)
    quiet = (prepare_ecg(record(v.T, r), spec) for v, r in ((low, 250), (high, 1000)))
    first, second = (p[:, 100:-100] for p in quiet)
    assert np.abs(first - second).max() < 0.1 * second.std()


def test_fixed_scale_keeps_the_voltage_and_record_scale_does_not(beats):
    values = beats(10, 500).T
    fixed = [prepare_ecg(record(values * g, 500), EcgSpec()) for g in (1, 2)]
    np.testing.assert_allclose(fixed[1], 2 * fixed[0], rtol=1e-4, atol=1e-5)
    paper = EcgSpec(scale="record")
    scaled = [prepare_ecg(record(values * g, 500), paper) for g in (1, 2)]
    np.testing.assert_allclose(scaled[1], scaled[0], atol=1e-3)
    assert scaled[0].mean() == pytest.approx(0, abs=1e-5)
    assert scaled[0].std() == pytest.approx(1, abs=1e-5)


def test_missing_leads_stay_zero_and_do_not_change_the_scale(beats):
    mask = ALL.copy()
    mask[[3, 7]] = False
    values = beats(10, 500).T
    values[~mask] = 0
    for spec in (EcgSpec(), EcgSpec(scale="record")):
        prepared = prepare_ecg(record(values, 500, mask), spec)
        assert not prepared[~mask].any() and prepared[mask].any(axis=1).all()
    assert prepared[mask].std() == pytest.approx(1, abs=1e-5)


def test_short_records_are_padded_and_long_ones_cut(beats):
    spec = EcgSpec()
    short, long = record(beats(7, 500).T, 500), record(beats(38, 500).T, 500)
    prepared = prepare_ecg(short, spec)
    assert prepared.shape == (12, 1000) and prepared.dtype == np.float32
    assert prepared_samples(short, spec) == 700
    assert not prepared[:, 700:].any() and prepared[:, 690:700].any()
    assert prepare_ecg(long, spec).shape == (12, 1000) and prepared_samples(long, spec) == 1000
    with pytest.raises(RecordRefused, match="too_short"):
        prepare_ecg(record(beats(1.5, 500).T, 500), spec)


def test_artefacts_are_cut(beats):
    values = beats(10, 500).T
    values[4, 2500:2600] = 300.0
    prepared = prepare_ecg(record(values, 500), EcgSpec())
    assert np.abs(prepared).max() == pytest.approx(SATURATION_MV / 0.3)
