"""Schemas of arrays, and CSV files as spreadsheets and scripts write them."""

import csv

import numpy as np
import pytest

from cardionets_core.sources.arrays import CSV, READERS

LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
SCHEMA = {"sampling_rate_hz": 500, "unit": "mV", "leads": LEADS}


@pytest.fixture
def write_csv(tmp_path):
    def write(columns, *, header=True, delimiter=",", name="ecg.csv"):
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter)
            if header:
                writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
        return tmp_path / name

    return write


def columns_of(values, **more):
    return more | dict(zip(LEADS, np.round(values, 4).tolist(), strict=True))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("header", [True, False])
def test_csv(write_csv, describe, tmp_path, heart, delimiter, header):
    describe(SCHEMA)
    file = write_csv(columns_of(heart()), header=header, delimiter=delimiter)
    assert CSV.recognises(file.name, file.read_bytes()[:4096])
    assert list(CSV.parts(file)) == [""]
    ecg = CSV.read(file, "", root=tmp_path)
    assert ecg.record.sampling_rate_hz == 500 and ecg.record.lead_mask.all()
    np.testing.assert_allclose(ecg.record.signal, heart(), atol=1e-4)
    assert ecg.facts.person.patient_id == ""


def test_csv_columns_are_found_by_name(write_csv, describe, tmp_path, heart):
    """Eight leads in another order beside a time, in microvolts, with gaps."""
    eight = ["V6", "V5", "V4", "V3", "V2", "V1", "II", "I"]
    describe(SCHEMA | {"leads": eight, "unit": "uV"})
    values = np.round(heart() * 1000).astype(int).astype(object)
    values[0, 100:110] = ""
    values[1, 100:110] = "NaN"
    columns = {"time": np.arange(5000) / 500} | dict(zip(LEADS, values, strict=True))
    file = write_csv({name: columns[name] for name in ["time", *eight[::2], *eight[1::2]]})
    assert CSV.recognises(file.name, file.read_bytes()[:4096])
    record = CSV.read(file, "", root=tmp_path).record
    assert record.lead_mask.all()
    kept = np.r_[0:100, 110:5000]
    np.testing.assert_allclose(record.signal[:, kept], heart()[:, kept], atol=2e-3)


def test_csv_tables_of_other_things_are_not_recognised():
    for text in (
        b"ecg_id,patient_id,age\n1,15709.0,56.0\n",
        b"ecg_id,report\n1,sinus rhythm\n",
        b"I,II\nlead one,lead two\n",
        b"I,II\n",
        b"",
    ):
        assert not CSV.recognises("x.csv", text)
    assert CSV.recognises("x.csv", b"\xef\xbb\xbf0.1;0.2\n-.3;4e-2\n")
    assert not CSV.recognises("x.txt", b"0.1,0.2\n0.3,0.4\n")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("I,II\n1,2\n", "schema_leads"),
        (",".join(LEADS) + "\n1,2,3\n", "unreadable"),
        (",".join(LEADS) + "\n" + ",".join(["CANARY"] * 12), "unreadable"),
        (",".join([*LEADS[:-1], "I"]) + "\n", "schema_leads"),
        ("1,2,3\n4,5,6\n", "schema_leads"),
        (",".join(LEADS) + "\n", "no_usable_lead"),
        (",".join(LEADS) + "\n" + ",".join(["1e308"] * 12) + "\n", "no_usable_lead"),
        ("", "schema_leads"),
    ],
)
def test_csv_that_is_refused(describe, tmp_path, code_of, text, code):
    describe(SCHEMA)
    (tmp_path / "ecg.csv").write_text(text)
    assert code_of(CSV.read, tmp_path / "ecg.csv", "", root=tmp_path) == code


def test_csv_sizes_are_judged_first(write_csv, describe, tmp_path, code_of, heart, monkeypatch):
    describe(SCHEMA)
    file = write_csv(columns_of(heart()))
    monkeypatch.setattr("cardionets_core.sources.array_tables.LARGEST_RECORDING", 59_999)
    assert code_of(CSV.read, file, "", root=tmp_path) == "too_large"
    monkeypatch.setattr("cardionets_core.sources.array_tables.LARGEST_CSV", 1000)
    assert code_of(CSV.read, file, "", root=tmp_path) == "too_large"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"sampling_rate_hz": 0}, "sampling_rate"),
        ({"sampling_rate_hz": "500"}, "schema_sampling_rate_hz"),
        ({"sampling_rate_hz": True}, "schema_sampling_rate_hz"),
        ({"sampling_rate_hz": 10**400}, "schema_sampling_rate_hz"),
        ({"sampling_rate_hz": float("nan")}, "schema_sampling_rate_hz"),
        ({"unit": "mmHg"}, "schema_unit"),
        ({"unit": ["mV"]}, "schema_unit"),
        ({"leads": "I II"}, "schema_leads"),
        ({"leads": []}, "schema_leads"),
        ({"leads": ["I", "I"]}, "schema_leads"),
        ({"leads": ["I", 2]}, "schema_leads"),
        ({"leads": ["x"] * 1000}, "schema_leads"),
        ({"leads": ["MLII"]}, "no_standard_lead"),
        ({"layout": "leads"}, "schema_layout"),
        ({"signal": ""}, "schema_signal"),
        ({"signal": ["x"]}, "schema_signal"),
        ({"scale": None}, "schema_scale"),
        ({"sampling_rate": 500}, "schema"),
        ({"unit": None}, "schema_unit"),
    ],
)
def test_schemas_that_are_refused(write_csv, describe, tmp_path, heart, code_of, change, code):
    describe(SCHEMA | change)
    file = write_csv(columns_of(heart(seconds=2)))
    assert code_of(CSV.read, file, "", root=tmp_path) == code


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000, '{"a": ' * 5000, "\xff"])
def test_schemas_that_are_none(write_csv, tmp_path, heart, code_of, text):
    file = write_csv(columns_of(heart(seconds=2)))
    assert code_of(CSV.read, file, "", root=tmp_path) == "no_schema"
    assert code_of(CSV.parts, file) == "no_schema"
    (tmp_path / "schema.json").write_text(text, encoding="latin-1")
    assert code_of(CSV.read, file, "", root=tmp_path) == "schema"


def test_the_schema_of_a_file_comes_before_that_of_its_folder(write_csv, describe, tmp_path, heart):
    describe(SCHEMA)
    describe(SCHEMA | {"sampling_rate_hz": 250}, name="ecg.csv.schema.json")
    file = write_csv(columns_of(heart()))
    assert CSV.read(file, "", root=tmp_path).record.sampling_rate_hz == 250


def test_nothing_outside_the_root_is_read(write_csv, describe, tmp_path, heart, code_of):
    folder = tmp_path / "data"
    folder.mkdir()
    describe(SCHEMA)
    file = write_csv(columns_of(heart()))
    assert code_of(CSV.read, file, "", root=folder) == "path_escape"
    (folder / "ecg.csv").write_bytes(file.read_bytes())
    (folder / "schema.json").symlink_to(tmp_path / "schema.json")
    assert code_of(CSV.read, folder / "ecg.csv", "", root=folder) == "path_escape"
    assert code_of(CSV.parts, folder / "ecg.csv") == "path_escape"


def test_names_and_marks():
    assert [reader.KIND for reader in READERS] == ["array_csv", "array_parquet", "array_hdf5"]
    for reader in READERS:
        assert not reader.recognises("x.h5", b"") and not reader.recognises("x.dat", bytes(4096))
