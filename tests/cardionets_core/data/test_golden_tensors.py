"""Tensors of real records, pinned: by a script that shares no code with ours, and by numbers.

The script reads with wfdb.rdrecord and works in float64 with scipy's transfer functions (filtfilt)
where ours uses its own reader, sections and float32 records. Presets: `tiny` (100 Hz), `small`
(250 Hz), `paper` (250 Hz, no notch, one mean and sd over all leads and time).
"""

from functools import cache

import numpy as np
import pytest
from scipy import signal

from cardionets_core.data.ecg import read_wfdb
from cardionets_core.data.transforms import prepare_ecg
from cardionets_core.run_config import model_preset

LEADS = ["I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6"]

PTBXL = "ptbxl/records100/00000/00001_lr"
CHAPMAN = "cinc2021/chapman-ningbo/JS00001"
HUMMING = "cinc2021/chapman-ningbo/JS20007"
PTB = "wfdb-edge/s0010_re"

MAINS = {PTBXL: None, CHAPMAN: None, HUMMING: 50.0, PTB: 50.0}
"""Where a periodogram over ten seconds shows a line that stands out (by eye)."""

# preset -> rate, mV per unit (None: one mean and sd over all), notch
SETTINGS = {"tiny": (100, 0.3, True), "small": (250, 0.3, True), "paper": (250, None, False)}

TOLERANCE = 1e-5
"""In units of the tensor (tiny: 3 nV); measured: 1e-6, from float32 and another form of filters."""


def independent_tensor(wfdb, path, preset, mains_hz):
    """wfdb and scipy only; float64 [12, 10 s]."""
    rate, unit_mv, notch = SETTINGS[preset]
    record = wfdb.rdrecord(str(path))
    names = [name.upper() for name in record.sig_name]
    x = record.p_signal[:, [names.index(lead) for lead in LEADS]].T
    if notch and mains_hz is not None:
        x = signal.filtfilt(*signal.iirnotch(mains_hz, mains_hz / 2.0, fs=record.fs), x, axis=1)
    if record.fs != rate:
        x = signal.resample_poly(x, rate, int(record.fs), axis=1, padtype="line")
    for kind, hz in (("highpass", 0.67), ("lowpass", 40.0)):
        x = signal.filtfilt(*signal.butter(5, hz, kind, fs=rate), x, axis=1)
    x = x[:, : 10 * rate]
    return (x - x.mean()) / x.std() if unit_mv is None else x / unit_mv


@cache
def spec_of(preset):
    return model_preset(preset).ecg


def tensor(shared_data, name, preset):
    return prepare_ecg(read_wfdb(shared_data / f"{name}.hea"), spec_of(preset))


@pytest.mark.parametrize("preset", SETTINGS)
@pytest.mark.parametrize("name", MAINS)
def test_against_an_independent_script(shared_data, wfdb, name, preset):
    expected = independent_tensor(wfdb, shared_data / name, preset, MAINS[name])
    found = tensor(shared_data, name, preset)
    assert found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def numbers(x):
    """Sd of I, II, V2 and V6; V5 at 5 s; the greatest value; and all values in one number."""
    pattern = np.cos(np.arange(x.size) ** 2 % 1009)
    whole = float(x.astype(np.float64).ravel() @ pattern / np.sqrt(x.size))
    middle = float(x[10, x.shape[1] // 2])
    return (*x[[0, 1, 7, 11]].std(axis=1), middle, x.max(), whole)


# by numbers(independent_tensor(...)), 22 November 2026, scipy 1.16
GOLDEN = {
    (PTBXL, "tiny"): (0.3178, 0.2631, 0.709, 0.3074, -0.1046, 2.0783, -0.1841),
    (PTBXL, "small"): (0.313, 0.2573, 0.7079, 0.2967, -0.1017, 2.0477, -0.0701),
    (PTBXL, "paper"): (0.9234, 0.7589, 2.0884, 0.8752, -0.3025, 6.0383, -0.2038),
    (CHAPMAN, "tiny"): (0.1949, 0.3028, 0.9044, 1.1057, -0.304, 4.4841, -0.2881),
    (CHAPMAN, "small"): (0.2001, 0.3059, 0.9008, 1.1085, -0.2984, 4.5792, -0.1649),
    (CHAPMAN, "paper"): (0.3064, 0.4684, 1.3793, 1.6971, -0.4381, 7.03, -0.2768),
    (HUMMING, "tiny"): (0.4089, 0.4795, 1.1592, 1.9279, 0.047, 14.7941, -1.3904),
    (HUMMING, "small"): (0.3884, 0.4658, 1.0454, 1.787, 0.0451, 13.7974, 0.1243),
    (HUMMING, "paper"): (0.3685, 0.4429, 0.9928, 2.1256, 0.0161, 18.0417, 0.32),
    (PTB, "tiny"): (0.4428, 0.4022, 0.7632, 0.2794, 0.1784, 5.4743, -0.1529),
    (PTB, "small"): (0.4409, 0.3995, 0.7576, 0.2772, 0.173, 5.6181, 0.0714),
    (PTB, "paper"): (0.7549, 0.684, 1.297, 0.4744, 0.2935, 9.621, 0.1241),
}


@pytest.mark.parametrize(("name", "preset"), GOLDEN)
def test_pinned_numbers(shared_data, name, preset):
    found = numbers(tensor(shared_data, name, preset))
    assert found == pytest.approx(GOLDEN[name, preset], abs=2e-4)


def test_the_notch_is_what_differs_where_there_is_a_line(shared_data, wfdb):
    """JS20007 hums at up to 1.4 mV; the other records hold no line and are equal without notch."""
    path = shared_data / HUMMING
    with_notch, without = (independent_tensor(wfdb, path, "small", hz) for hz in (50.0, None))
    assert np.abs(with_notch - without).max() > 0.1
    found = tensor(shared_data, HUMMING, "small")
    assert np.abs(found - without).max() > 100 * np.abs(found - with_notch).max()
