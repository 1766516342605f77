"""Grades per lead: faults made by hand, and leads that cardiologists of PTB-XL marked."""

import re
from dataclasses import replace

import numpy as np
import pytest

from cardionets_core.data.ecg import EcgRecord
from cardionets_core.quality.beats import display_filter
from cardionets_core.quality.grades import grade
from cardionets_core.quality.lead_grades import drift_mv, lead_grades, noise_mv
from cardionets_core.vocabulary import LEADS

RATES = [100.0, 250.0, 500.0, 1000.0]


def grades_with(record, lead, change):
    """Grades of `record` after `change` of one lead (float64 [n] -> [n])."""
    signal = record.signal.astype(np.float64)
    signal[lead] = change(signal[lead])
    changed = replace(record, signal=signal.astype(np.float32))
    return lead_grades(changed, display_filter(changed))


def one_fault(lead, word):
    return tuple(word if k == lead else "good" for k in range(12))


@pytest.mark.parametrize("rate", RATES)
def test_a_clean_record_is_good(beats_of, rate):
    record = beats_of(rate=rate)
    assert lead_grades(record, display_filter(record)) == ("good",) * 12
    assert grade(record).overall == "good"


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("side", [1, -1])
def test_clipped(beats_of, rate, side):
    """QRS cut at 60 % of its height, upright or upside down."""
    record = beats_of(rate=rate, qrs_ms=110)

    def cut(lead):
        top = 0.6 * np.abs(lead).max()
        return np.clip(side * lead, -top, top)

    assert grades_with(record, 10, cut) == one_fault(10, "clipped")


@pytest.mark.parametrize("rate", RATES)
def test_flat_for_most_of_it(beats_of, rate):
    record = beats_of(rate=rate)
    start = round(3 * rate)

    def fall_off(lead):
        lead[start:] = lead[start]
        return lead

    assert grades_with(record, 8, fall_off) == one_fault(8, "flat")


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("mv", "word"), [(0.15, "good"), (0.4, "baseline")])
def test_drift(beats_of, rate, mv, word):
    record = beats_of(rate=rate)
    t = np.arange(record.signal.shape[1]) / rate
    found = grades_with(record, 3, lambda lead: lead + mv * np.sin(2 * np.pi * 0.15 * t))
    assert found == one_fault(3, word)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("mv", "word"), [(0.008, "good"), (0.06, "noise")])
def test_noise(beats_of, rate, mv, word):
    """Noise of one strength below 50 Hz, whatever the rate."""
    record = beats_of(rate=rate, noise_mv=0.001)
    spread = mv * np.sqrt(rate / 100)
    noise = np.random.default_rng(3).normal(0, spread, record.signal.shape[1])
    assert grades_with(record, 11, lambda lead: lead + noise) == one_fault(11, word)


def test_noise_is_measured_between_the_beats(beats_of):
    quiet = beats_of(noise_mv=0.001)
    assert noise_mv(display_filter(quiet), 500.0).max() < 0.002
    assert drift_mv(quiet.signal, 500.0).max() < 0.05


def test_missing_leads_and_what_follows_from_how_many(beats_of):
    record = beats_of()
    for missing, overall in ((2, "good"), (3, "usable"), (6, "usable"), (7, "poor")):
        mask = np.arange(12) >= missing
        found = grade(EcgRecord(record.signal * mask[:, None], mask, 500.0))
        assert found.lead_grades == ("missing",) * missing + ("good",) * (12 - missing)
        assert found.overall == overall


def _marked(text):
    """Leads that a note of PTB-XL names: 'alles', 'I-AVF', 'V3', 'III,V3', 'V2,3'."""
    names = [lead.upper() for lead in LEADS]
    found = set(names) if "ALLE" in text.upper() else set()
    for part in re.split("[, ]+", text.upper()):
        ends = [name if name in names else f"V{name}" for name in part.split("-")]
        if all(end in names for end in ends):
            first, last = names.index(ends[0]), names.index(ends[-1])
            found |= set(names[first : last + 1])
    return np.array([name in found for name in names])


def test_leads_that_cardiologists_marked(ptbxl, ptbxl_rows, graded, capsys):
    """Marked leads stand out of the others (area under the ROC over leads), and few others do."""
    drift = np.array([drift_mv(r.signal, 100.0) for r in ptbxl])
    noise = np.array([noise_mv(display_filter(r), 100.0) for r in ptbxl])
    grades = np.array([q.lead_grades for q in graded])
    areas, shares = {}, {}
    for word, column, values in (
        ("baseline", "baseline_drift", drift),
        ("noise", "static_noise", noise),
    ):
        marked = np.array([_marked(row[column]) for row in ptbxl_rows])
        ranks = values.ravel().argsort().argsort() + 1.0
        yes = marked.sum()
        areas[word] = (ranks[marked.ravel()].sum() - yes * (yes + 1) / 2) / (yes * (~marked).sum())
        shares[word] = [(grades[where] == word).mean() for where in (marked, ~marked)]
        with capsys.disabled():
            text = "area {:.2f}, graded so: {:.0%} of {} marked leads, {:.1%} of the others"
            print(
                f"\nPTB-XL, {column}: "
                + text.format(areas[word], shares[word][0], yes, shares[word][1]),
                end="",
            )
    assert areas["baseline"] > 0.9 and areas["noise"] > 0.75
    assert shares["baseline"][0] > 0.5 and shares["baseline"][1] < 0.06
    assert shares["noise"][0] > 5 * shares["noise"][1] and shares["noise"][1] < 0.03
    assert not np.isin(grades, ["flat", "clipped", "missing"]).any()
