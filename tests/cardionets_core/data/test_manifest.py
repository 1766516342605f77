import numpy as np
import pandas as pd
import pyarrow as arrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from cardionets_core.data.manifest import SPLITS, read_manifest, split_of
from cardionets_core.errors import DataError
from cardionets_core.vocabulary import DISEASES, PHENOTYPE_NAMES

SALT = "a-site-secret"


@pytest.fixture
def site(tmp_path):
    root = tmp_path / "data"
    (root / "ecg").mkdir(parents=True)
    for name in "abc":
        (root / "ecg" / f"{name}.hea").write_text("x")
    return root


@pytest.fixture
def read(tmp_path, site):
    def read(text, **how):
        path = tmp_path / "manifest.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_manifest(path, site, **how)

    return read


def test_a_good_manifest(read, site):
    manifest = read(
        "sex,patient_id,lv_edv,ecg,hypertrophy,age,atrial_fibrillation,lv_co\n"
        "1,p1,150.5,ecg/a.hea,1,60,,5\n"
        "0, p2 ,,,0,,1,NaN\n"
    )
    table = manifest.table
    assert len(manifest) == 2 and manifest.root == site and len(manifest.sha256) == 64
    assert manifest.phenotypes == ("lv_edv", "lv_co")
    assert manifest.diseases == ("atrial_fibrillation", "hypertrophy")
    assert table["patient_id"].tolist() == ["p1", "p2"]
    assert table["ecg"].tolist() == ["ecg/a.hea", ""] and table["cine_4ch"].tolist() == ["", ""]
    np.testing.assert_array_equal(table["lv_edv"], [150.5, np.nan])
    np.testing.assert_array_equal(table["atrial_fibrillation"], [np.nan, 1])
    np.testing.assert_array_equal(table["height_cm"], [np.nan, np.nan])
    assert all(table[name].dtype == np.float64 for name in ("age", "sex", "lv_co", "hypertrophy"))


def test_every_word_of_the_vocabulary_is_a_column(read):
    names = ["patient_id", "ecg", *PHENOTYPE_NAMES, *DISEASES]
    manifest = read(",".join(names) + "\np,,," + "," * (len(names) - 4) + "\n")
    assert manifest.phenotypes == PHENOTYPE_NAMES and manifest.diseases == tuple(DISEASES)


def test_windows_and_excel_files(read):
    assert len(read(b"\xef\xbb\xbfpatient_id,ecg\r\np1,ecg/a.hea\r\n")) == 1
    with pytest.raises(DataError, match="commas"):
        read("patient_id;ecg\np1;ecg/a.hea\n")
    with pytest.raises(DataError, match="UTF-8"):
        read("patient_id,ecg\npé,\n".encode("utf-16"))


@pytest.mark.parametrize(
    ("column", "hint"),
    [("lv_edvv", "lv_edv"), ("patientid", "patient_id"), ("af", None), ("source", None),
     ("atrial_fibrilation", "atrial_fibrillation"), ("ecg.1", "ecg")],
)  # fmt: skip
def test_unknown_columns_name_the_nearest(read, column, hint):
    with pytest.raises(DataError, match="Unknown manifest column") as error:
        read(f"patient_id,ecg,{column}\np1,,\n")
    assert repr(column) in str(error.value)
    assert hint is None or repr(hint) in str(error.value)


def test_a_column_that_stands_twice(read):
    with pytest.raises(DataError, match="Unknown manifest column"):
        read("patient_id,ecg,ecg\np1,,\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ecg\necg/a.hea\n", "no column 'patient_id'"),
        ("patient_id,age\np1,5\n", "none of ecg, cine_4ch, cine_sax"),
        ("patient_id,ecg\n", "no rows"),
        ("", "not a CSV table"),
        ("patient_id,ecg\np1,\n,\n", "row 3: patient_id is empty"),
        ("patient_id,ecg\np1,\np2,\np1,\n", "rows 2, 4: the same patient_id"),
        ("patient_id,study_id,ecg\np1,1,\np1,2,\np1,1,\n", "rows 2, 4: the same patient_id and"),
        ("patient_id,ecg,age\np1,,6o\n", "row 2, column 'age': not a number"),
        ("patient_id,ecg,age\np1,,inf\n", "row 2, column 'age': not a number"),
        ("patient_id,ecg,age\np1,,300\n", "row 2, column 'age': outside 0 to 120"),
        ("patient_id,ecg,height_cm\np1,,1.8\n", "row 2, column 'height_cm': outside"),
        ("patient_id,ecg,sex\np1,,M\n", "row 2, column 'sex': not a number"),
        ("patient_id,ecg,sex\np1,,0.5\n", "row 2, column 'sex': must be 1, 0 or empty"),
        ("patient_id,ecg,hypertrophy\np1,,2\n", "row 2, column 'hypertrophy': must be"),
        ("patient_id,ecg\np1,ecg/d.hea\n", "row 2, column 'ecg': the file is not in"),
        ("patient_id,ecg\np1,ecg/a.hea\np2,../x.hea\n", "row 3, column 'ecg': a path leads out"),
        ("patient_id,ecg\np1,/etc/passwd\n", "row 2, column 'ecg': a path leads out"),
        ("patient_id,cine_sax\np1,s3://b/x.nii\n", "row 2, column 'cine_sax': a path leads out"),
    ],
)
def test_errors_name_row_cause_and_no_patient(read, text, message):
    with pytest.raises(DataError) as error:
        read(text)
    assert message in str(error.value)
    assert "p1" not in str(error.value) and "p2" not in str(error.value)


def test_many_wrong_rows_are_counted(read):
    rows = "".join(f"p{k},,x\n" for k in range(9))
    with pytest.raises(DataError, match="rows 2, 3, 4 and 6 more"):
        read("patient_id,ecg,age\n" + rows)


def test_patients_may_have_several_studies(read):
    assert len(read("patient_id,study_id,ecg\np1,1,ecg/a.hea\np1,2,ecg/b.hea\n")) == 2


def test_absent_files_can_be_left_to_quarantine(read):
    text = "patient_id,ecg\np1,ecg/absent.hea\n"
    assert len(read(text, check_files=False)) == 1
    with pytest.raises(DataError, match="leads out"):
        read("patient_id,ecg\np1,../x\n", check_files=False)


def test_a_missing_root_or_manifest(tmp_path, site):
    with pytest.raises(DataError, match="does not exist"):
        read_manifest(tmp_path / "m.csv", tmp_path / "absent")
    with pytest.raises(DataError, match="cannot be read"):
        read_manifest(tmp_path / "m.csv", site)


GOOD = {
    "patient_id": ["p1", "p2"],
    "ecg": ["ecg/a.hea", None],
    "age": [60, 70],
    "lv_edv": [150.5, None],
    "hypertrophy": [1.0, None],
}


@pytest.fixture
def read_parquet(tmp_path, site):
    def read(columns, **how):
        path = tmp_path / "manifest.parquet"
        if isinstance(columns, bytes):
            path.write_bytes(columns)
        else:
            table = columns if isinstance(columns, arrow.Table) else arrow.table(columns)
            parquet.write_table(table, path)
        return read_manifest(path, site, **how)

    return read


def test_parquet_says_the_same_as_csv(read, read_parquet):
    from_csv = read("patient_id,ecg,age,lv_edv,hypertrophy\np1,ecg/a.hea,60,150.5,1\np2,,70,,\n")
    from_parquet = read_parquet(GOOD)
    pd.testing.assert_frame_equal(from_parquet.table, from_csv.table)
    assert from_parquet.phenotypes == ("lv_edv",) and from_parquet.diseases == ("hypertrophy",)
    assert len(from_parquet.sha256) == 64 != from_csv.sha256


def test_parquet_of_pandas_with_numbers_as_ids_and_text_as_numbers(tmp_path, site):
    frame = pd.DataFrame({"patient_id": [7, 8], "ecg": ["ecg/a.hea", ""], "age": ["60", ""]})
    frame.to_parquet(tmp_path / "m.parquet")
    table = read_manifest(tmp_path / "m.parquet", site).table
    assert table["patient_id"].tolist() == ["7", "8"] and table["age"][0] == 60.0
    assert np.isnan(table["age"][1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"age": [300, 70]}, "row 2, column 'age': outside 0 to 120"),
        ({"age": [float("inf"), 1]}, "row 2, column 'age': not a number"),
        ({"hypertrophy": [1, 2]}, "row 3, column 'hypertrophy': must be"),
        ({"patient_id": ["p", None]}, "row 3: patient_id is empty"),
        ({"ecg": ["ecg/a.hea", "../x"]}, "row 3, column 'ecg': a path leads out"),
        ({"lv_edvv": [1, 2]}, "did you mean 'lv_edv'"),
        ({"age": [[1], [2]]}, "not a Parquet table of text and numbers"),
    ],
)
def test_parquet_is_checked_like_csv(read_parquet, change, message):
    with pytest.raises(DataError, match=message):
        read_parquet(GOOD | change)


def test_parquet_that_is_none_or_has_a_column_twice(read_parquet):
    with pytest.raises(DataError, match="not a Parquet table"):
        read_parquet(b"patient_id,ecg\np1,\n")
    with pytest.raises(DataError, match="not a Parquet table"):
        read_parquet(b"PAR1" + b"\xff" * 400 + b"PAR1")
    double = arrow.Table.from_arrays([arrow.array(["p"])] * 2, names=["patient_id", "patient_id"])
    with pytest.raises(DataError, match="same name"):
        read_parquet(double)
    with pytest.raises(DataError, match="no rows"):
        read_parquet({name: arrow.array([], arrow.string()) for name in GOOD})


@given(st.text(max_size=30), st.text(max_size=20))
def test_a_split_is_a_function_of_id_and_salt(patient, salt):
    first = split_of(patient, salt=salt)
    assert first in SPLITS and first == split_of(patient, salt=salt)
    assert split_of(patient, salt=salt, fractions=(1.0, 0.0, 0.0)) == "train"
    assert split_of(patient, salt=salt, fractions=(0.0, 1.0, 0.0)) == "validation"
    assert split_of(patient, salt=salt, fractions=(0.0, 0.0, 1.0)) == "test"


@given(st.text(max_size=30), st.floats(0, 0.9), st.floats(0, 0.1))
def test_a_larger_train_share_only_adds_to_train(patient, share, more):
    def split(train):
        return split_of(patient, salt=SALT, fractions=(train, 0.0, 1.0 - train))

    assert split(share) == "test" or split(share + more) == "train"


def test_shares_are_as_asked_and_salts_differ():
    ids = [f"patient-{k}" for k in range(20_000)]
    splits = np.array([split_of(i, salt=SALT) for i in ids])
    shares = [(splits == name).mean() for name in SPLITS]
    np.testing.assert_allclose(shares, (0.7, 0.1, 0.2), atol=0.012)  # 4 sd
    other = np.array([split_of(i, salt="another") for i in ids])
    agree = 0.7**2 + 0.1**2 + 0.2**2
    assert (splits == other).mean() == pytest.approx(agree, abs=0.015)


def test_a_pinned_split():
    """A change here would move patients between train and test of running federations."""
    names = [split_of(f"p{k}", salt=SALT) for k in range(8)]
    assert " ".join(names) == "test train train validation train train train validation"


@pytest.mark.parametrize("fractions", [(0.7, 0.2, 0.2), (1.2, -0.1, -0.1)])
def test_wrong_fractions(fractions):
    with pytest.raises(ValueError, match="sum to 1"):
        split_of("p", salt=SALT, fractions=fractions)
