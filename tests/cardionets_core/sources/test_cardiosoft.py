"""GE CardioSoft XML, the ECGs of UK Biobank: files written by hand to the published layout."""

import math
from datetime import date, datetime

import numpy as np
import pytest

from cardionets_core.data.refusal import RecordRefused
from cardionets_core.sources import cardiosoft, ge_muse
from cardionets_core.vocabulary import LEADS

RATE = 500


def wave(k, count=1000):
    """Whole numbers, about 1 mV at 5 uV a bit; another wave for each lead."""
    t = np.arange(count) / RATE
    return np.round(100 * (1 + k / 8) * np.sin(2 * np.pi * (1 + k / 7) * t)).astype(int).tolist()


def written(samples):
    """Ten numbers a line between tabs, a comma after each but the last."""
    lines = [samples[i : i + 10] for i in range(0, len(samples), 10)]
    return ",\n\t\t\t".join(",".join(map(str, line)) for line in lines)


def lead(name, samples):
    return f'<WaveformData lead="{name}">\n\t\t\t{written(samples)}\n\t\t</WaveformData>'


def strip(*leads, count=1000, rate=RATE, resolution=5, tag="StripData", **units):
    hz, step = units.get("hz", 'units="Hz"'), units.get("step", 'units="uVperLsb"')
    return f"""<{tag}><NumberOfLeads>{len(leads)}</NumberOfLeads>
      <SampleRate {hz}>{rate}</SampleRate>
      <ChannelSampleCountTotal>{count}</ChannelSampleCountTotal>
      <Resolution {step}>{resolution}</Resolution>{"".join(leads)}
      <ArrhythmiaResults><Time units="ms">800</Time></ArrhythmiaResults></{tag}>"""


PATIENT = """<PatientInfo><PID>4242</PID><Name><FamilyName>M\u00fcller</FamilyName>
  <GivenName>Erika</GivenName></Name><Age units="Years">63</Age><BirthDateTime><Day>1</Day>
  <Month>5</Month><Year>1951</Year></BirthDateTime><Gender>MALE</Gender><Race>Caucasian</Race>
  <Height units="cm">175</Height><Weight units="kg">80</Weight><PaceMaker>no</PaceMaker>
  </PatientInfo>"""
TIME = """<ObservationDateTime><Hour>9</Hour><Minute>5</Minute><Second>7</Second><Day>3</Day>
  <Month>11</Month><Year>2014</Year></ObservationDateTime>"""
MEDIAN = f"""<RestingECGMeasurements><VentricularRate units="bpm">61</VentricularRate>
  {strip(lead("I", wave(0, 600)), count=600, tag="MedianSamples")}</RestingECGMeasurements>"""


def document(*inner, patient=PATIENT, time=TIME, encoding="ISO8859-1"):
    return f"""<?xml version="1.0" encoding="{encoding}" ?>
<CardiologyXML><ObservationType>RestECG</ObservationType>{time}
<ClinicalInfo><ObservationComment>Herr M\u00fcller</ObservationComment></ClinicalInfo>
{patient}<Interpretation><Diagnosis><DiagnosisText>Sinus rhythm</DiagnosisText></Diagnosis>
</Interpretation>{"".join(inner)}</CardiologyXML>"""


def twelve(count=1000):
    """All leads under the names that CardioSoft writes."""
    return [lead(name, wave(k, count)) for k, name in enumerate(LEADS)]


@pytest.fixture
def read(tmp_path):
    def read(text, part="", name="ecg.xml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode("latin-1"))
        return cardiosoft.read(path, part, root=tmp_path)

    return read


def test_a_resting_ecg(read):
    record = read(document(MEDIAN, strip(*twelve()))).record
    assert record.sampling_rate_hz == 500.0
    assert record.signal.shape == (12, 1000)
    assert record.lead_mask.all()
    for k in range(12):
        np.testing.assert_allclose(record.signal[k], np.array(wave(k)) * 0.005, atol=1e-6)


def test_numbers_by_hand(read):
    samples = "100, -200,\n300 ,\t-400" + ",0,8" * 48
    text = document(strip(f'<WaveformData lead="II">{samples}</WaveformData>', count=100))
    signal = read(text).record.signal
    np.testing.assert_allclose(signal[1, :6], [0.5, -1.0, 1.5, -2.0, 0, 0.04], atol=1e-6)


@pytest.mark.parametrize("name", ["AVR", "aVR", "avr"])
def test_names_of_leads(read, name):
    leads = [lead(name, wave(0)), lead("V9", wave(1, 3))]
    mask = read(document(strip(*leads))).record.lead_mask
    np.testing.assert_array_equal(np.flatnonzero(mask), [3])


@pytest.mark.parametrize(
    ("unit", "resolution"), [("mVperLsb", 0.005), ("uVperLsb", 5), ("nVperLsb", 5000)]
)
def test_units(read, unit, resolution):
    text = document(strip(*twelve(), resolution=resolution, step=f'units="{unit}"'))
    np.testing.assert_allclose(read(text).record.signal[0], np.array(wave(0)) * 0.005, atol=1e-6)


def test_who_and_when_and_nothing_else(read):
    facts = read(document(strip(*twelve()))).facts
    person = facts.person
    assert (person.patient_id, person.sex, person.age) == ("4242", 1.0, 63.0)
    assert (person.height_cm, person.weight_kg) == (175.0, 80.0)
    assert person.birth_date == date(1951, 5, 1)
    assert facts.recorded == datetime(2014, 11, 3, 9, 5, 7)
    held = f"{vars(facts)} {vars(person)}"
    assert not any(word in held for word in ("ller", "Erika", "Sinus", "Caucasian"))
    assert "4242" not in repr(facts) and "4242" not in repr(person)


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("1000037_20205_2_0.xml", "1000037"),
        ("1000037_20205_2.xml", "4242"),
        ("1000037.xml", "4242"),
    ],
)
def test_participants_of_uk_biobank(read, name, patient):
    assert read(document(strip(*twelve())), name=name).facts.person.patient_id == patient


@pytest.mark.parametrize(
    ("patient", "age", "height"),
    [
        ("", math.nan, math.nan),
        ("<PatientInfo/>", math.nan, math.nan),
        ('<PatientInfo><Age units="Months">18</Age></PatientInfo>', 1.5, math.nan),
        ("<PatientInfo><Age>300</Age><Height>170</Height></PatientInfo>", math.nan, math.nan),
        ('<PatientInfo><Age>x</Age><Height units="in">70</Height></PatientInfo>', math.nan, 177.8),
        ('<PatientInfo><Height units="cm">0</Height></PatientInfo>', math.nan, math.nan),
    ],
)
def test_what_is_not_known(read, patient, age, height):
    person = read(document(strip(*twelve()), patient=patient)).facts.person
    np.testing.assert_allclose((person.age, person.height_cm), (age, height), equal_nan=True)
    assert person.birth_date is None and math.isnan(person.sex)


@pytest.mark.parametrize(
    "time", ["", TIME.replace("2014", ""), TIME.replace("11<", "13<"), TIME.replace("2014", "0001")]
)
def test_no_believable_time(read, time):
    assert read(document(strip(*twelve()), time=time)).facts.recorded is None


HOSTILE = {
    "header": [
        document(),
        document(MEDIAN),
        document(strip(*twelve(), count="")),
        document(strip(*twelve(), count="nan")),
        document(strip(*twelve(), count=10)),
        document(strip(*twelve(), resolution="five")),
        document(strip(*twelve(), rate="")),
        document(strip(*twelve()).replace("Resolution", "Solution")),
        document(strip(*twelve()).replace("SampleRate", "Rate")),
        document(strip(*twelve()))[:-400],
        document(strip(*twelve())).replace(" ?>", ' ?><!DOCTYPE a [<!ENTITY b "1,2">]>'),
        document(strip(*twelve()), encoding="zlib"),
        "<FullDisclosure/>",
    ],
    "truncated": [
        document(strip(*twelve(), count=10**12)),
        document(strip(*twelve()[:11], lead("V6", wave(11, 990)))),
        document(strip(*twelve()[:11], '<WaveformData lead="V6"/>')),
    ],
    "unreadable": [
        document(strip(f'<WaveformData lead="I">{text}</WaveformData>', count=3))
        for text in ("1,nan,2", "1,,a,2", "1,0x3,2", "1,--2,3")
    ],
    "no_standard_lead": [
        document(strip()),
        document(strip(lead("X", wave(0)))),
        document("<StripData><Strip><StripNumber>1</StripNumber></Strip></StripData>"),
    ],
    "duplicate_lead": [document(strip(*twelve(), lead("AVL", wave(4))))],
    "units": [
        document(strip(*twelve(), step='units="mmHgperLsb"')),
        document(strip(*twelve(), step="")),
    ],
    "sampling_rate": [
        document(strip(*twelve(), hz='units="kHz"')),
        *[document(strip(*twelve(), rate=rate)) for rate in (0, -500, "1e18", 5)],
    ],
    "no_usable_lead": [document(strip(lead("I", [5] * 1000)))],
    "implausible_amplitude": [document(strip(*twelve(), resolution=5000))],
}


@pytest.mark.parametrize(
    ("code", "number"), [(code, k) for code, texts in HOSTILE.items() for k in range(len(texts))]
)
def test_what_is_refused(read, code, number):
    with pytest.raises(RecordRefused) as refused:
        read(HOSTILE[code][number])
    assert refused.value.code == code


def test_recognition_and_parts(read):
    head = document(strip(*twelve())).encode("latin-1")[:4096]
    assert cardiosoft.recognises("a", head)
    assert not ge_muse.recognises("a", head)
    with pytest.raises(RecordRefused):
        read(document(strip(*twelve())), part="1")


VALID = document(strip(*twelve(300), count=300)).encode("latin-1")


def test_damaged_files(survives_damage):
    survives_damage(cardiosoft, VALID, 50)


@pytest.mark.slow
def test_many_damaged_files(survives_damage):
    survives_damage(cardiosoft, VALID, 3000)
