"""A hospital's own CSV, cell by cell."""

from datetime import date, datetime

import numpy as np
import pytest

from cardionets_core.errors import DataError
from cardionets_core.labels.code import Code
from cardionets_core.labels.vocabularies import diseases_of
from cardionets_core.sources import table_rows
from cardionets_core.sources.table_hospital import ALIASES
from cardionets_core.sources.tables import read_table


@pytest.fixture
def read(tmp_path):
    def read(*lines, encoding="utf-8", end="\n"):
        path = tmp_path / "table.csv"
        path.write_bytes(end.join(lines).encode(encoding))
        return read_table(path, root=tmp_path / "ecg")

    return read


@pytest.fixture
def cell(read):
    """What one cell of a column becomes: the facts, and the reasons that were counted."""

    def cell(column, text, separator=","):
        text = f'"{text}"' if separator in text else text
        table = read(separator.join(("patient_id", column)), separator.join(("p", text)))
        return table.facts("", "p"), [reason for _, reason in table.problems]

    return cell


def test_a_fraction_beside_percentages_is_unknown(read):
    table = read("patient_id,lv_ef", "a,55", "b,0.55", "c,61")
    values = [table.facts("", p).values for p in "abc"]
    assert values == [{"lv_ef": 55.0}, {}, {"lv_ef": 61.0}]
    assert table.problems == {("lv_ef", "a fraction, and percent is meant"): 1}
    assert table.problem_lines == {("lv_ef", "a fraction, and percent is meant"): (3,)}


@pytest.mark.parametrize(
    ("column", "name", "cells"),
    [
        ("lv_ef", "lv_ef", ("0.55", "61", "0.4")),
        ("24109-2.0", "rv_ef", ("0.55", "0.7", "")),
        ("ecc_global", "ecc_global", ("-0.21", "-0.18", "-20")),
    ],
)
def test_a_column_of_fractions_is_refused_with_its_unit(read, column, name, cells):
    rows = [f"p{k},{cell}" for k, cell in enumerate(cells)]
    with pytest.raises(DataError, match=f"'{name}': 2 values .* percent; multiply .* by 100"):
        read(f"patient_id,{column}", *rows)


def test_small_strains_beside_others_stay(read):
    table = read("patient_id,ecc_1", "a,-0.4", "b,-18", "c,0")
    assert [table.facts("", p).values["ecc_1"] for p in "abc"] == [-0.4, -18, 0]
    assert table.problems == {}


def same(a, b):
    return a == b or (np.isnan(a) and np.isnan(b))


def test_a_german_export(read):
    table = read(
        "Patient ID;ECG;Geschlecht;Geburtsdatum;ECG-Date;Gewicht_kg;ICD10;24103-2.0;"
        "heart_failure;Befund",
        "007;a\\b.hea;W;31.01.1950;03.02.2020 10:11;63,5;I48.0 G, I21.0 A E11.9;55,5;1;Müller",
        end="\r\n",
        encoding="utf-8-sig",
    )
    facts = table.facts("a/b", "")
    assert facts.person.patient_id == "007"
    assert facts.person.sex == 0 and facts.person.weight_kg == 63.5
    assert facts.person.birth_date == date(1950, 1, 31) and np.isnan(facts.person.age)
    assert facts.recorded == datetime(2020, 2, 3, 10, 11)
    assert facts.codes == (
        Code("icd10", "I480"),
        Code("icd10", "I210", present=False),
        Code("icd10", "E119"),
    )
    assert facts.values == {"lv_ef": 55.5, "heart_failure": 1}
    assert table.dropped == {"column 10": 1} and table.problems == {}
    assert diseases_of(facts.codes)["myocardial_infarction"] == 0


@pytest.mark.parametrize(
    ("text", "sex"),
    [("M", 1), ("male", 1), ("Male", 1), ("männlich", 1), ("1", 1), ("F", 0), ("W", 0),
     ("female", 0), ("0", 0), ("", np.nan), ("missing", np.nan)],
)  # fmt: skip
def test_sexes(cell, text, sex):
    facts, reasons = cell("sex", text)
    assert same(facts.person.sex, sex) and reasons == []


@pytest.mark.parametrize("text", ["divers", "mm", "-1"])
def test_what_is_no_sex_is_unknown_and_counted(cell, text):
    facts, reasons = cell("gender", text)
    assert np.isnan(facts.person.sex) and reasons == ["not M, F, 1 or 0"]


def test_one_and_two_lose_no_women_silently(cell):
    with pytest.raises(DataError, match=r"1 rows say 2.*write M and F"):
        cell("sex", "2")


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("I42.0A", [("I420", False)]),
        ("I42.0G", [("I420", True)]),
        ("I48Z", [("I48", True)]),
        ("I42.0V", []),
        ("S72.001A", [("S72001A", True)]),
        ("C4A", [("C4A", True)]),
    ],
)
def test_a_certainty_letter_that_is_glued_to_its_code(cell, text, codes):
    facts, reasons = cell("icd10", text)
    assert [(c.code, c.present) for c in facts.codes] == codes
    assert bool(reasons) == (not codes)


@pytest.mark.parametrize(
    ("column", "text", "reason"),
    [
        ("age", "300", "outside 0 to 120"),
        ("age", "NaN", None),
        ("age", "old", "not a number"),
        ("age", "inf", "not a number"),
        ("height_cm", "1.80", "outside 30 to 250"),
        ("weight_kg", "1,5", "not a number"),
        ("lv_ef", "1e9", "outside 2 to 95"),
        ("lv_ef", "0", "outside 2 to 95"),
        ("lv_ef", "1.5", "outside 2 to 95"),
        ("lv_edv", "0.145", "outside 5 to 1000"),
        ("24105-2.0", "9000", "outside 3 to 800"),
        ("ell_global", "-120", "outside -80 to 40"),
        ("heart_failure", "2", "not 1, 0 or empty"),
        ("heart_failure", "0.5", "not 1, 0 or empty"),
        ("heart_failure", "yes", "not 1, 0 or empty"),
        ("recorded", "20120000", "not a date like 2024-01-31"),
        ("recorded", "0001-01-01", "not a date like 2024-01-31"),
        ("recorded", "01/02/2024", "day and month cannot be told apart"),
        ("icd10", "kein I21.0", "not a list of codes"),
        ("icd10", "I48.0 V", "not a list of codes"),
        ("icd10", "G I48.0", "not a list of codes"),
        ("snomed", "164889004", "not a list of codes"),
        ("scp", "NORM MEIER", "not a list of codes"),
    ],
)
def test_a_bad_cell_is_unknown_and_counted(cell, column, text, reason):
    facts, reasons = cell(column, text)
    assert reasons == ([reason] if reason else [])
    person = facts.person
    assert all(np.isnan(x) for x in (person.age, person.height_cm, person.weight_kg))
    assert facts.recorded is None and facts.codes == () and facts.values == {}


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("2024-01-31", datetime(2024, 1, 31)),
        ("2024-01-31T10:11:12", datetime(2024, 1, 31, 10, 11, 12)),
        ("2024-01-31 10:11:12.345", datetime(2024, 1, 31, 10, 11, 12)),
        ("2024-01-31T10:11:12+01:00", datetime(2024, 1, 31, 10, 11, 12)),
        ("2024-01-31 10:11", datetime(2024, 1, 31, 10, 11)),
        ("20240131", datetime(2024, 1, 31)),
        ("20240131101112", datetime(2024, 1, 31, 10, 11, 12)),
        ("31.01.2024", datetime(2024, 1, 31)),
        ("2211-05-06", datetime(2211, 5, 6)),
    ],
)
def test_dates(cell, text, when):
    facts, reasons = cell("ecg_date", text)
    assert facts.recorded == when and reasons == []


@pytest.mark.parametrize(
    ("column", "text", "codes"),
    [
        ("icd10", "I48.0;I50.9", "I480 I509"),
        ("icd10", "I48.0, I50.9", "I480 I509"),
        ("icd10", "i48.0 I50.9 I480", "I480 I509"),
        ("icd10", "['I2510', 'I10']", "I2510 I10"),
        ("icd10", "I48.0 G Z95.0 Z", "I480 Z950"),
        ("icd10", "I10 E11.9 V", "I10"),  # suspected, and not of any disease here
        ("icd10", "[]", ""),
        ("icd9", "427.31|4280 V45.81", "42731 4280 V4581"),
        ("snomed_ct", "164889003 59118001", "164889003 59118001"),
        ("scp_codes", "NORM;prc(s);LAO/LAE", "NORM PRC(S) LAO/LAE"),
    ],
)
def test_lists_of_codes(cell, column, text, codes):
    facts, reasons = cell(column, text)
    assert [code.code for code in facts.codes] == codes.split() and reasons == []
    assert all(code.present for code in facts.codes)


def test_both_heights_of_uk_biobank(read):
    table = read(
        "eid,50-2.0,12144-2.0,p31,24100-3.0",
        "1,170,171,1,9",
        "2,160,,0,9",
    )
    assert [table.facts("", k).person.height_cm for k in "12"] == [171, 160]
    assert [table.facts("", k).person.sex for k in "12"] == [1, 0]
    assert table.dropped == {"column 5": 2}


def test_the_same_thing_twice(read):
    with pytest.raises(DataError, match="columns 2 and 4 both hold 'age'"):
        read("patient_id,age,sex,Alter", "p,1,M,1")
    with pytest.raises(DataError, match="columns 2 and 3 both hold 'sex'"):
        read("patient_id,p31,sex", "p,1,M")


def test_a_table_without_patients_or_anything_else(read):
    with pytest.raises(DataError, match=r"no column 'patient_id' \(column 2 looks like it\)"):
        read("age,patien_id", "1,p")
    with pytest.raises(DataError, match="nothing that is read besides 'patient_id'"):
        read("patient_id,report", "p,text")
    with pytest.raises(DataError, match="has no header"):
        read("")
    with pytest.raises(DataError, match="has no rows"):
        read("patient_id,age")


def test_columns_of_our_own_virtual_hospitals_are_known(read):
    table = read("patient_id,age,cine_4ch,cine_sax", "p,1,cmr/p_4ch.nii.gz,cmr/p_sax.nii.gz")
    first, second = table.dropped
    assert first.startswith("column 3 (cine_4ch: ") and second.startswith("column 4 (cine_sax: ")
    assert "--cmr" in first


def test_a_misspelt_column_brings_a_hint(read):
    table = read("patient_id,age,heigth_cm,weight", "p,1,170,150")
    assert table.dropped == {
        "column 3 (did you mean 'height_cm'?)": 1,
        "column 4 (did you mean 'weight_kg'?)": 1,
    }
    assert np.isnan(table.facts("", "p").person.weight_kg)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16"])
def test_only_utf8(read, encoding):
    with pytest.raises(DataError, match="is not UTF-8"):
        read("patient_id,sex", "Müller,männlich", encoding=encoding)


def test_rows_of_other_lengths(read):
    table = read("patient_id,age,sex", "a,50", "", "b,60,M,,", "c,70,F,Meier", "d,80,F")
    assert [table.facts("", k).person.age for k in "abd"] == [50, 60, 80]
    assert np.isnan(table.facts("", "c").person.age)
    assert table.problem_lines == {("row", "more cells than the header"): (5,)}


def test_line_numbers_over_several_pieces(read, monkeypatch):
    monkeypatch.setattr(table_rows, "_CELLS_AT_ONCE", 1)
    rows = [f"p{k},{'x' if k in (70, 71, 130, 199) else k % 90}" for k in range(200)]
    table = read("patient_id,age", *rows)
    assert len(table) == 200 and table.facts("", "p150").person.age == 60
    assert table.problems == {("age", "not a number"): 4}
    assert table.problem_lines[("age", "not a number")] == (72, 73, 132)


@pytest.mark.parametrize(
    ("text", "line"), [('p,"open', 2), ('p,"a"b\nq,1', 2), ("p," + "9" * 200_000, 2)]
)
def test_quotation_marks_that_do_not_close(read, text, line):
    with pytest.raises(DataError, match=f"near line {line}: a quotation mark"):
        read("patient_id,age", text)


def test_sizes_are_judged_first(read, monkeypatch):
    monkeypatch.setattr(table_rows, "_LONGEST_LINE", 100)
    with pytest.raises(DataError, match="endless line"):
        read("patient_id,age", "p," + "1" * 200)
    monkeypatch.setattr(table_rows, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="larger than"):
        read("patient_id,age", "p,1")


@pytest.mark.parametrize(
    "path", ["../a", "/etc/passwd", "C:\\a", "s3://a/b", "~/a", "a/../../b", "a\\..\\..\\b"]
)
def test_paths_out_of_the_folder(read, path):
    table = read("patient_id,ecg,age", f"p,{path},50")
    assert table.problems == {("ecg", "a path out of the recordings' folder"): 1}
    # nor does the row become one of the patient
    assert np.isnan(table.facts(path, "p").person.age)
    assert np.isnan(table.facts("", "p").person.age)


def test_an_absolute_path_below_the_folder(read, tmp_path):
    table = read("patient_id,ecg,age", f"p,{tmp_path / 'ecg' / 'x' / '1.xml'},50")
    assert table.facts("x/1", "").person.age == 50 and table.problems == {}


def test_no_name_leads_to_two_columns():
    names = [n for target, more in ALIASES.items() for n in (target, *more)]
    assert len(names) == len(set(names))
