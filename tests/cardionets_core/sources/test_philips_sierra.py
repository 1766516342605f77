"""The two real files against what the device itself measured on them, and files by the layout."""

import base64
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import find_peaks

from cardionets_core.sources import philips_sierra
from cardionets_core.vocabulary import LEADS

OLD = "ecg-vendor-formats/philips_sierra_1_03.xml"
NEW = "ecg-vendor-formats/philips_sierra_1_04_01.xml"

PAGE = """<?xml version="1.0" encoding="UTF-8"?>
<restingecgdata xmlns="http://www3.medical.philips.com">
 <documentinfo><documentversion>1.04</documentversion></documentinfo>
 <dataacquisition date="2015-06-30" time="08:09:10"><signalcharacteristics>
  <samplingrate>500</samplingrate><resolution>5</resolution><bitspersample>16</bitspersample>
  <acquisitiontype>STD-12</acquisitiontype>
 </signalcharacteristics></dataacquisition>
 <patient><generalpatientdata>
  <patientid>H 0815</patientid><name><lastname>CANARY</lastname></name>
  <age><dateofbirth>1950-01-31</dateofbirth></age><sex>Female</sex>
  <height><inch>70</inch></height><weight><kg>80</kg></weight>
 </generalpatientdata></patient>
 <interpretations><interpretation><statement><statementcode>ET</statementcode>
  <leftstatement>CANARY</leftstatement></statement></interpretation></interpretations>
 <waveforms>
  <parsedwaveforms dataencoding="Base64" {attributes}>{samples}</parsedwaveforms>
 </waveforms>
</restingecgdata>"""
PLAIN = f'compression="None" durationperchannel="10000" leadlabels="{" ".join(LEADS)}"'


def text_of(file):
    data = file.read_bytes()
    return data.decode("utf-16" if data[:2] == b"\xff\xfe" else "utf-8")


@pytest.fixture
def read(tmp_path):
    def write_and_read(text, encoding="utf-8"):
        file = tmp_path / "ecg.xml"
        file.write_bytes(text.encode(encoding))
        return philips_sierra.read(file, "", root=tmp_path)

    return write_and_read


@pytest.fixture
def plain(heart):
    """The twelve leads in 5 uV, not compressed, and a second of calibration."""
    stored = np.round(heart() * 200).astype("<i2")
    stored[:, 4600:] = 0
    stored[:, 4700:4800] = 200
    return base64.b64encode(stored.tobytes()).decode()


@pytest.mark.parametrize(("name", "samples"), [(OLD, 5264), (NEW, 5300)])
def test_real_files(shared_data, name, samples):
    file = shared_data / name
    assert philips_sierra.recognises(file.name, file.read_bytes()[:4096])
    ecg = philips_sierra.read(file, "", root=shared_data)
    signal = ecg.record.signal
    # 11 s are declared; the calibration pulse at their end is no ECG
    assert signal.shape == (12, samples) and ecg.record.sampling_rate_hz == 500
    assert ecg.record.lead_mask.all() and np.abs(signal).max() < 2.5
    one, two, three, avr, avl, avf = signal[:6]
    for restored, expected in (
        (three, two - one), (avr, -(one + two) / 2), (avl, one - two / 2), (avf, two - one / 2)
    ):  # fmt: skip
        assert np.abs(restored - expected).max() <= 0.011  # two bits


@pytest.mark.parametrize("name", [OLD, NEW])
def test_beats_are_those_that_the_device_counted(shared_data, name):
    text = text_of(shared_data / name)
    device = float(re.search(r"<meanventrate>(\d+)<", text)[1])
    beats = len(re.search(r"<beatclassification>([\d ]+)<", text)[1].split())
    signal = philips_sierra.read(shared_data / name, "", root=shared_data).record.signal
    slope = np.abs(np.diff(signal, axis=1)).sum(axis=0)
    smooth = np.convolve(slope, np.ones(40), mode="same")
    peaks, _ = find_peaks(smooth, height=0.4 * smooth.max(), distance=200)
    assert 60 * 500 / np.diff(peaks).mean() == pytest.approx(device, abs=2)
    assert abs(len(peaks) - beats) <= 1  # the device leaves out a cut one


def test_amplitudes_are_those_of_the_device_s_own_averaged_beat(shared_data):
    """Its representative beats stand in the file, not compressed: 1 uV, 1000 Hz."""
    text = text_of(shared_data / NEW)
    signal = philips_sierra.read(shared_data / NEW, "", root=shared_data).record.signal
    found = re.findall(r'<repbeat leadname="(\w+)">.*?<waveform[^>]*>(.*?)</waveform>', text, re.S)
    assert [name for name, _ in found] == list(LEADS)
    for lead, (name, waveform) in zip(signal, found, strict=True):
        beat = np.frombuffer(base64.b64decode(waveform), dtype="<i2")[::2] / 1000
        windows = np.lib.stride_tricks.sliding_window_view(lead, len(beat))
        centred = windows - windows.mean(axis=1, keepdims=True)
        shape = beat - beat.mean()
        likeness = centred @ shape / np.linalg.norm(centred, axis=1) / np.linalg.norm(shape)
        best = int(likeness.argmax())
        assert likeness[best] > 0.97, name
        assert np.ptp(windows[best]) == pytest.approx(np.ptp(beat), rel=0.2), name


def test_facts(shared_data):
    old = philips_sierra.read(shared_data / OLD, "", root=shared_data).facts
    assert (old.person.patient_id, old.person.sex, old.person.age) == ("ANON", 1, 50)
    assert old.recorded.isoformat() == "2011-12-01T07:27:34" and old.codes == ()
    new = philips_sierra.read(shared_data / NEW, "", root=shared_data).facts
    assert np.isnan(new.person.sex)  # "Unknown"
    assert np.isnan(new.person.age)  # the device's default, not the patient's age


def test_facts_of_another_version(read, plain):
    facts = read(PAGE.format(attributes=PLAIN, samples=plain)).facts
    person = facts.person
    assert (person.patient_id, person.sex, person.weight_kg) == ("H 0815", 0, 80)
    assert person.height_cm == pytest.approx(177.8)
    assert person.birth_date.isoformat() == "1950-01-31" and np.isnan(person.age)
    assert facts.recorded.isoformat() == "2015-06-30T08:09:10" and facts.codes == ()
    assert "CANARY" not in str(facts) + str(person.__dict__)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_samples_that_are_not_compressed(read, plain, heart, encoding):
    page = PAGE.format(attributes=PLAIN, samples=plain).replace("UTF-8", encoding)
    record = read(page, encoding).record
    assert record.signal.shape == (12, 4600)
    np.testing.assert_allclose(record.signal, heart()[:, :4600], atol=0.003)
    # 1.03 names no leads
    record = read(PAGE.format(attributes=PLAIN.split(" leadlabels")[0], samples=plain)).record
    np.testing.assert_allclose(record.signal, heart()[:, :4600], atol=0.003)


def test_resolution_and_rate_of_the_waveforms_come_first(read, plain, heart):
    attributes = PLAIN + ' resolution="2.5" samplespersecond="1000"'
    record = read(PAGE.format(attributes=attributes.replace("10000", "5000"), samples=plain)).record
    assert record.sampling_rate_hz == 1000
    np.testing.assert_allclose(record.signal, heart()[:, :4600] / 2, atol=0.003)


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ('compression="None"', 'compression="ZIP"', "unreadable"),
        ('compression="None"', 'compression="XLI"', "truncated"),
        ('dataencoding="Base64"', 'dataencoding="Plain"', "unreadable"),
        ('"10000"', '"10002"', "truncated"),
        ('"10000"', '"1e15"', "too_large"),
        ('"10000"', '"0"', "header"),
        ('"10000"', '"-5"', "header"),
        ('"10000"', '"nan"', "header"),
        ('"10000"', '""', "header"),
        (">500<", ">1e9<", "sampling_rate"),
        (">500<", "><", "header"),
        (">16<", ">12<", "header"),
        ("<resolution>5<", "<resolution>1e300<", "header"),
        ("<resolution>5<", "<resolution>0<", "header"),
        ("<resolution>5<", "<resolution>500<", "implausible_amplitude"),
        ('leadlabels="I II III', 'leadlabels="I III II', "unreadable"),  # III is not II - I
        ('leadlabels="I II', 'leadlabels="I I', "unreadable"),
        ('leadlabels="I II', f'leadlabels="{"X " * 99}I II', "too_large"),
        ("parsedwaveforms", "otherwaveforms", "header"),
    ],
)
def test_what_is_refused(read, plain, code_of, old, new, code):
    page = PAGE.format(attributes=PLAIN, samples=plain)
    assert old in page
    assert code_of(read, page.replace(old, new)) == code


def test_leads_without_names_are_not_guessed(read, plain, code_of):
    page = PAGE.format(attributes=PLAIN.split(" leadlabels")[0], samples=plain)
    assert code_of(read, page.replace("STD-12", "FRANK")) == "no_standard_lead"


def test_samples_that_are_no_base64(read, code_of, plain):
    assert code_of(read, PAGE.format(attributes=PLAIN, samples="%%%")) == "unreadable"
    assert code_of(read, PAGE.format(attributes=PLAIN, samples="")) == "truncated"
    flat = base64.b64encode(bytes(120_000)).decode()
    assert code_of(read, PAGE.format(attributes=PLAIN, samples=flat)) == "no_usable_lead"


def test_compressed_leads_must_begin_with_the_limbs(shared_data, read, code_of):
    page = text_of(shared_data / NEW).replace('leadlabels="I II III', 'leadlabels="II I III')
    assert code_of(read, page, "utf-16") == "header"


def test_other_xml(shared_data):
    for name in ("hl7_aecg_fda_subject1_0.xml", "hl7_aecg_empty.xml"):
        head = (shared_data / "ecg-vendor-formats" / name).read_bytes()[:4096]
        assert not philips_sierra.recognises(name, head)
    assert not philips_sierra.recognises("x.xml", b"<RestingECG>")  # GE MUSE
    assert not philips_sierra.recognises("restingecgdata.xml", b"")


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_damaged_files(shared_data, tmp_path_factory, code_of, data):
    content = bytearray((shared_data / data.draw(st.sampled_from([OLD, NEW]))).read_bytes())
    start = data.draw(st.sampled_from([0, content.find(b"<parsedwaveforms") + 1 or 93_000]))
    for _ in range(data.draw(st.integers(1, 20))):
        at = data.draw(st.integers(start, len(content) - 1))
        content[at] = data.draw(st.sampled_from(b"AZaz09+/<\0\xff"))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    file = tmp_path_factory.getbasetemp() / "damaged.xml"
    file.write_bytes(content)
    code_of(philips_sierra.read, file, "", root=file.parent)
