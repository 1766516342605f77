"""Fifty planted identifiers: none may stand in anything that prepare, check or a round writes.

They stand where hospitals have them: ids, names, birth and recording dates, addresses, operators,
accession numbers, free text; in WFDB headers, XML of vendors, DICOM tags, NIfTI headers, names of
files and folders, and the cells of a table.
"""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import os
import re
import sqlite3
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

import h5py
import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from cardionets_core.site_config import write_yaml

RATE = 500
PATIENTS = 24
PLAIN = "[handshake,ecg_masked,diseases,evaluate]"


@dataclass
class Canaries:
    """Every identifier that was planted, in each form that a leak could have.

    A birth date of 1931-02-03 leaks as 19310203, 03.02.1931 and so on.
    """

    forms: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def word(self, kind: str) -> str:
        """Plant a name, an id or a phrase."""
        token = f"{kind}Vexmoor{len(self.forms):03d}Q"
        self.forms[token] = (token,)
        return token

    def number(self) -> str:
        """Plant a number as hospitals use them."""
        token = f"7394{len(self.forms):03d}8150"
        self.forms[token] = (token,)
        return token

    def date(self) -> tuple[str, str, str]:
        """Plant a date and return (year, month, day)."""
        y, m, d = str(1921 + len(self.forms) % 9), "11", f"{10 + len(self.forms) % 19:02d}"
        forms = (f"{y}{m}{d}", f"{y}-{m}-{d}", f"{d}.{m}.{y}", f"{m}-{d}-{y}", f"{d}/{m}/{y}")
        self.forms[f"{y}-{m}-{d}"] = forms
        return y, m, d


def _signal(seed: int, seconds: int = 10) -> np.ndarray:
    """Return int16 [8, n] in uV: I, II, V1 to V6 of regular beats."""
    rng = np.random.default_rng(seed)
    t = np.arange(seconds * RATE) / RATE
    phase = (t * (0.9 + 0.02 * seed)) % 1.0
    qrs = np.exp(-0.5 * ((phase - 0.3) / 0.012) ** 2)
    wave = np.exp(-0.5 * ((phase - 0.6) / 0.05) ** 2)
    gains = np.array([[700, 300], [1100, 360], *[[400 * k - 700, 90 * k] for k in range(6)]])
    leads = gains @ np.stack([qrs, wave]) + rng.normal(0, 4, (8, len(t)))
    return np.rint(leads).astype("<i2")


EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")


def _write_wfdb(folder: Path, found: Canaries, seed: int) -> str:
    name = found.number()
    signal = _signal(seed)
    lines = [f"{name} 8 {RATE} {signal.shape[1]} 10:11:12 17/11/2003"]
    lines += [f"{name}.dat 16 1000/mV 16 0 0 0 0 {lead}" for lead in EIGHT]
    lines += [f"#Age: {40 + seed}", f"#Sex: {'Male' if seed % 2 else 'Female'}"]
    lines += [f"#Dx: {'164889003' if seed % 3 == 0 else '426783006'}"]
    if seed < 4:
        lines += [f"#Rx: {found.word('Drug')}", f"# Patient: {found.word('Surname')}"]
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
    (folder / f"{name}.dat").write_bytes(signal.T.tobytes())
    return name


def _write_muse(folder: Path, found: Canaries) -> None:
    y, m, d = found.date()
    leads = "".join(
        f"<LeadData><LeadID>{lead}</LeadID><LeadByteCountTotal>{2 * len(row)}</LeadByteCountTotal>"
        "<LeadAmplitudeUnitsPerBit>1.0</LeadAmplitudeUnitsPerBit>"
        "<LeadAmplitudeUnits>MICROVOLTS</LeadAmplitudeUnits><LeadSampleSize>2</LeadSampleSize>"
        f"<WaveFormData>{base64.b64encode(row.tobytes()).decode()}</WaveFormData></LeadData>"
        for lead, row in zip(EIGHT, _signal(90), strict=True)
    )
    text = f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<RestingECG><PatientDemographics><PatientID>{found.number()}</PatientID><PatientAge>61</PatientAge>
<AgeUnits>YEARS</AgeUnits><DateofBirth>{m}-{d}-{y}</DateofBirth><Gender>MALE</Gender>
<PatientLastName>{found.word("Last")}</PatientLastName>
<PatientFirstName>{found.word("First")}</PatientFirstName></PatientDemographics>
<TestDemographics><AcquisitionDate>11-17-2003</AcquisitionDate>
<AcquisitionTime>10:11:12</AcquisitionTime><LocationName>{found.word("Ward")}</LocationName>
<OverreaderLastName>{found.word("Doctor")}</OverreaderLastName></TestDemographics>
<Diagnosis><DiagnosisStatement><StmtText>{found.word("Text")}</StmtText></DiagnosisStatement>
</Diagnosis><Waveform><WaveformType>Rhythm</WaveformType><NumberofLeads>8</NumberofLeads>
<SampleBase>{RATE}</SampleBase><SampleExponent>0</SampleExponent>{leads}</Waveform></RestingECG>"""
    (folder / f"MUSE_{found.word('File')}.xml").write_text(text, encoding="latin-1")


def _write_aecg(folder: Path, found: Canaries) -> None:
    y, m, d = found.date()
    sequences = "".join(
        f'<component><sequence><code code="MDC_ECG_LEAD_{lead.upper()}"/><value '
        'xsi:type="SLIST_PQ"><origin value="0" unit="uV"/><scale value="1" unit="uV"/>'
        f"<digits>{' '.join(map(str, row))}</digits></value></sequence></component>"
        for lead, row in zip(EIGHT, _signal(91), strict=True)
    )
    text = f"""<?xml version="1.0" encoding="UTF-8"?>
<AnnotatedECG xmlns="urn:hl7-org:v3" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
<id root="1.2.3" extension="{found.number()}"/><text>{found.word("Note")}</text>
<effectiveTime><low value="20031117101112"/><high value="20031117101122"/></effectiveTime>
<componentOf><timepointEvent><componentOf><subjectAssignment><subject><trialSubject>
<id root="1.2.4" extension="{found.number()}"/><subjectDemographicPerson>
<name>{escape(found.word("Subject"))}</name><administrativeGenderCode code="F"/>
<birthTime value="{y}{m}{d}"/></subjectDemographicPerson></trialSubject></subject>
</subjectAssignment></componentOf></timepointEvent></componentOf>
<component><series><code code="RHYTHM"/><author><seriesAuthor><assignedPerson>
<name>{found.word("Nurse")}</name></assignedPerson></seriesAuthor></author>
<component><sequenceSet>
<component><sequence><code code="TIME_ABSOLUTE"/><value xsi:type="GLIST_TS">
<head value="20031117101112"/><increment value="{1 / RATE}" unit="s"/></value></sequence>
</component>
{sequences}</sequenceSet></component></series></component></AnnotatedECG>"""
    (folder / f"{found.word('aECG')}.xml").write_text(text)


def _write_cardiosoft(folder: Path, found: Canaries) -> None:
    y, m, d = found.date()
    born = f"<Day>{d}</Day><Month>{m}</Month><Year>{y}</Year>"
    found.forms[f"{y}-{m}-{d}"] += (born,)
    signal = _signal(93)
    waves = "".join(
        f'<WaveformData lead="{lead}">{",".join(map(str, row))}</WaveformData>'
        for lead, row in zip(EIGHT, signal, strict=True)
    )
    text = f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<CardiologyXML><ObservationType>RestECG</ObservationType>
<ObservationDateTime><Hour>10</Hour><Minute>11</Minute><Second>12</Second><Day>17</Day>
<Month>11</Month><Year>2003</Year></ObservationDateTime>
<ClinicalInfo><ObservationComment>{found.word("Comment")}</ObservationComment></ClinicalInfo>
<PatientInfo><PID>{found.number()}</PID><Name><FamilyName>{found.word("Family")}</FamilyName></Name>
<Age units="years">70</Age><BirthDateTime>{born}</BirthDateTime><Gender>MALE</Gender></PatientInfo>
<Interpretation><Diagnosis><DiagnosisText>{found.word("Finding")}</DiagnosisText></Diagnosis>
</Interpretation><StripData><NumberOfLeads>8</NumberOfLeads>
<SampleRate units="Hz">{RATE}</SampleRate>
<ChannelSampleCountTotal>{signal.shape[1]}</ChannelSampleCountTotal>
<Resolution units="uVperLsb">1</Resolution>{waves}</StripData></CardiologyXML>"""
    (folder / f"{found.word('Soft')}.xml").write_text(text, encoding="latin-1")


def _write_hdf5(folder: Path, found: Canaries) -> None:
    name = f"{found.word('Array')}.h5"
    with h5py.File(folder / name, "w") as file:
        file["tracings"] = np.stack([_signal(94).T, _signal(95).T])
        file["who"] = [found.number(), found.number()]
        file["note"] = [found.word("Remark"), found.word("Remark")]
    schema = {"sampling_rate_hz": RATE, "unit": "uV", "leads": EIGHT, "signal": "tracings"}
    schema |= {"layout": "samples, leads", "patient_id": "who"}
    (folder / f"{name}.schema.json").write_text(json.dumps(schema))


def _new_dicom(path: Path, sop_class: str, found: Canaries) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    y, m, d = found.date()
    data.PatientID, data.PatientName = found.number(), f"{found.word('Dicom')}^Anna"
    data.PatientBirthDate, data.PatientSex, data.PatientAge = f"{y}{m}{d}", "F", "055Y"
    data.StudyDate, data.StudyTime = "20031117", "101112"
    data.AccessionNumber = found.number()
    data.InstitutionName = found.word("Clinic")
    data.OperatorsName = found.word("Tech")
    data.StudyDescription = found.word("Study")
    data.StudyInstanceUID, data.SeriesInstanceUID = generate_uid(), generate_uid()
    return data


def _write_dicom_ecg(folder: Path, found: Canaries) -> None:
    path = folder / f"{found.word('Dcm')}.dcm"
    data = _new_dicom(path, "1.2.840.10008.5.1.4.1.1.9.1.1", found)
    data.Modality = "ECG"
    signal = _signal(92)
    wave = pydicom.Dataset()
    wave.MultiplexGroupTimeOffset, wave.WaveformOriginality = 0, "ORIGINAL"
    wave.NumberOfWaveformChannels, wave.NumberOfWaveformSamples = signal.shape
    wave.SamplingFrequency, wave.WaveformBitsAllocated = RATE, 16
    wave.WaveformSampleInterpretation, wave.WaveformData = "SS", signal.T.tobytes()
    wave.ChannelDefinitionSequence = [_channel(lead) for lead in EIGHT]
    data.WaveformSequence = [wave]
    data.save_as(path)


def _channel(lead: str) -> pydicom.Dataset:
    channel = pydicom.Dataset()
    source, unit = pydicom.Dataset(), pydicom.Dataset()
    source.CodeValue = f"5.6.3-9-{1 + EIGHT.index(lead)}"
    source.CodingSchemeDesignator, source.CodeMeaning = "SCPECG", f"Lead {lead}"
    unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "uV", "UCUM", "microvolt"
    channel.ChannelSourceSequence = [source]
    channel.ChannelSensitivity, channel.ChannelSensitivityCorrectionFactor = "1", "1"
    channel.ChannelSensitivityUnitsSequence, channel.ChannelBaseline = [unit], "0"
    channel.WaveformBitsStored = 16
    return channel


def _write_cine(folder: Path, found: Canaries, patient: str) -> None:
    rows, columns = np.mgrid[:48, :48]
    frames = [
        800.0 * (np.hypot(rows - 24, columns - 24) < 8 + 3 * np.cos(k * np.pi / 4)) + rows
        for k in range(8)
    ]
    volume = np.stack(frames, axis=-1)[:, :, None].astype(np.int16)
    image = nib.Nifti1Image(volume, np.diag([2.0, 2.0, 8.0, 1.0]))
    image.header.set_zooms((2.0, 2.0, 8.0, 0.1))
    image.header["descrip"] = found.word("Nifti").encode()
    nib.save(image, folder / f"{patient}_4ch.nii.gz")


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """Folder with `ecg`, `cmr` and `table.csv`, and the canaries in it."""
    place = tmp_path_factory.mktemp("hospital")
    found = Canaries()
    found.forms["recorded"] = (
        "20031117",
        "2003-11-17",
        "17/11/2003",
        "11-17-2003",
        "17.11.2003",
        "10:11:12",
    )
    ecg = place / "ecg" / found.word("Folder")
    cmr = place / "cmr"
    ecg.mkdir(parents=True)
    cmr.mkdir()
    records = [_write_wfdb(ecg, found, seed) for seed in range(PATIENTS)]
    _write_muse(ecg, found)
    _write_aecg(ecg, found)
    _write_dicom_ecg(ecg, found)
    _write_cardiosoft(ecg, found)
    _write_hdf5(ecg, found)
    for patient in records[:4]:
        _write_cine(cmr, found, patient)
    (ecg / f"{found.word('Torn')}.hea").write_text(f"{found.word('Torn')} 1 x\n")
    (ecg / f"{found.word('Letter')}.xml").write_text(f"<letter>{found.word('Dear')}</letter>")
    with (place / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("patient_id", "surname", "address", "birth_date", "icd10", "report"))
        for k, record in enumerate(records):
            y, m, d = found.date()
            words = [found.word(kind) for kind in ("Name", "Street", "Letter")]
            icd = "I48.0" if k % 3 == 0 else (words[2] if k == 5 else "I10")
            writer.writerow((record, words[0], words[1], f"{y}-{m}-{d}", icd, words[2]))
    return place, found


@pytest.fixture(scope="module")
def written(hospital, tmp_path_factory, federate, nano):
    """Where prepare, check and a run wrote, all they printed included."""
    place, _ = hospital
    base = tmp_path_factory.mktemp("site")
    out = base / "prepared"
    folders = ["--ecg", str(place / "ecg"), "--cmr", str(place / "cmr")]
    table = ["--table", str(place / "table.csv")]
    _command(
        base, "prepare", "cardionets_core.cli", *("prepare", *folders, *table, "--out", str(out))
    )
    site = base / "north.yaml"
    write_yaml(
        site,
        {
            "site": "north",
            "device": "cpu",
            "data": {"prepared": str(out)},
            "policy": {"min_patients": 2},
        },
    )
    site.chmod(0o600)
    check = ("check", "--config", str(site), "--trial-seconds", "0.2")
    _command(base, "check", "client.cli", *check, "--page", str(base / "check.html"))
    federate(base / "outputs" / "run", {"north": site}, *nano, f"stages={PLAIN}")
    return base


def _command(base: Path, name: str, module: str, *words: str) -> None:
    """Run a command as a person does, and keep what it prints."""
    environment = os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", f"from {module} import app; app()", *words],
        capture_output=True, text=True, timeout=500, env=environment, check=False, cwd=base,
    )  # fmt: skip
    (base / f"{name}.txt").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr


def _texts(path: Path) -> list[bytes]:
    """Return the bytes of a file, and what is packed in it."""
    raw = path.read_bytes()
    found = [raw]
    if raw[:2] == b"\x1f\x8b":
        found.append(gzip.decompress(raw))
    if raw[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(raw)) as packed:
            found += [packed.read(name) for name in packed.namelist()]
    if raw[:4] == b"PAR1":
        found.append(pq.read_table(path).to_pandas().to_csv().encode())
    if raw[:15] == b"SQLite format 3":
        with sqlite3.connect(path) as database:
            found.append("\n".join(database.iterdump()).encode())
    return found


def _holds(text: bytes, form: str) -> bool:
    """Return whether a form of a canary stands in a text.

    Digits do where they may be a date (and a time) or a number, and not within longer ones: the
    ids, hashes and measured numbers of a run hold any eight digits once in a thousand runs.
    """
    plain = form.encode()
    if plain not in text or not form.isdecimal():
        return plain in text or form.encode("utf-16-le") in text
    alone = rb"(?<!\d)(?<![0-9a-f]{8})" + plain + rb"(?=(\d{4}|\d{6})?(?![0-9a-f]))"
    return re.search(alone, text) is not None or form.encode("utf-16-le") in text


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("born19310203", True),
        ("1.2.840.19310203101112.7", True),
        ("19310203T10", True),
        ('"auroc": 0.1931020312345678', False),
        ("9f3c01d419310203", False),
        ("119310203", False),
    ],
)
def test_digits_are_found_where_they_may_be_a_date(text, held):
    assert _holds(text.encode(), "19310203") is held


def _hits(folder: Path, found: Canaries) -> dict[str, list[str]]:
    """Return canary -> files (names or contents) that hold one of its forms."""
    hits: dict[str, list[str]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        texts = [name.encode(), *_texts(path)]
        for canary, forms in found.forms.items():
            if any(_holds(text, form) for text in texts for form in forms):
                hits.setdefault(canary, []).append(name)
    return hits


def test_fifty_and_more_are_planted_and_the_search_finds_each(hospital):
    place, found = hospital
    assert len(found.forms) >= 50
    assert set(_hits(place, found)) == set(found.forms)


def test_none_is_written(hospital, written):
    _, found = hospital
    assert _hits(written, found) == {}


def test_the_records_were_read_all_the_same(written):
    """The control: nothing is missing because nothing was read."""
    manifest = pq.read_table(written / "prepared" / "manifest.parquet").to_pandas()
    assert (manifest["ecg"] != "").sum() == PATIENTS + 6
    assert (manifest["cine_4ch"] != "").sum() == 4
    assert manifest["atrial_fibrillation"].sum() == PATIENTS // 3
    assert (written / "outputs" / "run" / "summary.json").exists()
    assert len((written / "prepared" / "quarantine.csv").read_text().splitlines()) >= 2
