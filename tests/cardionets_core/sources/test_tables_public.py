"""PTB-XL's and MIMIC-IV-ECG's own tables."""

import ast
import os
from datetime import datetime

import numpy as np
import pandas as pd
import pytest

from cardionets_core.data.refusal import RecordRefused
from cardionets_core.errors import DataError
from cardionets_core.labels.code import Code
from cardionets_core.labels.vocabularies import diseases_of
from cardionets_core.sources.tables import find_table

SUPERCLASSES = {
    "NORM": "normal_ecg",
    "MI": "myocardial_infarction",
    "STTC": "st_t_change",
    "CD": "conduction_disturbance",
    "HYP": "hypertrophy",
}
BLOCKS = {"CLBBB": "left_bundle_branch_block", "CRBBB": "right_bundle_branch_block"}

PTBXL = """ecg_id,patient_id,age,sex,height,weight,recording_date,report,scp_codes,filename_lr,filename_hr
1,15709.0,56.0,1,,63.0,1984-11-09 09:17:34,geheim,"{'NORM': 100.0, 'SR': 0.0}",r1/1_lr,r5/1_hr
2,15709.0,300.0,0,6.0,70.0,1984-11-09,geheim,"{'IMI': 35.0, 'CLBBB': 100.0, 'NDT': 0.0}",r1/2_lr,r5/2_hr
3,7.0,,1,180.0,,20120000,geheim,"{'AFIB': 0.0, 'LVOLT': 0.0}",r1/3_lr,r5/3_hr
4,8.0,40.0,0,170.0,70.0,,geheim,__import__('os').getcwd(),r1/4_lr,r5/4_hr
5,9.0,40.0,0,170.0,70.0,,geheim,"{'NORM': 100.0, 'Meier': 1}",r1/5_lr,r5/5_hr
"""  # noqa: E501


def by_the_rules(cell, classes):
    """Disease -> value by the rules of labels/vocabularies.py, written anew."""
    likelihoods = ast.literal_eval(cell)
    stated = [code for code, value in likelihoods.items() if code in classes and value > 0]
    labels = {"atrial_fibrillation": float("AFIB" in likelihoods)}
    if stated:
        for name, disease in SUPERCLASSES.items():
            labels[disease] = float(name in {classes[code] for code in stated})
        for code, disease in {**BLOCKS, "LVH": "left_ventricular_hypertrophy"}.items():
            labels[disease] = float(code in stated)
    return labels


def test_the_real_table_against_the_rules(shared_data):
    folder = shared_data / "ptbxl"
    database = pd.read_csv(folder / "ptbxl_database.csv", keep_default_na=False)
    statements = pd.read_csv(folder / "scp_statements.csv", index_col=0)
    classes = statements.loc[statements["diagnostic"] == 1, "diagnostic_class"].to_dict()
    table = find_table(folder)
    assert len(table) == len(database) == 353
    for row in database.itertuples():
        paths = [path for path in (row.filename_lr, row.filename_hr) if path]
        for path in (*paths, f"{paths[-1]}.hea"):
            facts = table.facts(path, "")
            assert diseases_of(facts.codes) == by_the_rules(row.scp_codes, classes)
            assert facts.person.patient_id == str(int(float(row.patient_id)))
            assert facts.person.sex == 1 - row.sex
            assert facts.recorded == datetime.fromisoformat(row.recording_date)
    ages = [table.facts(path, "").person.age for path in database["filename_lr"]]
    assert np.isnan(ages).tolist() == database["age"].isin(["300.0", ""]).tolist()
    # the superclasses stay what they were counted to be by hand
    normal = [
        diseases_of(table.facts(path, "").codes).get("normal_ecg", np.nan)
        for path in database["filename_lr"]
    ]
    truth = database["scp_codes"].map(lambda c: ast.literal_eval(c).get("NORM", 0) > 0)
    assert np.nansum(normal) == truth.sum()


def test_the_same_recording_in_two_data_sets(shared_data):
    """CinC's HR00004 and HR00005 are PTB-XL's 4 and 5; CinC has no code for a normal ECG."""
    table = find_table(shared_data / "ptbxl")
    for number in (4, 5):
        facts = table.facts(f"records100/00000/{number:05d}_lr", "")
        header = shared_data / "cinc2021" / "ptb-xl" / f"HR{number:05d}.hea"
        dx = next(x for x in header.read_text().splitlines() if x.startswith("#Dx: "))
        codes = [Code("snomed", code) for code in dx.removeprefix("#Dx: ").split(",")]
        assert diseases_of(codes) == diseases_of(facts.codes)


@pytest.fixture
def ptbxl(tmp_path):
    (tmp_path / "ptbxl_database.csv").write_text(PTBXL)
    return tmp_path


def test_ptbxl(ptbxl):
    table = find_table(ptbxl)
    one, two, three = (table.facts(f"r1/{k}_lr", "") for k in (1, 2, 3))
    assert one.person.patient_id == two.person.patient_id == "15709"
    assert one.person.sex == 0 and two.person.sex == 1  # PTB-XL writes 0 for men
    assert one.person.age == 56 and np.isnan(two.person.age) and np.isnan(three.person.age)
    assert np.isnan(two.person.height_cm) and three.person.height_cm == 180
    assert one.recorded == datetime(1984, 11, 9, 9, 17, 34) and three.recorded is None
    assert two.codes == (Code("scp", "IMI"), Code("scp", "CLBBB"), Code("scp", "NDT", False))
    assert diseases_of(two.codes)["st_t_change"] == 0
    assert diseases_of(three.codes) == {"atrial_fibrillation": 1.0}
    # what is no dict of statements runs no code and is unknown
    for k in (4, 5):
        assert table.facts(f"r5/{k}_hr", "").codes == ()
    assert table.problems == {
        ("age", "outside 0 to 120"): 1,
        ("height_cm", "outside 100 to 230"): 1,
        ("recorded", "not a date like 2024-01-31"): 1,
        ("scp", "not a dict of statements"): 2,
    }
    assert table.dropped == {"column 1": 5, "column 8": 5}
    assert table.facts("", "15709").person.patient_id == ""  # its rows are of recordings


@pytest.mark.parametrize("cell", ["[" * 3000, "{'NORM': 100}", "{[]: 1}", "{'NORM': 'x'}",
                                  "{'NORM': 1" + " " * 5000 + "}", "None", "{1: 2}"])  # fmt: skip
def test_hostile_dicts(ptbxl, cell):
    text = PTBXL.splitlines()[0] + f'\n1,1,1,1,1,1,,,"{cell}",a,b\n'
    (ptbxl / "ptbxl_database.csv").write_text(text)
    table = find_table(ptbxl)
    expected = {"NORM"} if "100" in cell else set()
    assert {code.code for code in table.facts("a", "").codes} == expected


@pytest.fixture
def mimic(tmp_path):
    (tmp_path / "record_list.csv").write_text(
        "subject_id,study_id,file_name,ecg_time,path\n"
        "10000032,40689238,40689238,2180-07-23 08:44:00,files/p1000/p10000032/s40689238/40689238\n"
        "10000980,46642833,46642833,2137-05-21 15:50:00,files/p1000/p10000980/s46642833/46642833\n"
        "10000999,46642834,46642834,2137-05-21 15:50:00,files/p1000/p10000999/s46642834/46642834\n"
    )
    return tmp_path


def test_mimic_records_alone(mimic):
    facts = find_table(mimic).facts("files/p1000/p10000032/s40689238/40689238.hea", "")
    assert facts.person.patient_id == "10000032"
    assert facts.recorded == datetime(2180, 7, 23, 8, 44)
    assert facts.codes == () and np.isnan(facts.person.sex)


def test_mimic_with_diagnoses(mimic):
    before = find_table(mimic).sha256
    name = "mimic-iv-ecg-diagnostic-electrocardiogram-matched-subset-1.0"
    (mimic / "records_w_diag_icd10.csv").write_text(
        "file_name,study_id,subject_id,ecg_time,all_diag_all,gender,age,dod\n"
        f"{name}/files/p1000/p10000032/s40689238/40689238,40689238,10000032,2180-07-23 08:44:00,"
        "\"['I5023', 'I2510', 'E785']\",F,52.0,2180-09-09\n"
        f"{name}/files/p1000/p10000980/s46642833/46642833,46642833,10000980,2137-05-21 15:50:00,"
        "[],missing,,\n"
        f"{name}/files/p1000/p10000999/s46642834/46642834,46642834,10000999,2137-05-21 15:50:00,"
        "['I480'],M,93.0,\n"
    )
    table = find_table(mimic)
    assert len(table) == 6 and table.sha256 != before
    facts = table.facts("files/p1000/p10000032/s40689238/40689238", "")
    assert (facts.person.sex, facts.person.age) == (0, 52)
    assert facts.recorded == datetime(2180, 7, 23, 8, 44)
    diseases = diseases_of(facts.codes)
    assert diseases["heart_failure"] == diseases["coronary_artery_disease"] == 1
    assert diseases["atrial_fibrillation"] == 0
    empty = table.facts("files/p1000/p10000980/s46642833/46642833", "")
    assert diseases_of(empty.codes) == {} and np.isnan(empty.person.sex)
    old = table.facts("files/p1000/p10000999/s46642834/46642834", "")
    assert np.isnan(old.person.age) and old.person.sex == 1  # above 89, ages are made up
    assert table.problems == {("age", "outside 0 to 89"): 1}
    assert not [place for place in table.dropped if "dod" in place]


def test_no_table_and_other_tables(tmp_path):
    assert find_table(tmp_path) is None
    (tmp_path / "record_list.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no column 'subject_id', so it is not MIMIC"):
        find_table(tmp_path)
    (tmp_path / "ptbxl_database.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="so it is not PTB-XL's"):
        find_table(tmp_path)


def test_a_table_outside_the_folder(tmp_path):
    (tmp_path / "outside.csv").write_text(PTBXL)
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "ptbxl_database.csv").symlink_to(tmp_path / "outside.csv")
    with pytest.raises(RecordRefused, match="path_escape"):
        find_table(inside)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["ptbxl_database.csv", "record_list.csv"])
def test_a_pipe_is_no_table(tmp_path, name):
    os.mkfifo(tmp_path / name)
    assert find_table(tmp_path) is None


@pytest.mark.timeout(120)
def test_a_pipe_beside_a_table_is_not_read(mimic):
    os.mkfifo(mimic / "records_w_diag_icd10.csv")
    assert len(find_table(mimic)) == 3
