"""GE MUSE XML: files written by hand to the published layout, none by our own code."""

import base64
import math
import struct
from datetime import date, datetime

import numpy as np
import pytest

from cardionets_core.data.refusal import RecordRefused
from cardionets_core.sources import cardiosoft, ge_muse, hl7_aecg

STORED = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
RATE = 500
UV = 4.88


def wave(k, count=1000):
    """Whole numbers, about 1 mV at 4.88 uV a bit; another wave for each lead."""
    return [
        round(110 * (1 + k / 8) * math.sin(2 * math.pi * (1 + k / 7) * i / RATE))
        for i in range(count)
    ]


def encoded(samples):
    """Base64 in lines of 76 characters, as MUSE writes it."""
    text = base64.b64encode(struct.pack(f"<{len(samples)}h", *samples)).decode()
    return "\n".join(text[i : i + 76] for i in range(0, len(text), 76))


def lead(name, samples, **change):
    fields = {
        "LeadByteCountTotal": 2 * len(samples),
        "LeadTimeOffset": 0,
        "LeadSampleCountTotal": len(samples),
        "LeadAmplitudeUnitsPerBit": UV,
        "LeadAmplitudeUnits": "MICROVOLTS",
        "LeadHighLimit": 32767,
        "LeadLowLimit": -32768,
        "LeadID": name,
        "LeadOffsetFirstSample": 0,
        "FirstSampleBaseline": 0,
        "LeadSampleSize": 2,
        "LeadOff": "FALSE",
        "BaselineSway": "FALSE",
        "LeadDataCRC32": 1391929279,
        "WaveFormData": encoded(samples),
    } | change
    return (
        f"<LeadData>{''.join(f'<{k}>{v}</{k}>' for k, v in fields.items() if v != '')}</LeadData>"
    )


def waveform(*leads, kind="Rhythm", base=500, exponent=0):
    return f"""<Waveform><WaveformType>{kind}</WaveformType>
      <WaveformStartTime>0</WaveformStartTime><NumberofLeads>{len(leads)}</NumberofLeads>
      <SampleType>CONTINUOUS_SAMPLES</SampleType><SampleBase>{base}</SampleBase>
      <SampleExponent>{exponent}</SampleExponent><HighPassFilter>16</HighPassFilter>
      <LowPassFilter>150</LowPassFilter><ACFilter>60</ACFilter>{"".join(leads)}</Waveform>"""


PATIENT = """<PatientDemographics><PatientID>0042</PatientID><PatientAge>61</PatientAge>
  <AgeUnits>YEARS</AgeUnits><DateofBirth>08-17-1963</DateofBirth><Gender>FEMALE</Gender>
  <HeightCM>165</HeightCM><WeightKG>72</WeightKG><PatientLastName>M\u00fcller</PatientLastName>
  <PatientFirstName>Erika</PatientFirstName></PatientDemographics>"""
TEST = """<TestDemographics><DataType>RESTING</DataType><Site>1</Site>
  <AcquisitionTime>09:15:11</AcquisitionTime><AcquisitionDate>03-04-2025</AcquisitionDate>
  <OverreaderLastName>House</OverreaderLastName></TestDemographics>"""
STATEMENT = """<Diagnosis><DiagnosisStatement><StmtText>Sinus rhythm</StmtText></DiagnosisStatement>
  </Diagnosis>"""


def document(*waves, patient=PATIENT, test=TEST):
    return f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<!DOCTYPE RestingECG SYSTEM "restecg.dtd">
<RestingECG><MuseInfo><MuseVersion>9.0.10.18530</MuseVersion></MuseInfo>
{patient}{test}{STATEMENT}{"".join(waves)}</RestingECG>"""


def eight(count=1000, **change):
    return [lead(name, wave(k, count), **change) for k, name in enumerate(STORED)]


MEDIAN = waveform(*eight(600), kind="Median")


@pytest.fixture
def read(tmp_path):
    def read(text, part=""):
        path = tmp_path / "a.xml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode("latin-1"))
        return ge_muse.read(path, part, root=tmp_path)

    return read


def refusal(read, text):
    with pytest.raises(RecordRefused) as refused:
        read(text)
    return refused.value.code


def test_a_resting_ecg(read):
    record = read(document(MEDIAN, waveform(*eight()))).record
    assert record.sampling_rate_hz == 500.0
    assert record.signal.shape == (12, 1000)
    assert record.lead_mask.all()
    millivolts = {name: np.array(wave(k)) * UV / 1000 for k, name in enumerate(STORED)}
    for place, name in zip((0, 1, 6, 7, 8, 9, 10, 11), STORED, strict=True):
        np.testing.assert_allclose(record.signal[place], millivolts[name], atol=1e-6)
    one, two = millivolts["I"], millivolts["II"]
    for place, derived in (
        (2, two - one), (3, -(one + two) / 2), (4, one - two / 2), (5, two - one / 2),
    ):  # fmt: skip
        np.testing.assert_allclose(record.signal[place], derived, atol=1e-6)


def test_a_sample_by_hand(read):
    """Base64 written out: 0x0102 = 258 steps of 5 uV are 1.29 mV, 0xFFFE is -2 steps."""
    two = base64.b64encode(bytes([0x02, 0x01, 0xFE, 0xFF] * 100)).decode()
    assert two.startswith("AgH+/wIB/v8C")
    change = {"WaveFormData": two, "LeadAmplitudeUnitsPerBit": 5, "LeadSampleCountTotal": 200}
    signal = read(document(waveform(lead("II", [0], **change)))).record.signal
    np.testing.assert_allclose(signal[1, :4], [1.29, -0.01, 1.29, -0.01], atol=1e-6)


def test_who_and_when_and_nothing_else(read):
    facts = read(document(waveform(*eight()))).facts
    person = facts.person
    assert (person.patient_id, person.sex, person.age) == ("0042", 0.0, 61.0)
    assert (person.height_cm, person.weight_kg) == (165.0, 72.0)
    assert person.birth_date == date(1963, 8, 17)
    assert facts.recorded == datetime(2025, 3, 4, 9, 15, 11), "month-day-year"
    assert facts.codes == ()
    held = f"{vars(facts)} {vars(person)}"
    assert not any(word in held for word in ("ller", "Erika", "House", "Sinus"))
    assert "0042" not in repr(facts) and "0042" not in repr(person)


@pytest.mark.parametrize(
    ("said", "age"),
    [
        ("<PatientAge>6</PatientAge><AgeUnits>MONTHS</AgeUnits>", 0.5),
        ("<PatientAge>3</PatientAge><AgeUnits>DECADES</AgeUnits>", math.nan),
        ("<PatientAge>44</PatientAge>", 44),
        ("<PatientAge>300</PatientAge><AgeUnits>YEARS</AgeUnits>", math.nan),
        ("<PatientAge/>", math.nan),
        ("", math.nan),
    ],
)
def test_ages(read, said, age):
    patient = f"<PatientDemographics>{said}<Gender>UNKNOWN</Gender></PatientDemographics>"
    person = read(document(waveform(*eight()), patient=patient)).facts.person
    np.testing.assert_equal((person.age, person.sex, person.patient_id), (age, math.nan, ""))


def test_body_sizes_in_inches_and_pounds(read):
    patient = """<PatientDemographics><HeightIN>70</HeightIN><WeightLBS>150</WeightLBS>
      </PatientDemographics>"""
    person = read(document(waveform(*eight()), patient=patient)).facts.person
    assert (person.height_cm, person.weight_kg) == pytest.approx((177.8, 68.04), abs=0.01)


@pytest.mark.parametrize(
    ("written", "recorded"),
    [("2025-03-04", datetime(2025, 3, 4)), ("13-40-2025", None), ("20120000", None), ("", None)],
)
def test_dates(read, written, recorded):
    test = f"<TestDemographics><AcquisitionDate>{written}</AcquisitionDate></TestDemographics>"
    assert read(document(waveform(*eight()), test=test)).facts.recorded == recorded
    assert read(document(waveform(*eight()), test="", patient="")).facts.recorded is None


def test_rates_units_and_numbers_of_other_places(read):
    text = document(waveform(*eight(LeadAmplitudeUnitsPerBit="4,88"), base=25, exponent=1))
    assert read(text).record.sampling_rate_hz == 250.0
    millivolts = read(
        document(
            waveform(*eight(LeadAmplitudeUnitsPerBit="0.00488", LeadAmplitudeUnits="MILLIVOLTS"))
        )
    )
    np.testing.assert_allclose(read(text).record.signal, millivolts.record.signal, atol=1e-6)


def test_a_lead_that_was_off_is_missing(read):
    leads = eight()
    leads[4] = lead("V3", wave(4), LeadOff="TRUE")
    mask = read(document(waveform(*leads))).record.lead_mask
    np.testing.assert_array_equal(np.flatnonzero(~mask), [8])


def test_leads_that_begin_later(read):
    leads = [
        lead("I", wave(0)),
        lead("II", wave(1)),
        lead("V1", wave(2)[20:], LeadOffsetFirstSample=20),
    ]
    record = read(document(waveform(*leads))).record
    np.testing.assert_allclose(record.signal[6, 20:], np.array(wave(2))[20:] * UV / 1000, atol=1e-6)


def test_other_leads_are_left_out(read):
    leads = [*eight(), lead("V7", wave(0)), lead("V3R", wave(0)), lead("X", wave(1, 5))]
    assert read(document(waveform(*leads))).record.signal.shape == (12, 1000)


HOSTILE = {
    "header": [
        document(),
        document(MEDIAN),
        document(waveform(*eight(LeadSampleSize=4))),
        document(waveform(*eight(LeadSampleSize="two"))),
        document(waveform(*eight(LeadAmplitudeUnitsPerBit="nan"))),
        document(waveform(*eight(LeadAmplitudeUnitsPerBit=""))),
        document(waveform(*eight(LeadSampleCountTotal=10))),
        document(waveform(*eight(LeadSampleCountTotal="many"))),
        document(waveform(*eight(), base="")),
        document(waveform(*eight(), exponent="x")),
        document(waveform(*eight(), lead("III", wave(0), LeadOffsetFirstSample=10**12))),
        document(waveform(*eight()))[:-500],
        "<RestingECG",
        "<OtherECG/>",
        document(waveform(*eight())).replace('"restecg.dtd"', '"restecg.dtd" [<!ENTITY a "b">]'),
    ],
    "truncated": [
        document(waveform(*eight(LeadSampleCountTotal=10**12))),
        document(waveform(*eight(LeadSampleCountTotal=1001))),
        document(waveform(lead("I", [1, 2], LeadSampleCountTotal="", WaveFormData="QUJD"))),
    ],
    "unreadable": [
        document(waveform(*eight(WaveFormData="@@@@"))),
        document(waveform(*eight(WaveFormData="QUJ"))),
        document(waveform(*eight(WaveFormData="Q\u00dcJD"))),
    ],
    "no_standard_lead": [document(waveform()), document(waveform(lead("X", wave(0))))],
    "duplicate_lead": [document(waveform(*eight(), lead("V1", wave(0))))],
    "units": [
        document(waveform(*eight(LeadAmplitudeUnits="PARSECS"))),
        document(waveform(*eight(LeadAmplitudeUnits=""))),
    ],
    "sampling_rate": [
        document(waveform(*eight(), base=base, exponent=exponent))
        for base, exponent in ((0, 0), (-500, 0), (500, 300), (500, -6), ("1e18", 6))
    ],
    "no_usable_lead": [
        document(waveform(*eight(0))),
        document(waveform(*eight(LeadOff="TRUE"))),
        document(waveform(lead("I", [5] * 1000))),
    ],
    "implausible_amplitude": [document(waveform(*eight(LeadAmplitudeUnitsPerBit=1e18)))],
}


@pytest.mark.parametrize(
    ("code", "number"), [(code, k) for code, texts in HOSTILE.items() for k in range(len(texts))]
)
def test_what_is_refused(read, code, number):
    assert refusal(read, HOSTILE[code][number]) == code


def test_size_is_judged_before_decoding(read, monkeypatch):
    monkeypatch.setattr("cardionets_core.sources.safe_xml.MAX_LIST", 500)
    assert refusal(read, document(waveform(*eight()))) == "too_large"


def test_one_reader_for_one_file():
    head = document(waveform(*eight())).encode("latin-1")[:4096]
    assert ge_muse.recognises("anything.bin", head)
    assert ge_muse.recognises("a.xml", document().encode("utf-16")[:4096])
    assert not cardiosoft.recognises("a.xml", head)
    assert not hl7_aecg.recognises("a.xml", head)
    assert not ge_muse.recognises("a.xml", b"<restingecgdata/>"), "Philips"


def test_no_parts(read):
    with pytest.raises(RecordRefused):
        read(document(waveform(*eight())), part="1")


VALID = document(waveform(*eight(300))).encode("latin-1")


def test_damaged_files(survives_damage):
    survives_damage(ge_muse, VALID, 50)


@pytest.mark.slow
def test_many_damaged_files(survives_damage):
    survives_damage(ge_muse, VALID, 3000)
