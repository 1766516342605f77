"""Parquet files written with pyarrow in the ways that hospitals lay out ECGs."""

import json
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cardionets_core.sources.arrays import PARQUET

LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
SCHEMA = {"sampling_rate_hz": 500, "unit": "mV", "leads": LEADS}


@pytest.fixture
def write_parquet(tmp_path):
    def write(columns, **options):
        pq.write_table(pa.table(columns), tmp_path / "ecgs.parquet", **options)
        return tmp_path / "ecgs.parquet"

    return write


def columns_of(values, **more):
    return more | dict(zip(LEADS, np.round(values, 4).tolist(), strict=True))


def rows_of(*recordings):
    """A column of lists for each lead."""
    return {lead: [r[k].tolist() for r in recordings] for k, lead in enumerate(LEADS)}


def test_parquet_with_a_numeric_column_for_each_lead(write_parquet, describe, tmp_path, heart):
    describe(SCHEMA)
    file = write_parquet(columns_of(heart(), time=np.arange(5000)))
    assert PARQUET.recognises(file.name, file.read_bytes()[:4096])
    assert list(PARQUET.parts(file)) == [""]
    record = PARQUET.read(file, "", root=tmp_path).record
    np.testing.assert_allclose(record.signal, heart(), atol=1e-4)


def test_parquet_with_a_recording_in_each_row(write_parquet, describe, tmp_path, heart):
    describe(SCHEMA | {"patient_id": "pid", "age": "years", "sex": "sex", "recorded": "day"})
    recordings = [heart(seed=k) for k in range(5)]
    days = [datetime(2020, 1, k + 1, 12, 30) for k in range(5)]
    facts = {"pid": [7, 7, 8, 9, None], "years": [50.5, 60, 300, None, 1], "day": days}
    facts["sex"] = ["M", "female", "1", "0", "?"]
    file = write_parquet(rows_of(*recordings) | facts, row_group_size=2)
    assert list(PARQUET.parts(file)) == ["0", "1", "2", "3", "4"]
    for k in (4, 0, 1, 2, 3):  # any order
        ecg = PARQUET.read(file, str(k), root=tmp_path)
        np.testing.assert_allclose(ecg.record.signal, recordings[k], atol=1e-6)
        person = ecg.facts.person
        assert person.patient_id == ["7", "7", "8", "9", ""][k]
        assert ecg.facts.recorded == days[k]
        np.testing.assert_equal(person.age, [50.5, 60, np.nan, np.nan, 1][k])
        np.testing.assert_equal(person.sex, [1, 0, 1, 0, np.nan][k])


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("layout", ["leads, samples", "samples, leads"])
def test_parquet_with_one_column_of_all_leads(
    write_parquet, describe, tmp_path, heart, layout, flat
):
    describe(SCHEMA | {"signal": "ecg", "layout": layout})
    values = heart() if layout.startswith("leads") else heart().T
    file = write_parquet({"ecg": [(values.ravel() if flat else values).tolist()] * 2})
    record = PARQUET.read(file, "1", root=tmp_path).record
    np.testing.assert_allclose(record.signal, heart(), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"I": [[0.1, 0.2], [0.1]]}, "schema_leads"),
        ({"I": [None, [0.1]]}, "unreadable"),
        ({"I": [["x"], ["y"]]}, "unreadable"),
        ({"I": ["x", "y"]}, "schema_leads"),
        ({"I": [0.1, 0.2]}, "schema_leads"),
        ({"I": None}, "schema_leads"),
    ],
)
def test_parquet_that_is_refused(write_parquet, describe, tmp_path, heart, code_of, change, code):
    describe(SCHEMA)
    columns = rows_of(heart(seconds=2), heart(seconds=2)) | change
    file = write_parquet({name: cells for name, cells in columns.items() if cells})
    assert code_of(PARQUET.read, file, "0", root=tmp_path) == code


def test_parquet_sizes_are_judged_first(
    write_parquet, describe, tmp_path, heart, code_of, monkeypatch
):
    describe(SCHEMA)
    file = write_parquet(rows_of(heart(), heart()))
    assert code_of(PARQUET.read, file, "0", root=tmp_path) is None
    monkeypatch.setattr("cardionets_core.sources.array_tables.LARGEST_BLOCK", 100_000)
    assert code_of(PARQUET.read, file, "1", root=tmp_path) == "too_large"
    monkeypatch.setattr("cardionets_core.sources.array_tables.MOST_RECORDINGS", 1)
    assert code_of(PARQUET.parts, file) == "too_large"


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_damaged_parquet(tmp_path_factory, code_of, data, heart):
    folder = tmp_path_factory.getbasetemp() / "damaged_parquet"
    folder.mkdir(exist_ok=True)
    (folder / "schema.json").write_text(json.dumps(SCHEMA))
    file = folder / "ecgs.parquet"
    pq.write_table(pa.table(rows_of(heart(seconds=2))), file)
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 10))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(
        content[data.draw(st.integers(0, 9)) :] if data.draw(st.booleans()) else content
    )
    code_of(PARQUET.read, file, "0", root=folder)
