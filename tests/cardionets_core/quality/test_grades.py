import dataclasses
import time

import numpy as np
import pytest

from cardionets_core.data.ecg import EcgRecord, read_wfdb
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.quality.grades import USUAL_RANGE_MV, grade
from cardionets_core.vocabulary import LEADS


def test_gain_suspicion_on_real_records(graded, capsys):
    """The same bytes with gain 200 and 1000 exist: five times too high or too low.

    `typical_mv` is proportional to the gain, so the table follows from it exactly.
    """
    typical = np.array([q.typical_mv for q in graded])
    low, high = USUAL_RANGE_MV

    def share(factor):
        return np.mean((typical * factor < low) | (typical * factor > high))

    points = np.quantile(typical, [0, 0.01, 0.5, 0.99, 1]).round(2)
    with capsys.disabled():
        print(f"\ntypical_mv of PTB-XL: least, 1 %, median, 99 %, greatest {points}")
        for gain, factor in (("true", 1.0), ("a fifth", 5.0), ("five times", 0.2)):
            text = f"gain in the header {gain}: {share(factor):.1%} suspected of {len(typical)}"
            print(text, end="" if factor == 0.2 else "\n")
    assert share(1.0) <= 0.005
    assert share(5.0) > 0.9 and share(0.2) > 0.95
    for factor in (5.0, 0.2):  # a whole site shows it beyond doubt
        assert not low <= np.median(typical) * factor <= high
    assert [q.gain_suspect for q in graded] == [bool(not low <= t <= high) for t in typical]


def test_gain_and_drift(beats_of):
    record = beats_of()
    found = grade(record)
    for factor in (5.0, 0.2):
        scaled = dataclasses.replace(record, signal=record.signal * np.float32(factor))
        other = grade(scaled)
        assert other.typical_mv == pytest.approx(found.typical_mv * factor, rel=1e-3)
        assert other.gain_suspect and other.overall == "usable"
    drift = 3 * np.sin(2 * np.pi * 0.1 * np.arange(5000) / 500).astype(np.float32)
    swaying = grade(dataclasses.replace(record, signal=record.signal + drift))
    assert swaying.typical_mv == pytest.approx(found.typical_mv, rel=0.25)
    assert not swaying.gain_suspect and swaying.lead_grades == ("baseline",) * 12


def test_mains(beats_of):
    record = beats_of()
    t = np.arange(5000) / 500
    for hz in (50, 60):
        hum = (0.05 * np.sin(2 * np.pi * hz * t)).astype(np.float32)
        assert grade(dataclasses.replace(record, signal=record.signal + hum)).mains_hz == hz
    assert grade(record).mains_hz == 0


def test_row_of_plain_numbers_and_words(beats_of):
    found = grade(beats_of())
    row = found.to_row()
    assert [row[f"lead_{lead}"] for lead in LEADS] == list(found.lead_grades)
    for name in (field.name for field in dataclasses.fields(found)):
        if name != "lead_grades":
            assert row[name] == getattr(found, name)
    assert all(type(value) in (float, str) for value in row.values())


def test_odd_recordings_get_a_grade_or_are_too_short():
    """Any rate that a reader lets through, any length, any number of leads, any shape."""
    rng = np.random.default_rng(0)
    for k in range(50):
        rate = float(rng.choice([50, 90, 116, 137, 249.89, 257, 500, 977, 2000, 8000]))
        count = round(rate * rng.choice([0.1, 1.9, 2.0, 2.5, 4.0, 8.0]) + 1)
        mask = rng.random(12) < rng.random()
        mask[rng.integers(12)] = True
        spikes = np.arange(count) % max(1, round(0.8 * rate)) < max(1, 0.04 * rate)
        noise = rng.normal(0, 0.1, (12, count))
        still = np.zeros((12, count))
        signal = (noise, np.cumsum(noise, axis=1), still, still + 3, still + spikes)[k % 5]
        record = EcgRecord((signal * mask[:, None]).astype(np.float32), mask, rate)
        if count < 2 * rate:
            with pytest.raises(RecordRefused, match="too_short"):
                grade(record)
        else:
            found = grade(record)
            assert [g == "missing" for g in found.lead_grades] == list(~mask)
            assert found.overall == "poor" or mask.sum() >= 6


def test_real_records_of_other_sources(shared_data):
    """Sinus rhythm and fibrillation of Chapman, with missing leads; by eye and by their codes."""
    folder = shared_data / "cinc2021" / "chapman-ningbo"
    found = {path.stem: grade(read_wfdb(path)) for path in sorted(folder.glob("*.hea"))}
    assert all(q.reversal == "" and not q.gain_suspect for q in found.values())
    missing = [LEADS[k] for k, g in enumerate(found["JS20004"].lead_grades) if g == "missing"]
    record = read_wfdb(folder / "JS20004.hea")
    assert missing == [n for n, m in zip(LEADS, record.lead_mask, strict=True) if not m] != []
    assert found["JS00001"].heart_rate_bpm == pytest.approx(114, abs=4)
    assert np.isnan(found["JS00001"].pr_ms)  # its codes: atrial fibrillation
    assert found["JS20007"].mains_hz == 50 and found["JS20006"].mains_hz == 50


def test_fast_enough_for_a_hospital(shared_data):
    """10 ms of a processor per record of 12 x 5,000 samples, whatever else the machine does."""
    record = read_wfdb(shared_data / "ptbxl" / "records500" / "00000" / "00001_hr.hea")
    grade(record)
    times = []
    for _ in range(10):
        start = time.process_time()
        grade(record)
        times.append(time.process_time() - start)
    assert min(times) < 0.1
