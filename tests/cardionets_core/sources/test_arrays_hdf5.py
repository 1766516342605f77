"""HDF5 written with h5py as published sets have it, and files that point elsewhere."""

import subprocess
import sys
from datetime import datetime

import h5py
import numpy as np
import pytest

from cardionets_core.sources.arrays import HDF5

LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
IN_HDF5 = {
    "sampling_rate_hz": 500,
    "unit": "mV",
    "leads": LEADS,
    "signal": "tracings",
    "layout": "samples, leads",
}


@pytest.fixture
def write_hdf5(tmp_path):
    def write(name="ecgs.h5", **data_sets):
        with h5py.File(tmp_path / name, "w") as file:
            for key, value in data_sets.items():
                file[key.replace("__", "/")] = value
        return tmp_path / name

    return write


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
        ((1, 5000), (1, 5000), "schema_leads"),
        ((1, 5000, 5), (1, 5000, 5), "schema_leads"),
        ((5000,), (5000,), "schema_signal"),
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
        ({}, "schema_signal"),
        ({"tracings__x": np.zeros(3)}, "schema_signal"),
        ({"tracings": np.zeros((2, 50, 12)), "id": np.arange(3)}, "schema_facts"),
        ({"tracings": np.zeros((2, 50, 12)), "id": np.zeros((2, 2))}, "schema_facts"),
        ({"tracings": np.zeros((2, 50, 12)), "id": np.zeros(2, dtype=complex)}, "schema_facts"),
        ({"tracings": np.zeros((2, 50, 12)), "id": h5py.Empty("f")}, "schema_facts"),
        ({"tracings": np.zeros((2, 50, 12), dtype="S3"), "id": [1, 2]}, "schema_signal"),
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


@pytest.mark.parametrize("part", ["", "2", "-1", "0x1", "01x", "1.0", "²", "9" * 50, "../1"])
def test_rows_that_are_not_there(write_hdf5, describe, tmp_path, heart, code_of, part):
    describe(IN_HDF5)
    file = write_hdf5(tracings=np.stack([heart().T] * 2))
    assert code_of(HDF5.read, file, part, root=tmp_path) == "missing_file"


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
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(set(done.stdout.split())) > 1
