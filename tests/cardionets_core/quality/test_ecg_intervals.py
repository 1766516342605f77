"""Rate and intervals: hand-made beats, virtual hearts that know their timing, real diagnoses."""

import ast

import numpy as np
import pytest

from cardionets_core.cohort.electrics import _action_potentials
from cardionets_core.cohort.patient import open_streams, simulate_patient
from cardionets_core.cohort.sites import DIAGNOSES, PRESETS
from cardionets_core.data.ecg import EcgRecord, read_wfdb
from cardionets_core.quality.beats import average_beat, beat_places, display_filter
from cardionets_core.quality.grades import grade


@pytest.mark.parametrize("rate", [100.0, 250.0, 257.0, 500.0, 1000.0])
@pytest.mark.parametrize(
    ("bpm", "pr_ms", "qrs_ms", "qt_ms"),
    [(70, 160, 90, 380), (50, 220, 110, 430), (95, 130, 80, 330), (72, 170, 150, 420)],
)
def test_hand_made_beats(beats_of, rate, bpm, pr_ms, qrs_ms, qt_ms):
    record = beats_of(rate=rate, bpm=bpm, pr_ms=pr_ms, qrs_ms=qrs_ms, qt_ms=qt_ms)
    found = grade(record)
    assert found.heart_rate_bpm == pytest.approx(bpm, rel=0.02)
    assert found.pr_ms == pytest.approx(pr_ms, abs=16)
    assert found.qrs_ms == pytest.approx(qrs_ms, abs=16)
    assert found.qt_ms == pytest.approx(qt_ms, abs=16)
    fridericia = found.qt_ms / (60 / found.heart_rate_bpm) ** (1 / 3)
    assert found.qtc_ms == pytest.approx(fridericia, rel=0.02)


def test_no_p_wave_no_pr(beats_of):
    found = grade(beats_of(p_wave=False))
    assert np.isnan(found.pr_ms) and found.qrs_ms == pytest.approx(90, abs=16)


@pytest.mark.parametrize("bpm", [38.0, 131.0, 180.0])
def test_slow_and_fast_hearts(beats_of, bpm):
    qt = 280 if bpm > 100 else 450
    found = grade(beats_of(bpm=bpm, p_wave=bpm < 100, qt_ms=qt, pr_ms=150))
    assert found.heart_rate_bpm == pytest.approx(bpm, rel=0.02)
    assert found.qrs_ms == pytest.approx(90, abs=16)
    if bpm > 100:  # no P wave here; T comes just before the next beat and must not pass for it
        assert np.isnan(found.pr_ms)


def test_noise_alone_has_no_beats():
    noise = np.random.default_rng(0).normal(0, 0.1, (12, 5000)).astype(np.float32)
    found = grade(EcgRecord(noise, np.ones(12, bool), 500.0))
    assert np.isnan([found.pr_ms, found.qrs_ms, found.qt_ms, found.qtc_ms]).all()
    assert found.overall == "poor"


def test_an_ectopic_beat_stays_out_of_the_average(beats_of):
    record = beats_of(bpm=60)
    displayed = display_filter(record)
    places = beat_places(displayed, record.lead_mask, 500.0)
    clean = average_beat(displayed, places, 500.0)
    odd = displayed.copy()
    middle = places[4]
    odd[:, middle - 100 : middle + 200] *= -1.5
    found = average_beat(odd, places, 500.0)
    assert found.beats == clean.beats - 1
    assert np.abs(found.leads - clean.leads).max() < 0.03


def virtual(site, k):
    """A virtual patient's record, its true rate, PR, QRS and QT (of the last cell), and rhythm."""
    preset = PRESETS[site]
    diagnosis = DIAGNOSES[k % len(DIAGNOSES)]
    streams = open_streams(preset, 5, k)
    patient = simulate_patient(preset, streams, with_cmr=False, diagnosis=diagnosis)
    used = patient.activation.used
    start = patient.activation.times[used]
    lasts = _action_potentials(patient.heart, patient.nuisance, patient.activation)[used]
    rate = float(preset.device.sampling_rate_hz)
    record = EcgRecord(patient.ecg, np.ones(12, bool), rate)
    qt = np.median(start + np.maximum(lasts, 150))
    truth = (60 / patient.heart.cycle_s, patient.nuisance.pr_ms, start.max(), qt)
    return record, truth, patient.heart.af


def test_virtual_hearts(capsys):
    """QRS and QT carry an offset (upstrokes, filters, how the end of T is defined): printed.

    The truth of QT is when half of the heart has recovered; the end of T follows by a fixed time.
    """
    hearts = [virtual(site, k) for site in "ABCD" for k in range(7)]
    graded = [grade(record) for record, _, _ in hearts]
    found = np.array([[q.heart_rate_bpm, q.pr_ms, q.qrs_ms, q.qt_ms] for q in graded])
    truth = np.array([t for _, t, _ in hearts])
    fibrillates = np.array([af for _, _, af in hearts])
    error = found - truth
    offset = np.nanmedian(error[~fibrillates], axis=0)
    spread = np.nanmedian(np.abs(error[~fibrillates] - offset), axis=0)
    worst = np.nanquantile(np.abs(error[~fibrillates] - offset), 0.9, axis=0)
    seen = np.isfinite(found[~fibrillates]).mean(axis=0)
    with capsys.disabled():
        rows = zip(("rate", "PR", "QRS", "QT"), offset, spread, worst, seen, strict=True)
        for name, *figures in rows:
            text = "offset {:.1f}, median error {:.1f}, 90 % below {:.1f}, seen {:.0%}"
            print(f"\nvirtual hearts, {name}: " + text.format(*figures), end="")
    assert np.isnan(found[fibrillates, 1]).all()  # no P wave, no PR
    assert (seen > 0.85).all()
    assert (np.abs(offset[:3]) < (1, 10, 12)).all() and 20 < offset[3] < 65
    assert (spread < (1, 6, 6, 12)).all()
    assert (worst < (6, 14, 14, 32)).all()


def test_intervals_know_the_diagnoses_of_cardiologists(ptbxl_rows, graded, capsys):
    """Medians per diagnosis of PTB-XL; complete blocks are wide, first-degree AV blocks long."""
    codes = [set(ast.literal_eval(row["scp_codes"])) for row in ptbxl_rows]

    def of(code, name):
        values = [getattr(q, name) for q, c in zip(graded, codes, strict=True) if code in c]
        return np.array(values)

    with capsys.disabled():
        for code in ("NORM", "CLBBB", "CRBBB", "1AVB", "AFIB", "STACH", "SBRAD"):
            names = ("heart_rate_bpm", "pr_ms", "qrs_ms", "qtc_ms")
            values = [of(code, name) for name in names]
            medians = [
                np.median(v[np.isfinite(v)]) if np.isfinite(v).any() else np.nan for v in values
            ]
            print(f"\n{code} ({len(values[0])}): rate, PR, QRS, QTc", np.round(medians), end="")
    normal = of("NORM", "qrs_ms")
    assert np.nanmedian(normal) == pytest.approx(86, abs=6)
    assert np.nanquantile(normal, 0.975) < 115  # 120 is the limit of a normal QRS
    blocks = np.concatenate([of("CLBBB", "qrs_ms"), of("CRBBB", "qrs_ms")])
    assert len(blocks) == 12 and (blocks > 110).sum() >= 11 and np.median(blocks) > 130
    assert 145 < np.nanmedian(of("NORM", "pr_ms")) < 165
    assert np.nanmin(of("1AVB", "pr_ms")) > 180 and np.nanmedian(of("1AVB", "pr_ms")) > 220
    assert np.isnan(of("AFIB", "pr_ms")).all()
    assert 360 < np.nanmedian(of("NORM", "qtc_ms")) < 395
    assert of("STACH", "heart_rate_bpm").min() > 95 and of("SBRAD", "heart_rate_bpm").max() < 63


def test_the_same_record_at_two_rates(shared_data, ptbxl_rows, graded):
    folder = shared_data / "ptbxl"
    pairs = []
    for row, low in zip(ptbxl_rows, graded, strict=True):
        path = folder / f"{row['filename_hr']}.hea"
        if path.exists():
            pairs.append((low, grade(read_wfdb(path))))
    assert len(pairs) == 30
    for name, limit in (("heart_rate_bpm", 1.5), ("pr_ms", 8), ("qrs_ms", 8), ("qt_ms", 8)):
        gaps = np.array([getattr(a, name) - getattr(b, name) for a, b in pairs])
        assert np.nanmax(np.abs(gaps)) <= limit, name
