import csv
import re

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cardionets_core.labels import code_tables
from cardionets_core.labels.code import Code
from cardionets_core.labels.code_tables import entries
from cardionets_core.labels.vocabularies import (
    BILLED,
    LABELS_VERSION,
    SHAPES,
    check_tables,
    diseases_of,
    entry_of,
    unmapped,
    with_implied,
)
from cardionets_core.vocabulary import DISEASES

# PhysioNet/CinC 2021, dx_mapping_scored.csv; the list of 2020 is contained in it.
SCORED = """164889003 164890007 6374002 426627000 733534002 713427006 270492004 713426002 39732003
445118002 164909002 251146004 698252002 426783006 284470004 10370003 365413008 427172004 164947007
111975006 164917005 47665007 59118001 427393009 426177001 427084000 63593006 164934002 59931005
17338001""".split()


def of(system, *codes):
    """Codes of one list; a leading `-` means not present."""
    return [Code(system, c.removeprefix("-"), not c.startswith("-")) for c in codes]


def present(values):
    return {name for name, value in values.items() if value == 1}


def absent(values):
    return {name for name, value in values.items() if value == 0}


@pytest.mark.parametrize("code", SCORED)
def test_every_scored_code_of_the_challenges_is_listed(code):
    assert code in entries("snomed")


def test_all_codes_of_the_real_headers_are_listed(shared_data):
    found = set()
    for header in (shared_data / "cinc2021").rglob("*.hea"):
        lists = re.findall(r"^#\s?Dx: *(.*)$", header.read_text(), re.MULTILINE)
        found.update(word.strip() for line in lists for word in line.split(","))
    assert len(found) > 20
    assert unmapped(of("snomed", *found)) == {}


def test_the_statements_of_ptbxl_stand_in_its_superclasses(shared_data):
    classes = {
        "NORM": "normal_ecg",
        "MI": "myocardial_infarction",
        "STTC": "st_t_change",
        "CD": "conduction_disturbance",
        "HYP": "hypertrophy",
    }
    truth = pd.read_csv(shared_data / "ptbxl" / "scp_statements.csv", index_col=0)
    table = entries("scp")
    assert set(table) == set(truth.index)
    for code, row in truth.iterrows():
        entry = table[code]
        if row["diagnostic"] == 1:
            assert entry.kind == "diagnosis"
            assert {d for d in entry.diseases if d in classes.values()} == {
                classes[row["diagnostic_class"]]
            }
        else:
            assert entry.kind == ("rhythm" if row["rhythm"] == 1 else "finding")
            assert entry.diseases == (("atrial_fibrillation",) if code == "AFIB" else ())


def test_a_list_of_ecg_statements():
    values = diseases_of(of("scp", "IMI", "CLBBB", "-NDT", "SR"))
    assert present(values) == {
        "myocardial_infarction",
        "left_bundle_branch_block",
        "conduction_disturbance",
    }
    # a likelihood of 0 states nothing; and no ECG statement says anything about cardiomyopathy
    assert absent(values) == (SHAPES | {"atrial_fibrillation"}) - present(values)
    assert list(values) == [name for name in DISEASES if name in values]


def test_rhythms_and_findings_settle_no_diagnosis():
    assert diseases_of(of("scp", "AFIB", "LVOLT")) == {"atrial_fibrillation": 1.0}
    assert diseases_of(of("scp", "SR", "-IMI")) == {"atrial_fibrillation": 0.0}
    assert diseases_of([]) == {}


def test_the_normal_ecg_of_the_challenges():
    assert present(diseases_of(of("snomed", "426783006"))) == {"normal_ecg"}
    assert present(diseases_of(of("snomed", "426177001", "426783006"))) == {"normal_ecg"}
    assert diseases_of(of("snomed", "426177001")) == {"atrial_fibrillation": 0.0}
    values = diseases_of(of("snomed", "426783006", "270492004"))
    assert present(values) == {"conduction_disturbance"} and values["normal_ecg"] == 0
    # an unlisted code may be anything: no normal ECG with it
    assert "normal_ecg" not in diseases_of(of("snomed", "426783006", "404684003"))


def test_what_a_code_leaves_unknown():
    # one source codes fibrillation as flutter; a pacemaker hides a block; a side is not given
    assert "atrial_fibrillation" not in diseases_of(of("snomed", "164890007"))
    paced = diseases_of(of("snomed", "10370003", "164865005"))
    assert paced["myocardial_infarction"] == 1
    assert not {"left_bundle_branch_block", "conduction_disturbance"} & set(paced)
    block = diseases_of(of("snomed", "6374002"))
    assert block["conduction_disturbance"] == 1
    assert not {"left_bundle_branch_block", "right_bundle_branch_block"} & set(block)
    # stated beats left unknown
    assert diseases_of(of("snomed", "6374002", "164909002"))["left_bundle_branch_block"] == 1


def test_disorders_settle_nothing_else():
    assert diseases_of(of("snomed", "84114007")) == {"heart_failure": 1.0}
    assert diseases_of(of("snomed", "233873004")) == {
        "cardiomyopathy": 1.0,
        "hypertrophic_cardiomyopathy": 1.0,
    }


@pytest.mark.parametrize(
    ("code", "diseases"),
    [
        ("I21.4", "myocardial_infarction coronary_artery_disease"),
        ("I214", "myocardial_infarction coronary_artery_disease"),
        ("i25.2", "myocardial_infarction coronary_artery_disease"),
        ("I25.10", "coronary_artery_disease"),
        ("I2510", "coronary_artery_disease"),
        ("I50.9", "heart_failure"),
        ("I50.14", "heart_failure"),
        ("I11.0", "heart_failure"),
        ("I11.9", ""),
        ("I42.0", "cardiomyopathy dilated_cardiomyopathy"),
        ("I42.1", "cardiomyopathy hypertrophic_cardiomyopathy"),
        ("I42.5", "cardiomyopathy restrictive_cardiomyopathy"),
        ("I42.9", "cardiomyopathy"),
        ("I27.2", "pulmonary_hypertension"),
        ("I27.21", "pulmonary_hypertension"),
        ("I30.9", "pericarditis"),
        ("I31.3", ""),
        ("I32.1*", "pericarditis"),
        ("I48", "atrial_fibrillation"),
        ("I48.91", "atrial_fibrillation"),
        ("I48.92", ""),
        ("I44.7", "left_bundle_branch_block conduction_disturbance"),
        ("I45.10", "right_bundle_branch_block conduction_disturbance"),
        ("I44.2", "conduction_disturbance"),
        ("I51.7", "hypertrophy"),
        ("E78.5", ""),
    ],
)
def test_icd10(code, diseases):
    assert present(diseases_of(of("icd10", code))) == set(diseases.split())


@pytest.mark.parametrize(
    ("code", "diseases"),
    [
        ("410.71", "myocardial_infarction coronary_artery_disease"),
        ("41071", "myocardial_infarction coronary_artery_disease"),
        ("412", "myocardial_infarction coronary_artery_disease"),
        ("41401", "coronary_artery_disease"),
        ("4280", "heart_failure"),
        ("40291", "heart_failure"),
        ("4254", "cardiomyopathy"),
        ("42511", "cardiomyopathy hypertrophic_cardiomyopathy"),
        ("4168", "pulmonary_hypertension"),
        ("42731", "atrial_fibrillation"),
        ("42732", ""),
        ("4263", "left_bundle_branch_block conduction_disturbance"),
        ("426.4", "right_bundle_branch_block conduction_disturbance"),
        ("42611", "conduction_disturbance"),
        ("V4581", "coronary_artery_disease"),
    ],
)
def test_icd9(code, diseases):
    assert present(diseases_of(of("icd9", code))) == set(diseases.split())


def test_the_list_of_an_encounter():
    values = diseases_of(of("icd10", "I50.9", "E11.9"))
    assert present(values) == {"heart_failure"}
    assert absent(values) == BILLED - {"heart_failure"}
    # flutter is coded where fibrillation would be; an ischaemic cardiomyopathy is one or is not
    assert "atrial_fibrillation" not in diseases_of(of("icd10", "I48.3"))
    assert "cardiomyopathy" not in diseases_of(of("icd10", "I25.5"))
    # subtypes of an unspecified cardiomyopathy
    assert "dilated_cardiomyopathy" not in diseases_of(of("icd10", "I42.9"))
    # nothing readable is no list; excluded is not present
    assert diseases_of(of("icd10", "Herzschwäche")) == {}
    assert diseases_of(of("icd10", "-I50.9", "I10"))["heart_failure"] == 0


def test_systems_together():
    values = diseases_of(of("scp", "AFLT", "NORM") + of("icd10", "I48.0"))
    assert values["atrial_fibrillation"] == 1 and values["normal_ecg"] == 1
    assert values["heart_failure"] == 0


def test_unmapped_shows_codes_and_never_text():
    codes = of("icd10", "Meier, Karl", "A12345", "I29.9", "I29.8", "E78")
    codes += of("snomed", "404684003", "12345678", "404684003")
    codes += of("scp", "MEIER", "NORM") + of("icd9", "999", "418.1")
    assert unmapped(codes) == {
        "icd10:malformed": 1,
        "icd10:I29": 2,
        "snomed:404684003": 2,
        "snomed:malformed": 1,
        "scp:malformed": 1,
        "icd9:418": 1,
    }


@settings(deadline=None)
@given(st.sampled_from(["snomed", "scp", "icd10", "icd9"]), st.text(max_size=30))
def test_any_text_is_a_code_or_stays_hidden(system, text):
    for name in unmapped([Code(system, text)]):
        assert name.endswith(":malformed") or re.fullmatch(r"\w+:[0-9A-Z]{3}|snomed:\d+", name)
    diseases_of([Code(system, text)])


def test_hierarchies():
    assert with_implied({"hypertrophic_cardiomyopathy": 1.0}) == {
        "hypertrophic_cardiomyopathy": 1.0,
        "cardiomyopathy": 1.0,
    }
    assert with_implied({"hypertrophy": 0.0})["left_ventricular_hypertrophy"] == 0
    assert with_implied({"cardiomyopathy": 1.0}) == {"cardiomyopathy": 1.0}
    stated = {"left_bundle_branch_block": 1.0, "conduction_disturbance": 0.0}
    assert with_implied(stated)["conduction_disturbance"] == 0


@settings(deadline=None)
@given(st.lists(st.sampled_from([(s, c) for s in ("snomed", "scp", "icd10", "icd9")
                                 for c in sorted(entries(s))]), max_size=6))  # fmt: skip
def test_no_case_without_the_wider_disease(codes):
    values = diseases_of(Code(system, code) for system, code in codes)
    for name, value in with_implied(values).items():
        if value == 1:
            assert values.get(name) == 1


def test_the_tables_are_sound():
    assert check_tables() == []
    assert LABELS_VERSION.isdigit()


def test_the_check_finds_what_is_wrong(tmp_path, monkeypatch):
    for path in code_tables.TABLES.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "icd10.csv").open("a", newline="") as file:
        csv.writer(file).writerows(
            [
                ("I480", "twice", "", "", "disorder"),
                ("I48.0", "again", "", "", "disorder"),
                ("Q1", "no code", "", "", "disorder"),
                ("I29.1", "no disease", "gout", "", "disorder"),
                ("I29.2", "both", "heart_failure", "heart_failure", "disorder"),
                ("I29.3", "alone", "dilated_cardiomyopathy", "", "disorder"),
                ("I29.4", "kind", "", "", "guess"),
                ("I29.5", "normal", "normal_ecg heart_failure", "", "diagnosis"),
            ]
        )
    monkeypatch.setattr(code_tables, "TABLES", tmp_path)
    found = "\n".join(check_tables())
    expected = ("I48.0: stands twice", "Q1: not a code", "gout", "states and leaves")
    expected += ("without cardiomyopathy", "no such kind", "normal ECG with", "raise the version")
    for words in expected:
        assert words in found
    assert len(found.splitlines()) == 8


def test_titles_are_there_and_an_entry_is_found_by_its_longest_beginning():
    assert all(e.title for s in ("snomed", "scp", "icd10", "icd9") for e in entries(s).values())
    assert entry_of("icd10", "I48.92").code == "I48.92"
    assert entry_of("icd10", "I48.919").code == "I48"
    assert entry_of("icd10", "I4") is None
