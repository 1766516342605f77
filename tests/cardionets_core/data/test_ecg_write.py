"""Neutral WFDB records: read back by wfdb itself and by the project's own reader."""

import numpy as np
import pytest

from cardionets_core.data.ecg import EcgRecord, read_wfdb
from cardionets_core.data.ecg_write import content_of, neutral_samples, write_wfdb
from cardionets_core.vocabulary import LEADS


def record_of(beats, *, rate=500.0, seconds=10, missing=(), offset=0.0):
    signal = beats(seconds, rate).T.astype(np.float32)
    mask = np.ones(12, dtype=bool)
    mask[list(missing)] = False
    signal[~mask] = 0
    signal[7] += offset
    return EcgRecord(signal, mask, rate)


@pytest.mark.parametrize("rate", [100.0, 500.0, 977.5, 1000.0])
def test_wfdb_reads_what_was_written(tmp_path, wfdb, beats, rate):
    record = record_of(beats, rate=rate, missing=(4, 8))
    write_wfdb(record, tmp_path, "abc")
    read = wfdb.rdrecord(str(tmp_path / "abc"))
    names = [lead for k, lead in enumerate(LEADS) if k not in (4, 8)]
    assert read.sig_name == names and read.fs == rate and set(read.fmt) == {"16"}
    assert read.comments == [] and read.base_date is None and read.units == ["mV"] * 10
    np.testing.assert_allclose(read.p_signal.T, record.signal[record.lead_mask], atol=5.1e-4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["abc.dat", "abc.hea"]
    digital = wfdb.rdrecord(str(tmp_path / "abc"), physical=False)
    assert digital.checksum == [int(np.int16(d.sum())) for d in digital.d_signal.T.astype(int)]


def test_our_reader_gives_the_same_tensor(tmp_path, beats):
    record = record_of(beats, missing=(8,))
    write_wfdb(record, tmp_path, "abc")
    read = read_wfdb(tmp_path / "abc.hea")
    np.testing.assert_array_equal(read.lead_mask, record.lead_mask)
    np.testing.assert_allclose(read.signal, record.signal, atol=5.1e-4)
    assert content_of(read) == content_of(record)


@pytest.mark.parametrize("offset", [31.0, 40.0, -300.0])
def test_an_electrodes_offset_is_kept(tmp_path, beats, offset):
    record = record_of(beats, offset=offset)
    write_wfdb(record, tmp_path, "abc")
    read = read_wfdb(tmp_path / "abc.hea")
    np.testing.assert_allclose(read.signal, record.signal, atol=6e-4)


def test_the_first_minute_is_kept(tmp_path, beats):
    record = record_of(beats, rate=100.0, seconds=75)
    assert neutral_samples(record).shape == (12, 6000)
    write_wfdb(record, tmp_path, "abc")
    read = read_wfdb(tmp_path / "abc.hea")
    np.testing.assert_allclose(read.signal, record.signal[:, :6000], atol=5.1e-4)


def test_content_tells_signals_apart(beats):
    record = record_of(beats)
    one_more = EcgRecord(record.signal.copy(), record.lead_mask, 500.0)
    assert content_of(one_more) == content_of(record)
    one_more.signal[3, 100] += 0.002
    fewer = record.lead_mask.copy()
    fewer[11] = False
    others = (
        one_more,
        EcgRecord(record.signal, record.lead_mask, 250.0),
        EcgRecord(record.signal, fewer, 500.0),
    )
    assert len({content_of(r) for r in (record, *others)}) == 4


def test_a_failed_write_leaves_nothing(tmp_path, beats, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_wfdb(record_of(beats), tmp_path, "abc")
    assert list(tmp_path.iterdir()) == []
