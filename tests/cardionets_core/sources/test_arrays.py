"""Arrays written with csv, pyarrow and h5py as hospitals and published sets write them."""

import csv
import json
import subprocess
import sys
from datetime import datetime

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cardionets_core.sources.arrays import CSV, HDF5, PARQUET, READERS

LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
SCHEMA = {"sampling_rate_hz": 500, "unit": "mV", "leads": LEADS}
IN_HDF5 = SCHEMA | {"signal": "tracings", "layout": "samples, leads"}


@pytest.fixture
def describe(tmp_path):
    def write(schema, name="schema.json"):
        (tmp_path / name).write_text(json.dumps(schema))

    return write


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


@pytest.fixture
def write_hdf5(tmp_path):
    def write(name="ecgs.h5", **data_sets):
        with h5py.File(tmp_path / name, "w") as file:
            for key, value in data_sets.items():
                file[key.replace("__", "/")] = value
        return tmp_path / name

    return write


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


# --- CSV


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
        ("I,II\n1,2\n", "schema"),
        (",".join(LEADS) + "\n1,2,3\n", "unreadable"),
        (",".join(LEADS) + "\n" + ",".join(["CANARY"] * 12), "unreadable"),
        (",".join([*LEADS[:-1], "I"]) + "\n", "schema"),
        ("1,2,3\n4,5,6\n", "schema"),
        (",".join(LEADS) + "\n", "no_usable_lead"),
        (",".join(LEADS) + "\n" + ",".join(["1e308"] * 12) + "\n", "no_usable_lead"),
        ("", "schema"),
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


# --- Parquet


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
        ({"I": [[0.1, 0.2], [0.1]]}, "schema"),
        ({"I": [None, [0.1]]}, "unreadable"),
        ({"I": [["x"], ["y"]]}, "unreadable"),
        ({"I": ["x", "y"]}, "schema"),
        ({"I": [0.1, 0.2]}, "schema"),
        ({"I": None}, "schema"),
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


# --- HDF5


def test_hdf5_as_code_15_has_it(write_hdf5, describe, tmp_path, heart):
    """[N, 4096, 12] of 400 Hz, padded with zeros at both ends, ids in a data set of their own."""
    names = ["DI", "DII", "DIII", *LEADS[3:]]
    describe(
        IN_HDF5
        | {"sampling_rate_hz": 400, "leads": names, "padding": 0, "patient_id": "exam_id"}
        | {"sex": "is_male", "age": "exams/age"},
        name="exams_part0.hdf5.schema.json",
    )
    recording = heart(seconds=10, rate=400).T.astype("f4")
    tracings = np.zeros((3, 4096, 12), dtype="f4")
    tracings[1, 48:4048] = recording
    file = write_hdf5(
        "exams_part0.hdf5",
        tracings=tracings,
        exam_id=[11, 22, 33],
        is_male=np.array([True, False, True]),
        exams__age=np.array([30, 81, 3]),
    )
    assert HDF5.recognises(file.name, file.read_bytes()[:4096])
    assert list(HDF5.parts(file)) == ["0", "1", "2"]
    ecg = HDF5.read(file, "1", root=tmp_path)
    np.testing.assert_allclose(ecg.record.signal, recording.T, atol=1e-6)
    person = ecg.facts.person
    assert (person.patient_id, person.sex, person.age) == ("22", 0, 81)


def test_hdf5_of_one_recording_with_text_beside_it(write_hdf5, describe, tmp_path, heart):
    describe(
        IN_HDF5
        | {"layout": "leads, samples", "signal": "a/ecg", "unit": "uV", "scale": 5}
        | {"patient_id": "id", "recorded": "when", "sex": "sex"}
    )
    stored = np.round(heart() * 200).astype("i2")
    file = write_hdf5(a__ecg=stored, id="H 0815", when=b"20200229T101112", sex=["Male"])
    assert list(HDF5.parts(file)) == [""]
    ecg = HDF5.read(file, "", root=tmp_path)
    np.testing.assert_allclose(ecg.record.signal, heart(), atol=3e-3)
    assert ecg.facts.person.patient_id == "H 0815" and ecg.facts.person.sex == 1
    assert ecg.facts.recorded == datetime(2020, 2, 29, 10, 11, 12)


def test_hdf5_reads_one_row_and_not_the_rest(describe, tmp_path, heart, code_of):
    """A damaged neighbour does not matter, and neither does the size of the whole."""
    describe(IN_HDF5)
    file = tmp_path / "ecgs.h5"
    with h5py.File(file, "w") as opened:
        options = {"chunks": (1, 5000, 12), "compression": "gzip", "shuffle": True}
        data = opened.create_dataset("tracings", (3, 5000, 12), dtype="f4", **options)
        for k in range(3):
            data[k] = heart(seed=k).T
        damaged = data.id.get_chunk_info(0)
    with file.open("r+b") as stream:
        stream.seek(damaged.byte_offset)
        stream.write(b"\xff" * damaged.size)
    assert code_of(HDF5.read, file, "0", root=tmp_path) == "unreadable"
    record = HDF5.read(file, "2", root=tmp_path).record
    np.testing.assert_allclose(record.signal, heart(seed=2), atol=1e-6)


def test_hdf5_behind_a_user_block(describe, tmp_path, heart):
    describe(IN_HDF5)
    file = tmp_path / "matlab.mat"
    with h5py.File(file, "w", userblock_size=512) as opened:
        opened["tracings"] = heart().T
    assert HDF5.recognises(file.name, file.read_bytes()[:4096])
    assert HDF5.read(file, "", root=tmp_path).record.lead_mask.all()


@pytest.fixture
def outside(tmp_path_factory, heart):
    """A file that no hospital gave: [1, samples, leads] in HDF5 and as raw bytes."""
    folder = tmp_path_factory.mktemp("outside")
    with h5py.File(folder / "other.h5", "w") as opened:
        opened["tracings"] = heart().T[None]
    (folder / "raw.bin").write_bytes(heart().T.astype("f8").tobytes())
    return folder


@pytest.mark.parametrize("kind", ["link", "group", "soft", "raw", "virtual"])
def test_hdf5_opens_no_other_file(describe, tmp_path, outside, code_of, kind):
    name = "far/tracings" if kind == "group" else "tracings"
    describe(IN_HDF5 | {"signal": name})
    file = tmp_path / "ecgs.h5"
    with h5py.File(file, "w") as opened:
        if kind == "link":
            opened["tracings"] = h5py.ExternalLink(outside / "other.h5", "/tracings")
        elif kind == "group":
            opened["far"] = h5py.ExternalLink(outside / "other.h5", "/")
        elif kind == "soft":
            opened["far"] = h5py.ExternalLink(outside / "other.h5", "/")
            opened["tracings"] = h5py.SoftLink("/far/tracings")
        elif kind == "raw":
            raw = [(str(outside / "raw.bin"), 0, 5000 * 12 * 8)]
            opened.create_dataset("tracings", (1, 5000, 12), dtype="f8", external=raw)
        else:
            layout = h5py.VirtualLayout((1, 5000, 12), dtype="f8")
            layout[:] = h5py.VirtualSource(outside / "other.h5", "tracings", (1, 5000, 12))
            opened.create_virtual_dataset("tracings", layout)
    assert code_of(HDF5.read, file, "0", root=tmp_path) == "path_escape"
    with h5py.File(file) as opened:  # h5py itself would follow it
        assert opened[name].shape == (1, 5000, 12)


@pytest.mark.parametrize(
    ("shape", "chunks", "code"),
    [
        ((10**12, 5000, 12), (1, 5000, 12), "too_large"),
        ((10**6, 5000, 12), (1, 5000, 12), "truncated"),
        ((1, 10**12, 12), (1, 5000, 12), "too_large"),
        ((1, 5000, 10**9), (1, 5000, 12), "too_large"),
        ((4, 4_000_000, 12), (4, 4_000_000, 12), "too_large"),
        ((1, 5000), (1, 5000), "schema"),
        ((1, 5000, 5), (1, 5000, 5), "schema"),
        ((5000,), (5000,), "schema"),
    ],
)
def test_hdf5_claims(describe, tmp_path, code_of, shape, chunks, code):
    describe(IN_HDF5)
    file = tmp_path / "ecgs.h5"
    with h5py.File(file, "w") as opened:
        data = opened.create_dataset("tracings", shape, "f8", chunks=chunks, compression="gzip")
        if np.prod(shape) < 10**6:
            data[:] = 1.5
    assert file.stat().st_size < 100_000
    assert code_of(HDF5.read, file, "" if len(shape) == 2 else "0", root=tmp_path) == code


@pytest.mark.parametrize(
    ("data_sets", "code"),
    [
        ({}, "schema"),
        ({"tracings__x": np.zeros(3)}, "schema"),
        ({"tracings": np.zeros((2, 50, 12)), "id": np.arange(3)}, "schema"),
        ({"tracings": np.zeros((2, 50, 12)), "id": np.zeros((2, 2))}, "schema"),
        ({"tracings": np.zeros((2, 50, 12)), "id": np.zeros(2, dtype=complex)}, "schema"),
        ({"tracings": np.zeros((2, 50, 12)), "id": h5py.Empty("f")}, "schema"),
        ({"tracings": np.zeros((2, 50, 12), dtype="S3"), "id": [1, 2]}, "schema"),
        ({"tracings": np.zeros((2, 50, 12)), "id": [1, 2]}, "no_usable_lead"),
    ],
)
def test_hdf5_that_does_not_fit_its_schema(
    write_hdf5, describe, tmp_path, code_of, data_sets, code
):
    describe(IN_HDF5 | {"patient_id": "id"})
    assert code_of(HDF5.read, write_hdf5(**data_sets), "1", root=tmp_path) == code


def test_plug_ins_are_not_loaded(describe, tmp_path, code_of):
    """A filter that is not built in would make HDF5 look for a library to load."""
    describe(IN_HDF5)
    file = tmp_path / "ecgs.h5"
    space = h5py.h5s.create_simple((1, 5000, 12))
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_chunk((1, 5000, 12))
    layout.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)  # Zstandard
    with h5py.File(file, "w") as opened:
        h5py.h5d.create(opened.id, b"tracings", h5py.h5t.IEEE_F64LE, space, dcpl=layout)
    assert code_of(HDF5.read, file, "0", root=tmp_path) == "unreadable"


# --- schema and parts


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"sampling_rate_hz": 0}, "sampling_rate"),
        ({"sampling_rate_hz": "500"}, "schema"),
        ({"sampling_rate_hz": True}, "schema"),
        ({"sampling_rate_hz": 10**400}, "schema"),
        ({"sampling_rate_hz": float("nan")}, "schema"),
        ({"unit": "mmHg"}, "schema"),
        ({"unit": ["mV"]}, "schema"),
        ({"leads": "I II"}, "schema"),
        ({"leads": []}, "schema"),
        ({"leads": ["I", "I"]}, "schema"),
        ({"leads": ["I", 2]}, "schema"),
        ({"leads": ["x"] * 1000}, "schema"),
        ({"leads": ["MLII"]}, "no_standard_lead"),
        ({"layout": "leads"}, "schema"),
        ({"signal": ""}, "schema"),
        ({"signal": ["x"]}, "schema"),
        ({"scale": None}, "schema"),
        ({"sampling_rate": 500}, "schema"),
        ({"unit": None}, "schema"),
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


@pytest.mark.parametrize("part", ["", "2", "-1", "0x1", "01x", "1.0", "²", "9" * 50, "../1"])
def test_rows_that_are_not_there(write_hdf5, describe, tmp_path, heart, code_of, part):
    describe(IN_HDF5)
    file = write_hdf5(tracings=np.stack([heart().T] * 2))
    assert code_of(HDF5.read, file, part, root=tmp_path) == "missing_file"


def test_names_and_marks():
    assert [reader.KIND for reader in READERS] == ["array_csv", "array_parquet", "array_hdf5"]
    for reader in READERS:
        assert not reader.recognises("x.h5", b"") and not reader.recognises("x.dat", bytes(4096))


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


DAMAGE = """
import sys
from pathlib import Path
import numpy as np
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.sources.arrays import HDF5
file, rng = Path(sys.argv[1]), np.random.default_rng(int(sys.argv[2]))
whole = file.read_bytes()
for _ in range(80):
    content = bytearray(whole)
    for at in rng.integers(0, min(4096, len(content)), rng.integers(1, 8)):
        content[at] = rng.integers(0, 256)
    file.write_bytes(content[: rng.integers(0, len(content))] if rng.random() < 0.2 else content)
    try:
        HDF5.read(file, "0", root=file.parent)
    except RecordRefused as refused:
        print(refused.code)
"""


def test_damaged_hdf5(write_hdf5, describe, heart):
    """In a process of its own: libhdf5 is C, and no Python can promise that it survives all."""
    describe(IN_HDF5 | {"patient_id": "id"})
    file = write_hdf5(tracings=heart(seconds=2).T[None], id=["H 0815"])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", DAMAGE, str(file), "1"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(set(done.stdout.split())) > 1
