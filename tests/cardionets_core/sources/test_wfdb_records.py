"""WFDB records of every archive at hand: read as wfdb reads them, or refused with the reason."""

import math
import os
import shutil
import warnings
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cardionets_core.data.refusal import RecordRefused
from cardionets_core.labels.code import Code
from cardionets_core.sources import wfdb_records
from cardionets_core.vocabulary import LEADS

with warnings.catch_warnings():  # wfdb 4.3 trips over a deprecation of pandas 3 on import
    warnings.simplefilter("ignore", DeprecationWarning)
    import wfdb

ROOT = Path(os.environ.get("CARDIONETS_SHARED_DATA", Path(__file__).parents[4] / "shared/data"))
needs_files = pytest.mark.skipif(
    not ROOT.is_dir(), reason="real files are absent: set CARDIONETS_SHARED_DATA to their folder"
)
NOTHING = {
    "310derive": "no_standard_lead",
    "311derive": "no_standard_lead",
    "binformats": "no_standard_lead",
    "flacformats": "no_standard_lead",
    "03700181": "no_standard_lead",
    "test01_00s": "no_standard_lead",
    "test01_00s_skew": "no_standard_lead",
    "s25047-2704-05-04-10-44n": "no_standard_lead",
}
LEADS_OF = {
    "100-no-len": 1,
    "100skew": 1,
    "100_3chan": 6,  # I, II, III and what follows from them
    "3000003_0003": 1,
    "a103l": 1,
    "a103l-no-len": 1,
    "v102s": 1,
    "mixedsignals": 2,
    "041s": 2,
    "s25047-2704-05-04-10-44": 1,
    "s0010_re": 12,
}


def read(path):
    return wfdb_records.read(path, "", root=ROOT)


def own_records(folder):
    """Return the headers of a folder that are recordings, as preparation finds them."""
    headers = sorted(folder.rglob("*.hea"))
    taken = {(hea.parent, name) for hea in headers for name in wfdb_records.segments_of(hea)}
    return [hea for hea in headers if (hea.parent, hea.stem) not in taken]


@needs_files
def test_segments_and_layouts_are_no_recordings_of_their_own():
    found = {hea.stem for hea in own_records(ROOT / "wfdb-edge")}
    assert found == {*NOTHING, *LEADS_OF}
    segments = wfdb_records.segments_of(
        ROOT / "wfdb-edge/multi-segment/s25047/s25047-2704-05-04-10-44.hea"
    )
    assert segments == {"3234460_layout", *(f"3234460_{k:04d}" for k in range(1, 19))}


@needs_files
def test_every_corner_case():
    for hea in own_records(ROOT / "wfdb-edge"):
        if hea.stem in NOTHING:
            with pytest.raises(RecordRefused) as refused:
                read(hea)
            assert refused.value.code == NOTHING[hea.stem], hea.stem
            continue
        record = read(hea).record
        assert record.lead_mask.sum() == LEADS_OF[hea.stem], hea.stem
        truth = wfdb.rdrecord(str(hea.with_suffix("")), sampto=_frames(hea), smooth_frames=False)
        for name, values in zip(truth.sig_name, truth.e_p_signal, strict=True):
            if name.upper() not in LEADS_UPPER:
                continue
            found = record.signal[LEADS_UPPER.index(name.upper())]
            start = int(np.flatnonzero(np.isfinite(values))[0])  # silence before it is cut
            values = values[start : start + len(found)]
            known = np.isfinite(values)
            np.testing.assert_allclose(found[: len(values)][known], values[known], atol=1e-5)


LEADS_UPPER = [lead.upper() for lead in LEADS]


def _frames(hea):
    header = wfdb.rdheader(str(hea.with_suffix("")))
    return min(header.sig_len, int(300 * header.fs) + 1) if header.sig_len else None


@needs_files
def test_every_record_of_the_archives():
    paths = [*own_records(ROOT / "cinc2021"), *own_records(ROOT / "ptbxl")]
    assert len(paths) > 380
    for path in paths:
        source = read(path)
        assert source.record.lead_mask.sum() >= 9
        assert source.facts.person.patient_id in path.stem
    for path in paths[::9]:
        record = read(path).record
        values, _ = wfdb.rdsamp(str(path.with_suffix("")))
        varies = np.ptp(values, axis=0) > 0.001
        np.testing.assert_array_equal(record.lead_mask, varies)
        np.testing.assert_allclose(record.signal[varies], values.T[varies], atol=1e-5)


def facts(name):
    return read(ROOT / name).facts


@needs_files
def test_what_cinc_headers_say():
    older, newer = (
        facts("cinc2021/chapman-ningbo/JS00001.hea"),
        facts("cinc2021/chapman-ningbo/JS20019.hea"),
    )
    assert (older.person.age, older.person.sex, older.person.patient_id) == (85.0, 1.0, "JS00001")
    assert (newer.person.age, newer.person.sex) == (70.0, 1.0)
    snomed = [Code("snomed", code) for code in ("164889003", "59118001", "164934002")]
    assert list(older.codes) == snomed
    assert [code.code for code in newer.codes] == ["284470004", "164934002", "427084000"]
    assert older.recorded is None, "23-Mar-2021 is when the file was converted"
    assert facts("cinc2021/ptb-xl/HR00003.hea").person.sex == 0.0


@needs_files
def test_what_other_headers_say():
    ptb = facts("wfdb-edge/s0010_re.hea")
    assert (ptb.person.age, ptb.person.sex, ptb.codes) == (81.0, 0.0, ())
    assert ptb.recorded == datetime(1990, 10, 1), "the catheter of 16-Oct-90 came later"
    mimic = facts("wfdb-edge/multi-segment/041s/041s.hea")
    assert mimic.recorded == datetime(1994, 10, 26, 8, 26, 4)
    shifted = facts("wfdb-edge/multi-segment/s25047/s25047-2704-05-04-10-44.hea")
    assert shifted.recorded == datetime(2704, 5, 4, 10, 44, 18)
    assert math.isnan(shifted.person.age) and math.isnan(shifted.person.sex)
    assert facts("ptbxl/records100/00000/00001_lr.hea").person.patient_id == "00001"


@pytest.fixture
def record(tmp_path):
    """A function (record line's end, comments, folder) -> header of a record with one lead."""

    def write(end="", comments="", folder="", name="r"):
        where = tmp_path / folder
        where.mkdir(parents=True, exist_ok=True)
        wave = np.round(1000 * np.sin(np.arange(2000) / 20)).astype("<i2")
        wave.tofile(where / f"{name}.dat")
        text = f"{name} 1 500 2000{end}\n{name}.dat 16 1000(0)/mV 16 0 0 0 0 II\n{comments}"
        (where / f"{name}.hea").write_text(text)
        return where / f"{name}.hea"

    return write


@pytest.mark.parametrize(
    ("comments", "age", "sex"),
    [
        ("#Age: 74\n#Sex: Male", 74, 1),
        ("# Age: 74\n# Sex: female", 74, 0),
        ("#Age: NaN\n#Sex: NaN", math.nan, math.nan),
        ("#Age: 300\n#Sex: Unknown", math.nan, math.nan),
        ("#Age: -1\n#Sex: M", math.nan, 1),
        ("#Age: 7_4\n#Sex: 1", math.nan, math.nan),
        ("# <age>: 25  <sex>: M  <diagnoses>: (none)  <medications>: (none)", 25, 1),
        ("# <age>: ?? <sex>: ?", math.nan, math.nan),
        ("#Age: 50\n#Age: 60", 50, math.nan),
        ("# 69 M 1085 1629 x1\n# Aldomet, Inderal", math.nan, math.nan),
    ],
)
def test_ages_and_sexes(record, tmp_path, comments, age, sex):
    person = wfdb_records.read(record(comments=comments), "", root=tmp_path).facts.person
    np.testing.assert_equal((person.age, person.sex), (age, sex))


@pytest.mark.parametrize(
    ("written", "codes"),
    [
        ("#Dx: 426783006", ["426783006"]),
        ("# Dx: 426783006, 270492004 ,426783006", ["426783006", "270492004"]),
        ("#Dx: Unknown", []),
        ("#Dx: Herr M\u00fcller, 12345", []),
        ("#Diagnose: 426783006\n#Hx: 426783006\n#Rx: 426783006", []),
    ],
)
def test_codes(record, tmp_path, written, codes):
    found = wfdb_records.read(record(comments=written), "", root=tmp_path).facts.codes
    assert [(code.system, code.code, code.present) for code in found] == [
        ("snomed", code, True) for code in codes
    ]


@pytest.mark.parametrize(
    ("end", "moment"),
    [
        (" 12:04:00 22/09/2182", datetime(2182, 9, 22, 12, 4)),  # MIMIC-IV-ECG
        (" 8:26:04.757 26/10/1994", datetime(1994, 10, 26, 8, 26, 4)),
        (" 17:27 15/08/1994", datetime(1994, 8, 15, 17, 27)),
        (" 10:44:18.529", None),
        (" 04-Jun-2020 15:11:55", None),
        (" 12:00:00 31/02/2001", None),
        (" 12:00:00 01/01/0001", None),
        (" 25:00:00 01/01/2001", None),
        ("", None),
    ],
)
def test_base_dates(record, tmp_path, end, moment):
    assert wfdb_records.read(record(end), "", root=tmp_path).facts.recorded == moment


@pytest.mark.parametrize(
    ("folder", "name", "comments", "patient"),
    [
        ("g1", "JS00001", "", "JS00001"),
        ("patient001", "s0010_re", "", "patient001"),
        ("files/p1000/p10000032/s40689238", "40689238", "", "10000032"),
        ("p1000/p10000032/s1", "1", "# <subject_id>: 777", "777"),
        ("records500/00000", "00017_hr", "", "00017"),
    ],
)
def test_whose_record_it_is(record, tmp_path, folder, name, comments, patient):
    path = record(comments=comments, folder=folder, name=name)
    person = wfdb_records.read(path, "", root=tmp_path).facts.person
    assert person.patient_id == patient


def test_free_text_is_dropped_and_nothing_is_shown(record, tmp_path):
    comments = "# Name: Erika Mustermann\n# age: 81\n# Reason for admission: chest pain"
    source = wfdb_records.read(record(comments=comments), "", root=tmp_path)
    held = f"{source!r} {vars(source.facts)} {vars(source.facts.person)}"
    assert "Mustermann" not in held and "pain" not in held
    assert "81" not in repr(source)


def test_what_is_recognised():
    assert wfdb_records.recognises("r.hea", b"")
    assert not wfdb_records.recognises("r.dat", b"r 1 500 10")
    assert not wfdb_records.recognises("r.hea.xml", b"<a/>")


def test_no_part_and_no_way_out(record, tmp_path):
    path = record(folder="inner")
    with pytest.raises(RecordRefused, match="missing_file"):
        wfdb_records.read(path, "2", root=tmp_path)
    with pytest.raises(RecordRefused, match="path_escape"):
        wfdb_records.read(path, "", root=tmp_path / "other")


@pytest.mark.parametrize("text", ["", "#only a comment\n", "r 1 500\n", "r/x 1\na 1\n", "\xff/2 "])
def test_headers_without_segments(tmp_path, text):
    path = tmp_path / "r.hea"
    path.write_text(text)
    assert wfdb_records.segments_of(path) == frozenset()


def fuzz(source, folder, draw_bytes):
    """Read a damaged copy of a record: whatever it is, only a refusal may come of it."""
    path = folder / source.name
    damaged = bytearray(source.read_bytes())
    for place, value in draw_bytes:
        damaged[place % len(damaged)] = value
    path.write_bytes(damaged)
    wfdb_records.segments_of(path)
    try:
        record = wfdb_records.read(path, "", root=folder).record
    except RecordRefused:
        return
    assert np.isfinite(record.signal).all()


DAMAGE = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=4)
TEMPLATE = (
    "r 2 500 2000 10:00:00 01/01/2001\nr.dat 16+24 1000(0)/mV 16 0 0 0 0 II\n"
    "r.dat 16+24 1000(0)/mV 16 0 0 0 0 V1\n#Age: 50\n#Sex: Male\n#Dx: 426783006\n"
)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("template")
    (folder / "r.hea").write_text(TEMPLATE)
    wave = np.round(900 * np.sin(np.arange(4000) / 20)).astype("<i2")
    (folder / "r.dat").write_bytes(bytes(24) + wave.tobytes())
    return folder


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(damage=DAMAGE)
def test_damaged_headers(template, tmp_path, damage):
    shutil.copy(template / "r.dat", tmp_path / "r.dat")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of wfdb, where a damaged header leads to its decoders
        fuzz(template / "r.hea", tmp_path, damage)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(damage=DAMAGE)
def test_many_damaged_headers(template, tmp_path, damage):
    shutil.copy(template / "r.dat", tmp_path / "r.dat")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fuzz(template / "r.hea", tmp_path, damage)
