"""The same heart through two formats gives the same tensor, for a small and the largest preset."""

from functools import cache

import numpy as np
import pytest

from cardionets_core.data.ecg import read_wfdb
from cardionets_core.data.transforms import prepare_ecg
from cardionets_core.run_config import model_preset

PRESETS = ("tiny", "paper")


@cache
def spec_of(preset):
    return model_preset(preset).ecg


def tensor(path, preset):
    return prepare_ecg(read_wfdb(path), spec_of(preset))


@pytest.mark.parametrize("preset", PRESETS)
def test_cinc_and_ptbxl_are_equal(shared_data, preset):
    """CinC's HR00002 to HR00005 (.mat) are PTB-XL's records 2 to 5 (.dat) at 500 Hz, exactly."""
    for k in range(2, 6):
        cinc = tensor(shared_data / f"cinc2021/ptb-xl/HR0000{k}.hea", preset)
        ptbxl = tensor(shared_data / f"ptbxl/records500/00000/0000{k}_hr.hea", preset)
        np.testing.assert_array_equal(cinc, ptbxl)


@pytest.mark.parametrize("preset", PRESETS)
def test_two_releases_of_one_ptb_record(shared_data, preset):
    """S0001 of CinC (steps of 1 uV, .mat) is s0010_re of PTB (steps of 0.5 uV, 15 leads)."""
    cinc = tensor(shared_data / "cinc2021/ptb/S0001.hea", preset)
    ptb = tensor(shared_data / "wfdb-edge/s0010_re.hea", preset)
    np.testing.assert_allclose(cinc, ptb, rtol=0, atol=0.01)


def shifted(x, samples):
    """Delay [12, n] by a fraction of a sample."""
    phase = np.exp(-2j * np.pi * np.fft.rfftfreq(x.shape[1]) * samples)
    return np.fft.irfft(np.fft.rfft(x, axis=1) * phase, n=x.shape[1], axis=1)


def compared(shared_data, preset):
    """Each record of PTB-XL at 100 and at 500 Hz, float64 [12, n] from 1.5 to 7 s.

    What is known of the release: its 100 Hz version runs 1.25 ms ahead, was resampled by FFT (ends
    wrap around), and the 500 Hz version ends in 0.1 s of standing values, a step that the high pass
    spreads over the last seconds.
    """
    rate = spec_of(preset).sampling_rate_hz
    inner = slice(round(1.5 * rate), 7 * rate)
    paths = sorted((shared_data / "ptbxl" / "records500").rglob("*.hea"))
    assert len(paths) == 30
    for path in paths:
        low = shared_data / "ptbxl/records100/00000" / path.name.replace("_hr", "_lr")
        late = shifted(tensor(low, preset).astype(np.float64), 0.00125 * rate)
        yield late[:, inner], tensor(path, preset)[:, inner].astype(np.float64)


def test_ptbxl_at_100_and_500_hz_tiny(shared_data):
    """Root mean square of the difference over the signal's: 0.3 % in the median.

    Record 12 alone is above 1.5 %: 2.7 %, for its start is steep and the wrapping FFT rings there.
    """
    gaps = sorted(np.std(a - b) / np.std(b) for a, b in compared(shared_data, "tiny"))
    assert np.median(gaps) < 0.005 and gaps[-2] < 0.015 and gaps[-1] < 0.035


def test_ptbxl_at_100_and_500_hz_paper(shared_data):
    """One mean and sd over all leads and time: the ends that differ change the scale of the rest.

    Up to 10 % in scale; of the difference that is left 0.65 % in the median, 3 % at most (what lies
    between 40 and 50 Hz is cut more at 100 Hz).
    """
    scales, gaps = [], []
    for a, b in compared(shared_data, "paper"):
        scale = (a * b).sum() / (a * a).sum()
        scales.append(scale)
        gaps.append(np.std(scale * a - b) / np.std(b))
    assert 0.95 < min(scales) and max(scales) < 1.12
    assert max(gaps) < 0.03 and np.median(gaps) < 0.011
