"""The real file against pydicom's own decoding, and files written with pydicom."""

import warnings

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    GeneralECGWaveformStorage,
    ImplicitVRLittleEndian,
    MRImageStorage,
    TwelveLeadECGWaveformStorage,
)

from cardionets_core.sources import dicom_ecg

EIGHT = ["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"]
SCP = dict(zip(EIGHT, [1, 2, 3, 4, 5, 6, 7, 8], strict=True)) | {
    "III": 61, "aVR": 62, "aVL": 63, "aVF": 64,
}  # fmt: skip
FILE = "ecg-vendor-formats/waveform_ecg_scrubbed.dcm"


def coded(value, scheme, meaning):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return Sequence([item])


def channel(lead, *, sensitivity="0.00125", unit="mV", **more):
    item = Dataset()
    item.ChannelSourceSequence = coded(f"5.6.3-9-{SCP[lead]}", "SCPECG", f"Lead {lead}")
    item.ChannelSensitivity = sensitivity
    item.ChannelSensitivityUnitsSequence = coded(unit, "UCUM", "")
    item.ChannelSensitivityCorrectionFactor, item.ChannelBaseline = "1", "0"
    item.ChannelSampleSkew, item.WaveformBitsStored = "0", 16
    for keyword, value in more.items():
        setattr(item, keyword, value)
    return item


def group(stored, channels, *, rate="500", label="RHYTHM", kind="SS", order="<", **more):
    """Stored: integers [samples, channels]."""
    item = Dataset()
    item.WaveformOriginality, item.MultiplexGroupLabel = "ORIGINAL", label
    item.NumberOfWaveformChannels, item.NumberOfWaveformSamples = len(channels), len(stored)
    item.SamplingFrequency = rate
    item.ChannelDefinitionSequence = Sequence(channels)
    bits = {"SS": 16, "US": 16, "SB": 8, "UB": 8, "SL": 32}[kind]
    item.WaveformBitsAllocated, item.WaveformSampleInterpretation = bits, kind
    letter = "u" if kind.startswith("U") else "i"
    data = np.asarray(stored).astype(f"{order}{letter}{bits // 8}").tobytes()
    item.add_new("WaveformData", "OB" if bits == 8 else "OW", data + bytes(len(data) % 2))
    for keyword, value in more.items():
        setattr(item, keyword, value)
    return item


@pytest.fixture
def save(tmp_path):
    def write(*groups, syntax=ExplicitVRLittleEndian, kind=TwelveLeadECGWaveformStorage, **more):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = kind
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
        dataset.WaveformSequence = Sequence(groups)
        for keyword, value in more.items():
            setattr(dataset, keyword, value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some values are wrong on purpose
            dataset.save_as(tmp_path / "ecg.dcm", enforce_file_format=True)
        return tmp_path / "ecg.dcm"

    return write


@pytest.fixture
def read(save, tmp_path):
    return lambda *groups, **more: dicom_ecg.read(save(*groups, **more), "", root=tmp_path)


@pytest.fixture
def eight(heart):
    """Stored values of 1.25 uV, int [5000, 8]."""
    leads = heart()[[0, 1, 6, 7, 8, 9, 10, 11]]
    return np.round(leads / 0.00125).astype(int).T


def test_the_real_file_as_pydicom_decodes_it(shared_data):
    ecg = dicom_ecg.read(shared_data / FILE, "", root=shared_data)
    golden = pydicom.dcmread(shared_data / FILE).waveform_array(0).T / 1000
    assert golden.shape == (12, 10_000) and ecg.record.sampling_rate_hz == 1000
    np.testing.assert_allclose(ecg.record.signal, golden, atol=1e-6)
    assert ecg.record.lead_mask.all()
    signal = ecg.record.signal
    assert np.abs(signal[1] - signal[0] - signal[2]).max() < 0.002  # Einthoven
    person = ecg.facts.person
    assert (person.patient_id, person.sex, person.age) == ("ANON", 0, 42)
    assert ecg.facts.recorded.year == 2000 and ecg.facts.codes == ()


def test_recognised_by_its_class(shared_data, save, eight):
    assert dicom_ecg.recognises("x", (shared_data / FILE).read_bytes()[:4096])
    a_group = group(eight, [channel(lead) for lead in EIGHT])
    general = save(a_group, kind=GeneralECGWaveformStorage)
    assert dicom_ecg.recognises("x", general.read_bytes()[:4096])
    assert not dicom_ecg.recognises("x.dcm", save(a_group, kind=MRImageStorage).read_bytes()[:4096])
    pressure = save(a_group, kind="1.2.840.10008.5.1.4.1.1.9.2.1")  # haemodynamic waveforms
    assert not dicom_ecg.recognises("x.dcm", pressure.read_bytes()[:4096])
    assert not dicom_ecg.recognises("x.dcm", b"1.2.840.10008.5.1.4.1.1.9.1.1")


@pytest.mark.parametrize(
    ("syntax", "order"),
    [(ExplicitVRLittleEndian, "<"), (ImplicitVRLittleEndian, "<"), (ExplicitVRBigEndian, ">")],
)
def test_eight_leads_in_every_byte_order(read, eight, heart, syntax, order):
    stored = group(eight, [channel(lead) for lead in EIGHT], order=order)
    record = read(stored, syntax=syntax).record
    assert record.lead_mask.all()  # the other four follow from I and II
    np.testing.assert_allclose(record.signal, heart(), atol=0.002)


def test_scale_is_sensitivity_times_correction_plus_baseline(read, eight):
    channels = [
        channel(
            lead,
            unit="uV",
            sensitivity="2.5",
            ChannelSensitivityCorrectionFactor="1.02",
            ChannelBaseline="100",
        )
        for lead in EIGHT
    ]
    record = read(group(eight, channels)).record
    golden = (eight[:, 0] * 2.5 * 1.02 + 100) / 1000  # by hand, PS3.3 C.10.9.1.4
    np.testing.assert_allclose(record.signal[0], golden, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "shift", "scale"), [("UB", 100, 40), ("SB", 0, 40), ("US", 9000, 1), ("SL", 0, 1)]
)
def test_kinds_of_samples(read, eight, kind, shift, scale):
    millivolts = 0.00125 * scale
    how = {"sensitivity": f"{millivolts:g}", "ChannelBaseline": f"{-shift * millivolts:g}"}
    stored = eight // scale
    channels = [channel(lead, **how) for lead in EIGHT]
    record = read(group(stored + shift, channels, kind=kind)).record
    np.testing.assert_allclose(record.signal[0], stored[:, 0] * millivolts, atol=1e-5)


@pytest.mark.parametrize(
    ("value", "scheme", "meaning", "place"),
    [("5.6.3-9-62", "SCPECG", "", 3), ("2:61", "MDC", "", 2), ("131080", "MDC", "", 11),
     ("MDC_ECG_LEAD_aVF", "MDC", "", 5), ("1", "99LOCAL", "Lead I (Einthoven)", 0),
     ("x", "99LOCAL", "Lead V3", 8)],
)  # fmt: skip
def test_names_of_leads(read, eight, value, scheme, meaning, place):
    item = channel("I", ChannelSourceSequence=coded(value, scheme, meaning))
    record = read(group(eight[:, :1], [item])).record
    assert np.flatnonzero(record.lead_mask).tolist() == [place]


def test_other_channels_are_left_out(read, eight):
    channels = [channel("I"), channel("II"), channel("V1"), channel("V2")]
    channels[2].ChannelSourceSequence = coded("5.6.3-9-18", "SCPECG", "Lead V1")  # another lead
    channels[3].ChannelSourceSequence = coded("RESP", "99LOCAL", "Respiration")
    record = read(group(eight[:, :4], channels)).record
    assert np.flatnonzero(record.lead_mask).tolist() == [0, 1, 2, 3, 4, 5]


def test_the_rhythm_is_read_and_not_the_averaged_beat(read, eight):
    twelve = np.concatenate([eight, eight[:, :4]], axis=1)
    beat = group(twelve[:600], [channel(lead) for lead in SCP], label="MEDIAN BEAT")
    unlabelled = group(twelve[:600], [channel(lead) for lead in SCP], label="")
    strip = group(eight[:, :1], [channel("I")])
    long_strip = group(np.tile(eight[:, :1], (3, 1)), [channel("I")])
    rhythm = group(eight, [channel(lead) for lead in EIGHT])
    assert read(beat, unlabelled, strip, rhythm, long_strip).record.signal.shape == (12, 5000)
    assert read(unlabelled, strip, long_strip).record.signal.shape == (12, 15_000)


def test_only_an_averaged_beat(save, eight, code_of, tmp_path):
    file = save(group(eight[:600], [channel(lead) for lead in EIGHT], label="MEDIAN BEAT"))
    assert code_of(dicom_ecg.read, file, "", root=tmp_path) == "too_short"


def test_padding_and_skew(read, eight):
    padded = eight.copy()
    padded[4500:] = -(2**15)
    channels = [channel(lead) for lead in EIGHT]
    channels[1].ChannelSampleSkew = "3"
    record = read(group(padded, channels, WaveformPaddingValue=b"\x00\x80")).record
    assert record.signal.shape == (12, 4503)  # sample k of II was taken at time k + 3
    np.testing.assert_allclose(record.signal[0, :4500], eight[:4500, 0] * 0.00125, atol=1e-6)
    np.testing.assert_allclose(record.signal[1, 3:], eight[:4500, 1] * 0.00125, atol=1e-6)


def test_only_the_beginning_of_a_long_recording_is_read(read, eight):
    long = group(np.tile(eight[:, :2], (40, 1)), [channel("I"), channel("II")])
    assert read(long).record.signal.shape == (12, 150_001)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"SamplingFrequency": "0"}, "sampling_rate"),
        ({"SamplingFrequency": ""}, "sampling_rate"),
        ({"SamplingFrequency": "1e9"}, "sampling_rate"),
        ({"NumberOfWaveformSamples": 5001}, "truncated"),
        ({"NumberOfWaveformSamples": 2**28}, "truncated"),
        ({"NumberOfWaveformSamples": 2**32 - 1}, "too_large"),
        ({"NumberOfWaveformSamples": 0}, "header"),
        ({"NumberOfWaveformChannels": 7}, "header"),
        ({"WaveformBitsAllocated": 12}, "unreadable"),
        ({"WaveformSampleInterpretation": "MB"}, "unreadable"),
        ({"WaveformData": b""}, "truncated"),
        ({"ChannelDefinitionSequence": Sequence([])}, "header"),
    ],
)
def test_groups_that_are_refused(save, eight, code_of, tmp_path, change, code):
    item = group(eight, [channel(lead) for lead in EIGHT], **change)
    assert code_of(dicom_ecg.read, save(item), "", root=tmp_path) == code


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"ChannelSensitivity": "0"}, "units"),
        ({"ChannelSensitivity": "1e300"}, "units"),
        ({"ChannelSensitivity": "1"}, "implausible_amplitude"),
        ({"ChannelSensitivityUnitsSequence": coded("mm[Hg]", "UCUM", "")}, "units"),
        ({"ChannelSensitivityUnitsSequence": Sequence([])}, "units"),
        ({"ChannelSourceSequence": coded("RESP", "99LOCAL", "")}, "no_standard_lead"),
        ({"ChannelSourceSequence": coded("5.6.3-9-1", "SCPECG", "")}, "duplicate_lead"),
    ],
)
def test_channels_that_are_refused(save, eight, code_of, tmp_path, change, code):
    item = group(eight, [channel(lead, **change) for lead in EIGHT])
    assert code_of(dicom_ecg.read, save(item), "", root=tmp_path) == code


def test_size_is_judged_before_the_file_is_read(save, eight, code_of, tmp_path, monkeypatch):
    file = save(group(eight, [channel(lead) for lead in EIGHT]))
    monkeypatch.setattr("cardionets_core.sources.dicom.LARGEST_FILE", 1000)
    assert code_of(dicom_ecg.read, file, "", root=tmp_path) == "too_large"


def test_no_waveform(save, code_of, tmp_path):
    assert code_of(dicom_ecg.read, save(), "", root=tmp_path) == "header"


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_damaged_files(shared_data, tmp_path_factory, code_of, data):
    content = bytearray((shared_data / FILE).read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        at = data.draw(st.integers(128, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    file = tmp_path_factory.getbasetemp() / "damaged_ecg.dcm"
    file.write_bytes(content)
    code_of(dicom_ecg.read, file, "", root=file.parent)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_damaged_headers(tmp_path_factory, code_of, data):
    """A small file of two samples, so that nearly all damage hits the header."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = TwelveLeadECGWaveformStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.SOPClassUID, dataset.SOPInstanceUID = TwelveLeadECGWaveformStorage, "1.2.3"
    dataset.WaveformSequence = Sequence([group([[1, 2], [3, 4]], [channel("I"), channel("II")])])
    file = tmp_path_factory.getbasetemp() / "damaged_header.dcm"
    dataset.save_as(file, enforce_file_format=True)
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(132, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    code_of(dicom_ecg.read, file, "", root=file.parent)
