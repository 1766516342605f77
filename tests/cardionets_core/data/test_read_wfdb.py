import numpy as np
import pytest

from cardionets_core.data.ecg import RATES_HZ, read_wfdb
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.vocabulary import LEADS


def test_round_trip_through_wfdb(tmp_path, write_ecg, beats):
    values = beats(10, 500)
    record = read_wfdb(write_ecg(tmp_path, "r", values=values, gain=1000.0))
    assert record.signal.shape == (12, 5000) and record.signal.dtype == np.float32
    assert record.sampling_rate_hz == 500.0 and record.lead_mask.all()
    np.testing.assert_allclose(record.signal, values.T, atol=5.1e-4)


@pytest.mark.parametrize("fmt", ["16", "24", "32", "212", "80", "508", "516", "524"])
def test_every_format_reads_as_wfdb_reads_it(tmp_path, write_ecg, wfdb, fmt, beats):
    gain = 40.0 if fmt in ("80", "508") else 100.0
    values = np.clip(beats(4, 250), -2.5, 2.5)
    path = write_ecg(tmp_path, "r", values=values, rate=250, fmt=fmt, gain=gain)
    truth = wfdb.rdsamp(str(path.with_suffix("")))[0].T
    np.testing.assert_allclose(read_wfdb(path).signal, truth, atol=1e-6)


def test_units_and_lead_names_of_devices(tmp_path, write_ecg, beats):
    values = beats(10, 500)
    names = [lead.upper() for lead in LEADS]
    path = write_ecg(tmp_path, "r", values=values * 1000, names=names, units=["uV"] * 12, gain=1.0)
    np.testing.assert_allclose(read_wfdb(path).signal, values.T, atol=6e-4)


def test_micro_sign_is_not_lost(tmp_path, write_ecg, beats):
    values = beats(10, 500)
    path = write_ecg(tmp_path, "r", values=values * 1000, units=["uV"] * 12, gain=1.0)
    path.write_text(path.read_text().replace("uV", "\u00b5V"), encoding="utf-8")
    np.testing.assert_allclose(read_wfdb(path).signal, values.T, atol=6e-4)


def test_missing_samples_of_format_16(tmp_path, write_ecg, beats):
    values = beats(10, 500)
    values[100:120, 6] = np.nan
    values[:2000, 8] = np.nan
    record = read_wfdb(write_ecg(tmp_path, "r", values=values))
    assert np.flatnonzero(~record.lead_mask).tolist() == [8]
    assert np.isfinite(record.signal).all()


def test_header_without_a_length(tmp_path, write_ecg):
    path = write_ecg(tmp_path, "r")
    whole = read_wfdb(path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(["r 12 500", *lines[1:]]))
    np.testing.assert_array_equal(read_wfdb(path).signal, whole.signal)


def test_only_the_beginning_of_a_long_recording_is_read(tmp_path, write_ecg, wfdb):
    values = np.sin(np.arange(60 * 400)[:, None] / 20.0)
    path = write_ecg(tmp_path, "r", values=values, rate=60, names=["II"])
    assert read_wfdb(path).signal.shape == (12, 300 * 60 + 1)


def test_leads_of_different_rates_are_refused(tmp_path, wfdb, beats):
    signals = [beats(4, 250)[:, 0], beats(4, 500)[:, 1]]
    wfdb.wrsamp(
        "r", fs=250, units=["mV"] * 2, sig_name=["I", "II"], e_p_signal=signals,
        samps_per_frame=[1, 2], fmt=["16"] * 2, adc_gain=[1000.0] * 2, baseline=[0] * 2,
        write_dir=str(tmp_path),
    )  # fmt: skip
    with pytest.raises(RecordRefused, match="mixed_rates"):
        read_wfdb(tmp_path / "r.hea")


def test_several_samples_a_frame(tmp_path, wfdb, beats):
    values = beats(4, 500)
    wfdb.wrsamp(
        "r", fs=250, units=["mV"] * 3, sig_name=["I", "II", "resp"],
        e_p_signal=[values[:, 0], values[:, 1], values[::2, 2]], samps_per_frame=[2, 2, 1],
        fmt=["16"] * 3, adc_gain=[1000.0] * 3, baseline=[0] * 3, write_dir=str(tmp_path),
    )  # fmt: skip
    record = read_wfdb(tmp_path / "r.hea")
    assert record.sampling_rate_hz == 500.0
    np.testing.assert_allclose(record.signal[:2], values[:, :2].T, atol=6e-4)


def test_rates_that_are_no_ecg(tmp_path, write_ecg):
    path = write_ecg(tmp_path, "r", values=np.random.default_rng(0).normal(size=(500, 12)), rate=10)
    with pytest.raises(RecordRefused, match="sampling_rate"):
        read_wfdb(path)
    assert RATES_HZ[0] > 10


def test_a_torn_compressed_file_is_unreadable(tmp_path, write_ecg):
    path = write_ecg(tmp_path, "r", fmt="516")
    for data in tmp_path.glob("r*"):
        if data.suffix != ".hea":
            data.write_bytes(data.read_bytes()[:60])
    with pytest.raises(RecordRefused, match="unreadable"):
        read_wfdb(path)


def test_absent_files(tmp_path, write_ecg):
    with pytest.raises(RecordRefused, match="missing_file"):
        read_wfdb(tmp_path / "r.hea")
    path = write_ecg(tmp_path, "r")
    (tmp_path / "r.dat").unlink()
    with pytest.raises(RecordRefused, match="missing_file"):
        read_wfdb(path)


def test_refusals_name_no_file(tmp_path, write_ecg):
    path = write_ecg(tmp_path, "Jane_Doe_19610203")
    path.with_suffix(".dat").unlink()
    with pytest.raises(RecordRefused) as refusal:
        read_wfdb(path)
    assert "Jane" not in str(refusal.value) and str(tmp_path) not in str(refusal.value)
