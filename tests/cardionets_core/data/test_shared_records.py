"""Real files: the same record through two formats, pinned tensors, every corner case."""

import numpy as np
import pytest
from scipy import signal

from cardionets_core.data.ecg import read_wfdb
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.data.transforms import prepare_ecg
from cardionets_core.model_config import EcgSpec
from cardionets_core.vocabulary import LEADS

SPEC = EcgSpec()


def tensor(path):
    return prepare_ecg(read_wfdb(path), SPEC)


def independent_tensor(wfdb, path):
    """wfdb and scipy only: rdsamp, resample, sosfiltfilt, cut, scale."""
    values, fields = wfdb.rdsamp(str(path.with_suffix("")))
    names = [name.upper() for name in fields["sig_name"]]
    columns = [names.index(lead.upper()) for lead in LEADS]
    x = values[:, columns].T
    if fields["fs"] != 100:
        x = signal.resample_poly(x, 100, int(fields["fs"]), axis=1, padtype="line")
    for kind, hz in (("highpass", 0.67), ("lowpass", 40.0)):
        x = signal.sosfiltfilt(signal.butter(5, hz, kind, fs=100, output="sos"), x, axis=1)
    return x[:, :1000] / 0.3


@pytest.mark.parametrize(
    "name",
    [
        "ptbxl/records100/00000/00001_lr.hea",
        "ptbxl/records500/00000/00012_hr.hea",
        "cinc2021/chapman-ningbo/JS00001.hea",
        "cinc2021/chapman-ningbo/JS20011.hea",
        "cinc2021/ptb/S0001.hea",
        "wfdb-edge/s0010_re.hea",
    ],
)
def test_against_an_independent_script(shared_data, wfdb, name):
    """Without the notch; with it: test_golden_tensors.py."""
    path = shared_data / name
    found = prepare_ecg(read_wfdb(path), EcgSpec(mains_notch=False))
    np.testing.assert_allclose(found, independent_tensor(wfdb, path), atol=2e-5)


GOLDEN = {
    # sd of leads I, II, V2, V6 and the voltage (mV) of V5 at 5 s, by independent_tensor
    "ptbxl/records100/00000/00001_lr.hea": (0.31778, 0.26312, 0.70904, 0.30742, -0.03137),
    "ptbxl/records500/00000/00002_hr.hea": (0.38231, 0.56149, 1.37717, 0.55165, -0.11181),
    "cinc2021/chapman-ningbo/JS00001.hea": (0.19494, 0.30275, 0.90439, 1.10565, -0.09119),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_pinned_tensors(shared_data, name):
    x = tensor(shared_data / name)
    found = (*x[[0, 1, 7, 11]].std(axis=1), x[10, 500] * SPEC.scale_mv)
    assert found == pytest.approx(GOLDEN[name], abs=2e-4)


def test_ptbxl_at_100_and_500_hz(shared_data):
    """Away from the ends: PTB-XL resampled by FFT, which wraps its last beats around.

    Its 100 Hz version also runs 1.25 ms ahead of the 500 Hz one, which is 10 % of the sd of a QRS.
    """
    for path in sorted((shared_data / "ptbxl" / "records500").rglob("*.hea")):
        low = shared_data / "ptbxl/records100/00000" / path.name.replace("_hr", "_lr")
        one, other = tensor(low)[:, 100:-100], tensor(path)[:, 100:-100]
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.985
        assert np.sqrt(((one - other) ** 2).mean()) < 0.16 * other.std()
        assert one.std() == pytest.approx(other.std(), rel=0.02)


def test_cinc_and_ptbxl_hold_the_same_records(shared_data):
    for k in range(2, 6):
        cinc = shared_data / "cinc2021" / "ptb-xl" / f"HR0000{k}.hea"
        ptbxl = shared_data / "ptbxl" / "records500" / "00000" / f"0000{k}_hr.hea"
        np.testing.assert_array_equal(tensor(cinc), tensor(ptbxl))


def test_two_releases_of_one_ptb_record(shared_data):
    """S0001 of CinC is s0010_re of PTB, at 16 bit steps of 1 uV instead of 0.5 uV."""
    cinc = tensor(shared_data / "cinc2021" / "ptb" / "S0001.hea")
    ptb = tensor(shared_data / "wfdb-edge" / "s0010_re.hea")
    np.testing.assert_allclose(cinc, ptb, atol=0.02)


def test_every_cinc_record_reads_as_wfdb_reads_it(shared_data, wfdb):
    paths = sorted((shared_data / "cinc2021").rglob("*.hea"))
    assert len(paths) == 35
    for path in paths:
        record = read_wfdb(path)
        values, _ = wfdb.rdsamp(str(path.with_suffix("")))
        varies = np.ptp(values, axis=0) > 0
        np.testing.assert_array_equal(record.lead_mask, varies)
        np.testing.assert_allclose(record.signal[varies], values.T[varies], atol=1e-5)


EDGE = {
    "03700181": "no_standard_lead",  # MCL1 and pressures
    "310derive": "no_standard_lead",
    "311derive": "no_standard_lead",
    "binformats": "no_standard_lead",
    "flacformats": "no_standard_lead",
    "test01_00s": "no_standard_lead",  # names are "ECG 1" to "ECG 4"
    "test01_00s_skew": "no_standard_lead",
    "s25047-2704-05-04-10-44n": "no_standard_lead",  # heart rates, once a minute
    "3234460_layout": "header",  # describes signals, has none
    "3234460_0005": "implausible_amplitude",  # four samples of silence
    "100-no-len": ("V5",),
    "100skew": ("V5",),
    "100_3chan": ("I", "II", "III", "aVR", "aVL", "aVF"),
    "3000003_0003": ("II",),
    "a103l": ("II",),
    "a103l-no-len": ("II",),
    "v102s": ("II",),
    "mixedsignals": ("II", "III"),
    "041s": ("I", "III"),
    "041s01": ("I", "III"),
    "041s02": ("I", "III"),
    "s25047-2704-05-04-10-44": ("II",),
    "s0010_re": LEADS,
}
SEGMENTS = tuple(f"3234460_{k:04d}" for k in range(1, 19) if k != 5)


def test_every_corner_case_is_read_or_refused_with_its_reason(shared_data):
    paths = {path.stem: path for path in (shared_data / "wfdb-edge").rglob("*.hea")}
    expected = EDGE | dict.fromkeys(SEGMENTS, ("II",))
    assert set(paths) == set(expected)
    for name, outcome in expected.items():
        try:
            record = read_wfdb(paths[name])
        except RecordRefused as refusal:
            assert refusal.code == outcome, name
        else:
            found = tuple(lead for lead, has in zip(LEADS, record.lead_mask, strict=True) if has)
            assert found == outcome, name


def test_each_format_of_the_corner_cases(shared_data, wfdb, tmp_path):
    """One signal of each format, renamed to lead II and scaled to a believable voltage."""
    truth = {}
    for name in ("binformats", "flacformats"):
        record = wfdb.rdrecord(str(shared_data / "wfdb-edge" / name), physical=False)
        columns = zip(record.fmt, record.init_value, record.d_signal.T, strict=True)
        truth |= dict(zip(record.file_name, columns, strict=True))
    for name, (fmt, start, digital) in truth.items():
        (tmp_path / name).write_bytes((shared_data / "wfdb-edge" / name).read_bytes())
        gain = float(np.ptp(digital)) / 2
        text = f"r 1 200 499\n{name} {fmt} {gain!r}(0)/mV 16 0 {start} 0 0 II\n"
        (tmp_path / "r.hea").write_text(text)
        found = read_wfdb(tmp_path / "r.hea").signal[1]
        np.testing.assert_allclose(found, digital / gain, atol=1e-3)


def test_short_segments_are_too_short(shared_data):
    path = shared_data / "wfdb-edge" / "multi-segment" / "s25047" / "3234460_0002.hea"
    with pytest.raises(RecordRefused, match="too_short"):
        tensor(path)


def test_multi_segment_and_mixed_rates_agree_with_wfdb(shared_data, wfdb):
    folder = shared_data / "wfdb-edge"
    record = read_wfdb(folder / "multi-segment" / "041s" / "041s.hea")
    truth = wfdb.rdrecord(str(folder / "multi-segment/041s/041s"), smooth_frames=False)
    assert record.sampling_rate_hz == 500.0
    for lead, column in ((2, 0), (0, 1)):
        known = np.isfinite(truth.e_p_signal[column])  # a sample of I is missing and bridged
        assert known.mean() > 0.99
        found = record.signal[lead][known]
        np.testing.assert_allclose(found, truth.e_p_signal[column][known], atol=1e-6)
    mixed = read_wfdb(folder / "mixedsignals.hea")
    assert mixed.sampling_rate_hz == pytest.approx(249.89)
