import numpy as np
import pytest

from cardionets_core.data.leads import lead_index, millivolts_per_unit, standard_leads
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.vocabulary import LEADS


@pytest.fixture
def columns(beats):
    return list(beats(4, 250).T)


def code_of(names, units, signals):
    with pytest.raises(RecordRefused) as refusal:
        standard_leads(names, units, signals)
    return refusal.value.code


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("I", 0), ("i", 0), ("Lead I", 0), ("DI", 0), ("MDC_ECG_LEAD_I", 0), (" II ", 1),
        ("AVR", 3), ("aVR", 3), ("avr", 3), ("ECG aVL", 4), ("lead_avf", 5), ("V1", 6), ("v6", 11),
        ("MLII", None), ("MCL1", None), ("V", None), ("ABP", None), ("", None), ("V7", None),
        ("vx", None), ("col 0", None), ("ECG 1", None),
    ],
)  # fmt: skip
def test_lead_names(name, index):
    assert lead_index(name) == index


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("mV", 1), ("mv", 1), ("MV", 1), ("uV", 1e-3), ("\u00b5V", 1e-3), ("\u03bcV", 1e-3),
        ("V", 1e3), ("NU", None), ("mmHg", None),
    ],
)  # fmt: skip
def test_units(unit, factor):
    assert millivolts_per_unit(unit) == factor


def test_order_and_scale(columns):
    order = [11, 0, 5, 1, 2, 3, 4, 10, 9, 8, 7, 6]
    names, units = [LEADS[k] for k in order], ["uV"] * 12
    signal, mask = standard_leads(names, units, [columns[k] * 1000 for k in order])
    assert mask.all() and signal.dtype == np.float32
    np.testing.assert_allclose(signal, np.stack(columns), atol=1e-6)


def test_eight_leads_become_twelve(columns):
    keep = [0, 1, 6, 7, 8, 9, 10, 11]
    signal, mask = standard_leads([LEADS[k] for k in keep], ["mV"] * 8, [columns[k] for k in keep])
    one, two = columns[0], columns[1]
    assert mask.all()
    np.testing.assert_allclose(signal[2], two - one, atol=1e-6)
    np.testing.assert_allclose(signal[3], -(one + two) / 2, atol=1e-6)
    np.testing.assert_allclose(signal[4], one - two / 2, atol=1e-6)
    np.testing.assert_allclose(signal[5], two - one / 2, atol=1e-6)


def test_without_lead_two_nothing_is_derived(columns):
    _, mask = standard_leads(["I", "V1"], ["mV", "mV"], [columns[0], columns[6]])
    assert np.flatnonzero(mask).tolist() == [0, 6]


def test_constant_leads_are_missing(columns):
    columns[7] = np.full_like(columns[7], 3.25)
    columns[9] = np.zeros_like(columns[9])
    signal, mask = standard_leads(LEADS, ["mV"] * 12, columns)
    assert np.flatnonzero(~mask).tolist() == [7, 9]
    assert not signal[[7, 9]].any()


def test_short_gaps_are_bridged_and_long_ones_mask_the_lead(columns):
    truth = columns[6].copy()
    columns[6] = truth.copy()
    columns[6][400:420] = np.nan
    columns[8] = columns[8].copy()
    columns[8][100:300] = np.nan
    columns[10] = columns[10].copy()
    columns[10][5] = np.inf
    signal, mask = standard_leads(LEADS, ["mV"] * 12, columns)
    assert np.flatnonzero(~mask).tolist() == [8]
    line = np.interp(np.arange(400, 420), [399, 420], truth[[399, 420]])
    np.testing.assert_allclose(signal[6, 400:420], line, atol=1e-6)
    assert np.isfinite(signal).all() and abs(signal[10, 5]) < 5


def test_ends_that_no_lead_has_are_cut(columns):
    padded = [np.pad(c, (300, 100), constant_values=np.nan) for c in columns]
    signal, mask = standard_leads(LEADS, ["mV"] * 12, padded)
    assert mask.all()
    np.testing.assert_allclose(signal, np.stack(columns), atol=1e-6)


def test_a_lead_with_a_broken_scale_is_missing_and_breaks_no_other(columns):
    for scale in (1e6, 1e300):
        broken = [c * scale if k == 7 else c for k, c in enumerate(columns)]
        signal, mask = standard_leads(LEADS, ["mV"] * 12, broken)
        np.testing.assert_array_equal(np.flatnonzero(~mask), [7])
        np.testing.assert_array_equal(signal[7], 0)
        np.testing.assert_allclose(signal[8], columns[8], atol=1e-6)
    spike = [np.where(np.arange(1000) == 500, 1e5, columns[1])]
    assert code_of(["II"], ["mV"], spike) == "implausible_amplitude"


def test_refusals(columns):
    empty = [np.full(100, np.nan)] * 12
    assert code_of(["ABP"], ["mmHg"], columns[:1]) == "no_standard_lead"
    assert code_of(["V1", "v1"], ["mV", "mV"], columns[:2]) == "duplicate_lead"
    assert code_of(["V1"], ["mmHg"], columns[:1]) == "units"
    assert code_of(LEADS, ["mV"] * 12, [np.ones(100)] * 12) == "no_usable_lead"
    assert code_of(LEADS, ["mV"] * 12, empty) == "no_usable_lead"
    assert code_of(LEADS, ["V"] * 12, columns) == "implausible_amplitude"
    assert code_of(LEADS, ["uV"] * 12, columns) == "implausible_amplitude"
