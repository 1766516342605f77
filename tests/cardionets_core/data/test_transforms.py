from dataclasses import replace

import numpy as np
import pytest
from scipy import signal

from cardionets_core.data.ecg import EcgRecord, read_wfdb
from cardionets_core.data.mains import LEAST_LINE_MV, mains_hz
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


def hum(seconds, rate, hz, mv):
    """float64 [12, n]: one line at its own phase in every lead."""
    t = np.arange(round(seconds * rate)) / rate
    return mv * np.sin(2 * np.pi * hz * t + np.arange(12)[:, None])


@pytest.mark.parametrize("rate", [250.0, 257.0, 500.0, 1000.0])
@pytest.mark.parametrize(("hz", "nominal"), [(49.8, 50), (50, 50), (50.2, 50), (59.9, 60)])
def test_a_mains_line_is_found_and_taken_out(beats, rate, hz, nominal):
    clean = beats(10, rate).T
    noisy = clean + hum(10, rate, hz, 0.2)
    assert mains_hz(clean, rate) == 0
    assert mains_hz(noisy, rate) == nominal
    for target in (100, 250):
        kept, spec = EcgSpec(sampling_rate_hz=target, mains_notch=False), EcgSpec(target)
        truth = prepare_ecg(record(clean, rate), kept)
        inner = slice(2 * target, -2 * target)  # a notch 2 Hz wide needs time to settle
        left = [prepare_ecg(record(noisy, rate), s) - truth for s in (kept, spec)]
        rms = [np.sqrt(np.mean(x[:, inner] ** 2)) * spec.scale_mv for x in left]
        assert rms[1] < 0.0015  # of 0.2 mV; what `beats` itself has at 50 Hz goes too
        if rms[0] > 0.002:
            assert rms[1] < 0.4 * rms[0]


def test_what_the_low_pass_alone_leaves_of_a_line():
    """The figures in data/mains.py."""
    t = np.arange(5000) / 500
    for hz, low, high in ((50, 0.016, 0.080), (60, 0.011, 0.025)):
        tone = np.tile(np.sin(2 * np.pi * hz * t + 0.3), (12, 1))
        for target, share in ((100, low), (250, high)):
            spec = EcgSpec(sampling_rate_hz=target, mains_notch=False)
            left = prepare_ecg(record(tone, 500), spec)[0, target:-target] * spec.scale_mv
            assert left.std() * np.sqrt(2) == pytest.approx(share, abs=0.002)


def test_a_record_without_a_line_is_not_touched(beats):
    values = beats(10, 500).T
    for spec in (EcgSpec(), EcgSpec(sampling_rate_hz=250, scale="record", scale_mv=1.0)):
        plain = prepare_ecg(record(values, 500), replace(spec, mains_notch=False))
        np.testing.assert_array_equal(prepare_ecg(record(values, 500), spec), plain)
    assert mains_hz(values + hum(10, 500, 50, 0.5 * LEAST_LINE_MV), 500) == 0
    assert mains_hz(hum(10, 100, 50, 1.0), 100) == 0  # at Nyquist nothing can be said
    assert mains_hz(np.zeros((12, 5000)), 500) == 0
    assert mains_hz(hum(0.5, 500, 50, 1.0), 500) == 0


REAL_LINES = {"JS20000", "JS20002", "JS20006", "JS20007", "JS20008", "JS20011", "JS20018", "S0001"}


def test_lines_of_real_records(shared_data):
    """By a periodogram over ten seconds, 50 Hz stands out of +-8 Hz in these (30 to 1,200 fold)."""
    paths = [*(shared_data / "ptbxl/records500").rglob("*.hea")]
    paths += [*(shared_data / "cinc2021").rglob("*.hea")]
    found = {}
    for path in paths:
        real = read_wfdb(path)
        found[path.stem] = mains_hz(real.signal[real.lead_mask], real.sampling_rate_hz)
    assert {name for name, hz in found.items() if hz == 50} == REAL_LINES
    assert 60 not in found.values()
