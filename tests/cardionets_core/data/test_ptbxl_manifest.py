import ast
import csv

import pandas as pd
import pytest

from cardionets_core.data.manifest import read_manifest
from cardionets_core.data.ptbxl import DISEASE_COLUMNS, write_ptbxl_manifest
from cardionets_core.errors import DataError

STATEMENTS = """,description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass
NORM,normal,1.0,,,NORM,NORM
IMI,inferior,1.0,,,MI,IMI
CLBBB,left,1.0,,,CD,CLBBB
LVH,hypertrophy,1.0,,,HYP,LVH
NDT,t,1.0,1.0,,STTC,STTC
AFIB,fibrillation,,,1.0,,
LVOLT,voltage,,1.0,,,
"""
RECORDS = [
    # ecg_id, patient, age, sex, height, weight, site, codes
    (1, "15709.0", "56.0", 0, "", "63.0", "0.0", "{'NORM': 100.0, 'SR': 0.0}"),
    (2, "15709.0", "300.0", 1, "6.0", "70.0", "1.0", "{'IMI': 35.0, 'CLBBB': 100.0, 'NDT': 0.0}"),
    (3, "7.0", "", 1, "180.0", "", "1.0", "{'AFIB': 0.0, 'LVOLT': 0.0}"),
    (4, "8.0", "40.0", 0, "170.0", "70.0", "0.0", "{'LVH': 50.0}"),
]


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "ptbxl"
    (root / "records100").mkdir(parents=True)
    (root / "scp_statements.csv").write_text(STATEMENTS)
    with (root / "ptbxl_database.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ("ecg_id", "patient_id", "age", "sex", "height", "weight", "site", "scp_codes",
             "filename_lr", "filename_hr")
        )  # fmt: skip
        for row in RECORDS:
            writer.writerow((*row, f"records100/{row[0]}_lr", f"records500/{row[0]}_hr"))
            if row[0] != 4:
                (root / "records100" / f"{row[0]}_lr.hea").write_text("x")
    return root


def test_rows_and_labels(folder, tmp_path):
    assert write_ptbxl_manifest(folder, tmp_path / "m.csv") == 3
    table = read_manifest(tmp_path / "m.csv", folder).table.set_index("study_id")
    assert table["patient_id"].tolist() == ["15709", "15709", "7"]
    assert table["ecg"].tolist() == [f"records100/{k}_lr.hea" for k in (1, 2, 3)]
    assert table["sex"].tolist() == [1, 0, 0]  # PTB-XL writes 0 for men, the manifest 1
    assert table.loc["1", "age"] == 56 and table["age"].isna().tolist() == [False, True, True]
    assert table["height_cm"].isna().tolist() == [True, True, False]
    labels = table[list(DISEASE_COLUMNS)]
    present = {k: set(row.index[row == 1]) for k, row in labels.iterrows()}
    assert present == {
        "1": {"normal_ecg"},
        "2": {"myocardial_infarction", "conduction_disturbance", "left_bundle_branch_block"},
        "3": {"atrial_fibrillation"},
    }
    # likelihood 0 is "unknown": NDT does not make ST/T change; no statement at all: unknown
    assert labels.loc["2", "st_t_change"] == 0
    assert labels.loc["3"].drop("atrial_fibrillation").isna().all()
    assert labels.loc[["1", "2"]].notna().all().all()


def test_one_recording_site(folder, tmp_path):
    assert write_ptbxl_manifest(folder, tmp_path / "m.csv", site=1) == 2


def test_errors(folder, tmp_path):
    with pytest.raises(DataError, match="No PTB-XL record"):
        write_ptbxl_manifest(folder, tmp_path / "m.csv", rate_hz=500)
    (folder / "scp_statements.csv").unlink()
    with pytest.raises(DataError, match="is missing"):
        write_ptbxl_manifest(folder, tmp_path / "m.csv")


def test_the_real_tables(shared_data, tmp_path):
    root = shared_data / "ptbxl"
    assert write_ptbxl_manifest(root, tmp_path / "m.csv") == 353
    assert write_ptbxl_manifest(root, tmp_path / "hr.csv", rate_hz=500) == 30
    sizes = [write_ptbxl_manifest(root, tmp_path / "s.csv", site=k) for k in range(4)]
    assert sizes == [169, 130, 11, 43]
    manifest = read_manifest(tmp_path / "m.csv", root)
    assert manifest.table["patient_id"].nunique() < 353
    # an independent count of the superclasses
    database = pd.read_csv(root / "ptbxl_database.csv", index_col="ecg_id")
    statements = pd.read_csv(root / "scp_statements.csv", index_col=0)
    codes = database["scp_codes"].map(ast.literal_eval)
    for name, superclass in (
        ("normal_ecg", "NORM"),
        ("hypertrophy", "HYP"),
        ("st_t_change", "STTC"),
    ):
        of_class = set(statements.index[statements["diagnostic_class"] == superclass])
        truth = sum(any(v > 0 for k, v in c.items() if k in of_class) for c in codes)
        assert (manifest.table[name] == 1).sum() == truth
    assert (manifest.table["sex"] == 1).sum() == (database["sex"] == 0).sum()
    norm_at_site_0 = codes[database["site"] == 0].map(lambda c: c.get("NORM", 0) > 0).mean()
    assert norm_at_site_0 == pytest.approx(0.85, abs=0.02)  # as the folder's README states
