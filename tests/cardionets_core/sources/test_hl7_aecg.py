"""HL7 annotated ECG: a real file of the FDA, and files written by hand to the published layout."""

import math
import os
import re
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pytest

from cardionets_core.data.refusal import RecordRefused
from cardionets_core.sources import hl7_aecg
from cardionets_core.vocabulary import LEADS

ROOT = Path(os.environ.get("CARDIONETS_SHARED_DATA", Path(__file__).parents[4] / "shared/data"))
REAL = ROOT / "ecg-vendor-formats" / "hl7_aecg_fda_subject1_0.xml"
needs_files = pytest.mark.skipif(
    not ROOT.is_dir(), reason="real files are absent: set CARDIONETS_SHARED_DATA to their folder"
)
RATE = 500


def wave(lead, count=2000):
    """int [count]: a slow wave of its own for each lead, about 1 mV at 2.5 uV a digit."""
    t = np.arange(count) / RATE
    return np.round(200 * (lead + 1) / 4 * np.sin(2 * np.pi * (1 + lead / 7) * t)).astype(int)


def lead(name, digits, *, scale="2.5", unit="uV", origin="0", origin_unit="uV"):
    return f"""<component><sequence><code code="{name}" codeSystem="2.16.840.1.113883.6.24"/>
      <value xsi:type="SLIST_PQ"><origin value="{origin}" unit="{origin_unit}"/>
      <scale value="{scale}" unit="{unit}"/>
      <digits>{" ".join(map(str, digits))}</digits></value></sequence></component>"""


def times(head='<head value="20021122091000.000-0500"/>', step="0.002", unit="s", code="ABSOLUTE"):
    return f"""<component><sequence><code code="TIME_{code}"/><value xsi:type="GLIST_TS">{head}
      <increment value="{step}" unit="{unit}"/></value></sequence></component>"""


def series(*sets, code="RHYTHM"):
    inner = "".join(f"<component><sequenceSet>{s}</sequenceSet></component>" for s in sets)
    return f'<component><series><code code="{code}"/>{inner}</series></component>'


SUBJECT = """<componentOf><timepointEvent><componentOf><subjectAssignment><subject><trialSubject>
  <id root="2.16.840.1.113883.3.400" extension="P-7"/><subjectDemographicPerson><name>EM</name>
  <administrativeGenderCode code="F"/><birthTime value="19530508"/></subjectDemographicPerson>
  </trialSubject></subject></subjectAssignment></componentOf></timepointEvent></componentOf>"""
TIME = '<effectiveTime><low value="20021122091000"/><high value="20021122091010"/></effectiveTime>'
EIGHT = [0, 1, 6, 7, 8, 9, 10, 11]


def document(*inner, subject=SUBJECT, time=TIME):
    return f"""<?xml version="1.0" encoding="UTF-8"?>
    <AnnotatedECG xmlns="urn:hl7-org:v3" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
    {time}{subject}{"".join(inner)}</AnnotatedECG>"""


def all_leads(which=EIGHT, count=2000):
    return "".join(lead(f"MDC_ECG_LEAD_{LEADS[k].upper()}", wave(k, count)) for k in which)


@pytest.fixture
def read(tmp_path):
    def read(text, part=""):
        path = tmp_path / "a.xml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return hl7_aecg.read(path, part, root=tmp_path)

    return read


@pytest.fixture
def refusal(read):
    def refusal(text):
        with pytest.raises(RecordRefused) as refused:
            read(text)
        return refused.value.code

    return refusal


@needs_files
def test_the_file_of_the_fda():
    """Against the digits as a regular expression finds them."""
    text = REAL.read_text()
    recording = text[: text.index("REPRESENTATIVE_BEAT")]
    found = re.findall(r'code="MDC_ECG_LEAD_(\w+)".{0,700}?<digits>([^<]*)<', recording, re.DOTALL)
    assert [name for name, _ in found][:3] == ["I", "II", "V1"]
    truth = {name: 0.0025 * np.array([int(w) for w in d.split()]) for name, d in found}
    source = hl7_aecg.read(REAL, "", root=ROOT)
    assert source.record.sampling_rate_hz == 500.0
    assert source.record.lead_mask.all()
    for k, name in enumerate(LEADS):
        np.testing.assert_allclose(source.record.signal[k], truth[name.upper()], atol=1e-6)
    one, two, three = source.record.signal[:3]
    np.testing.assert_allclose(three, two - one, atol=0.006)  # Einthoven, rounded by the device
    person = source.facts.person
    assert (person.patient_id, person.sex, person.age) == ("subject1", 1.0, 46.0)
    assert person.birth_date == date(1953, 5, 8)
    assert source.facts.recorded == datetime(2002, 11, 22, 9, 10)
    assert "Clark" not in f"{vars(source.facts)} {vars(person)}"


@needs_files
def test_the_empty_file():
    with pytest.raises(RecordRefused) as refused:
        hl7_aecg.read(ROOT / "ecg-vendor-formats" / "hl7_aecg_empty.xml", "", root=ROOT)
    assert refused.value.code == "header"


@needs_files
def test_only_its_own_files_are_recognised():
    heads = {p.name: p.read_bytes()[:4096] for p in (ROOT / "ecg-vendor-formats").glob("*.*")}
    assert {n for n, head in heads.items() if hl7_aecg.recognises(n, head)} == {
        "hl7_aecg_fda_subject1_0.xml",
        "hl7_aecg_empty.xml",
    }


def test_eight_leads(read):
    source = read(document(series(times() + all_leads())))
    signal = source.record.signal
    assert source.record.lead_mask.all()
    for k in EIGHT:
        np.testing.assert_allclose(signal[k], 0.0025 * wave(k), atol=1e-6)
    np.testing.assert_allclose(signal[3], -0.0025 * (wave(0) + wave(1)) / 2, atol=1e-6)
    person = source.facts.person
    assert (person.patient_id, person.sex) == ("P-7", 0.0)
    assert math.isnan(person.age) and person.birth_date == date(1953, 5, 8)
    assert source.facts.recorded == datetime(2002, 11, 22, 9, 10)


def test_origin_scale_and_units(read):
    both = lead("MDC_ECG_LEAD_I", wave(0), scale="0.0025", unit="mV", origin="100") + lead(
        "MDC_ECG_LEAD_II", wave(1), scale="2500", unit="nV", origin="0.1", origin_unit="mV"
    )
    signal = read(document(series(times() + both))).record.signal
    for k in (0, 1):
        np.testing.assert_allclose(signal[k], 0.1 + 0.0025 * wave(k), atol=1e-6)


@pytest.mark.parametrize(("step", "unit"), [("2", "ms"), ("2000", "us"), ("0.002", "s")])
def test_units_of_time(read, step, unit):
    text = document(series(times(step=step, unit=unit) + all_leads()))
    assert read(text).record.sampling_rate_hz == 500.0


def test_utf_16(read):
    text = document(series(times() + all_leads())).replace("UTF-8", "UTF-16")
    assert hl7_aecg.recognises("a.xml", text.encode("utf-16")[:4096])
    assert read(text.encode("utf-16")).record.lead_mask.all()


def test_a_recording_in_pieces(read):
    """Four sets of 2.5 s, three leads in each, and a rhythm strip that goes through all of them."""
    sets = []
    for k in range(4):
        head = f'<head value="200211220910{2.5 * k:06.3f}"/>'
        columns = [lead(LEADS[j].upper(), wave(j, 1250)) for j in range(3 * k, 3 * k + 3)]
        if k == 0:
            columns[1] = lead("II", wave(1, 5000))
        sets.append(times(head) + "".join(columns))
    record = read(document(series(*reversed(sets)))).record
    np.testing.assert_array_equal(np.flatnonzero(record.lead_mask), [1])
    np.testing.assert_allclose(record.signal[1], 0.0025 * wave(1, 5000), atol=1e-6)


def test_consecutive_pieces_are_joined_where_they_belong(read):
    whole = {k: wave(k, 3000) for k in EIGHT}
    pieces = []
    for start, end in ((2000, 3000), (0, 2000)):
        head = f'<head value="{start / RATE}" unit="s"/>'
        leads = "".join(lead(LEADS[k].upper(), whole[k][start:end]) for k in EIGHT)
        pieces.append(times(head, code="RELATIVE") + leads)
    record = read(document(series(*pieces))).record
    for k in EIGHT:
        np.testing.assert_allclose(record.signal[k], 0.0025 * whole[k], atol=1e-6)


def test_the_recording_comes_before_the_beat(read):
    beat = series(times() + all_leads(count=600), code="REPRESENTATIVE_BEAT")
    text = document(beat, series(times() + all_leads()))
    assert read(text).record.signal.shape == (12, 2000)
    assert read(document(beat)).record.signal.shape == (12, 600), "all that there is"


SAME = '<head value="20021122091001"/>'
REFUSED = {
    "no_standard_lead": [
        series(),
        series(times() + lead("MDC_ECG_LEAD_X", wave(0))),
        series(times()),
    ],
    "header": [
        "",
        series(all_leads()),
        series(times() + times() + all_leads()),
        series(times().replace("increment", "step") + all_leads()),
        series(times(step="nan") + all_leads()),
        series(times() + lead("MDC_ECG_LEAD_I", wave(0), scale="inf")),
        series(times() + lead("MDC_ECG_LEAD_I", wave(0), scale="")),
        series(times("") + all_leads(), times("") + all_leads()),
        series(times() + all_leads([0, 1]), times('<head value="0" unit="h"/>') + all_leads([6])),
    ],
    "duplicate_lead": [
        series(times() + all_leads([0, 1, 0])),
        series(times() + all_leads(), times(SAME) + all_leads()),
    ],
    "mixed_rates": [series(times() + all_leads([0]), times(step="0.004") + all_leads([1]))],
    "sampling_rate": [
        series(times(step=step) + all_leads())
        for step in ("0", "-0.002", "1e-300", "1e-999", "1", "1e18", "0.0000001")
    ]
    + [series(times(unit=unit) + all_leads()) for unit in ("", "Hz", "min")],
    "units": [
        series(times() + lead("MDC_ECG_LEAD_I", wave(0), unit="mmHg")),
        series(times() + lead("MDC_ECG_LEAD_I", wave(0), unit="")),
        series(times() + lead("MDC_ECG_LEAD_I", wave(0), origin="1", origin_unit="bar")),
    ],
    "unreadable": [
        series(times() + lead("MDC_ECG_LEAD_I", ["1", "nan", "3"])),
        series(times() + lead("MDC_ECG_LEAD_I", ["QUJD"])),
    ],
    "no_usable_lead": [
        series(times() + lead("MDC_ECG_LEAD_I", [])),
        series(times() + lead("MDC_ECG_LEAD_I", [7] * 2000)),
    ],
    "implausible_amplitude": [
        series(times() + lead("MDC_ECG_LEAD_I", wave(0), scale="2500")),
        series(times() + lead("MDC_ECG_LEAD_I", wave(0), scale="1e18")),
    ],
    "too_large": [
        series(times() + all_leads([0]), times('<head value="20221122091001"/>') + all_leads([1]))
    ],
}


@pytest.mark.parametrize(
    ("code", "inner"), [(code, text) for code, texts in REFUSED.items() for text in texts]
)
def test_what_is_refused(refusal, code, inner):
    assert refusal(document(inner)) == code


def test_other_documents_and_parts(refusal, read):
    assert refusal("<ClinicalDocument/>") == "header"
    assert refusal(document(series(times() + all_leads()))[:-300]) == "header"
    bomb = '<!DOCTYPE a [<!ENTITY b "1 2 3"><!ENTITY c "&b;&b;&b;">]>'
    text = document(series(times() + lead("MDC_ECG_LEAD_I", ["&c;"])))
    assert refusal(text.replace("?>", f"?>{bomb}")) == "header"
    with pytest.raises(RecordRefused):
        read(document(series(times() + all_leads())), part="2")


@pytest.mark.parametrize(
    ("written", "age"),
    [('value="46" unit="a"', 46), ('value="6" unit="mo"', 0.5), ('value="300" unit="a"', math.nan),
     ('value="46"', math.nan), ('value="NaN" unit="a"', math.nan)],
)  # fmt: skip
def test_reported_ages(read, written, age):
    said = f"""<controlVariable><relatedObservation><code code="21612-7"/><value {written}/>
      </relatedObservation></controlVariable>"""
    person = read(document(said, series(times() + all_leads()))).facts.person
    np.testing.assert_equal(person.age, age)


@pytest.mark.parametrize(
    ("subject", "patient", "sex", "born"),
    [
        ("", "", math.nan, None),
        (SUBJECT.replace('"F"', '"UN"'), "P-7", math.nan, date(1953, 5, 8)),
        (SUBJECT.replace("19530508", "20120000"), "P-7", 0.0, None),
        (SUBJECT.replace("P-7", ""), "", 0.0, date(1953, 5, 8)),
        (
            SUBJECT.replace(
                'root="2.16.840.1.113883.3.400" extension="P-7"',
                'root="61d1a24f-b47e-41aa-ae95-f8ac302f4eeb"',
            ),
            "61d1a24f-b47e-41aa-ae95-f8ac302f4eeb",
            0.0,
            date(1953, 5, 8),
        ),
    ],
)
def test_subjects(read, subject, patient, sex, born):
    person = read(document(series(times() + all_leads()), subject=subject)).facts.person
    np.testing.assert_equal((person.patient_id, person.sex), (patient, sex))
    assert person.birth_date == born


@pytest.mark.parametrize("time", ["", '<effectiveTime><center value="20120000"/></effectiveTime>'])
def test_no_believable_time(read, time):
    source = read(document(series(times() + all_leads()), time=time))
    assert source.facts.recorded is None


def test_a_large_gap_is_not_filled_with_memory(read):
    """Two sets a day apart: what lies after the first 300 s is left where it is."""
    later = times('<head value="20021123091000"/>') + all_leads([1])
    record = read(document(series(times() + all_leads([0]), later))).record
    assert record.signal.shape == (12, 2000)
    np.testing.assert_array_equal(np.flatnonzero(record.lead_mask), [0])


VALID = document(series(times() + all_leads(count=400))).encode()


def test_damaged_files(survives_damage):
    survives_damage(hl7_aecg, VALID, 60)


@pytest.mark.slow
def test_many_damaged_files(survives_damage):
    survives_damage(hl7_aecg, VALID, 3000)
