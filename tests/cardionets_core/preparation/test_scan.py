"""What a walk through folders takes for a recording, and what it does not open twice."""

from __future__ import annotations

import json
import os
import socket

import numpy as np
import pytest

from cardionets_core.errors import ConfigError
from cardionets_core.preparation.identity import Salt
from cardionets_core.preparation.journal import Journal
from cardionets_core.preparation.outcome import Outcome
from cardionets_core.preparation.scan import Scan, Sighting, _members, walk
from cardionets_core.sources.cmr_item import CmrItem

SALT = Salt("the secret of a site, long enough")


@pytest.fixture
def archive(tmp_path):
    root = tmp_path / "archive"
    (root / "a").mkdir(parents=True)
    for name in ("one.hea", "one.dat", "one.xyz", "two.hea", "two.mat"):
        (root / "a" / name).write_text("x")
    return root


def scanned(root, journal=None, settings="1", **more):
    sighting = Sighting()
    found = list(Scan(SALT, settings, journal, **more).ecgs(root, sighting))
    return found, sighting


def names(found):
    return [(f.work.source.path, f.work.source.part) for f in found]


def test_headers_are_items_and_their_signals_are_not(archive):
    found, sighting = scanned(archive)
    assert names(found) == [("a/one.hea", ""), ("a/two.hea", "")]
    assert not sighting.others and not any(f.is_done for f in found)
    assert {f.work.item for f in found} == {
        SALT.item_key("ecg/a/one.hea"), SALT.item_key("ecg/a/two.hea"),
    }  # fmt: skip


def test_a_lone_signal_file_is_no_recording(archive):
    (archive / "a" / "one.hea").unlink()
    found, sighting = scanned(archive)
    assert names(found) == [("a/two.hea", "")] and sighting.others["other"] == 2


def test_hidden_files_and_links_are_left_out(archive, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.hea").write_text("x")
    (archive / "link").symlink_to(outside)
    (archive / "a" / "linked.hea").symlink_to(outside / "secret.hea")
    (archive / "loop").symlink_to(archive)
    (archive / ".snapshot").mkdir()
    (archive / ".snapshot" / "old.hea").write_text("x")
    (archive / "a" / "._one.hea").write_text("x")
    found, sighting = scanned(archive)
    assert len(found) == 2 and sighting.others == {"link, not followed": 3}


def test_segments_are_parts_of_their_record(archive):
    (archive / "a" / "long.hea").write_text("long/2 2 250 5000\nlong_1 2500\nlong_2 2500\n")
    for k in (1, 2):
        (archive / "a" / f"long_{k}.hea").write_text(f"long_{k} 2 250 2500\n")
    found, _ = scanned(archive)
    assert ("a/long.hea", "") in names(found) and len(found) == 3


def test_segments_stay_parts_when_only_they_are_new(archive, tmp_path):
    long = archive / "a" / "long.hea"
    long.write_text("long/1 2 250 2500\nlong_1 2500\n")
    (archive / "a" / "long_1.hea").write_text("long_1 2 250 2500\n")
    with Journal(tmp_path, mark="salt") as journal:
        for found in scanned(archive, journal)[0]:
            journal.put(Outcome(found.work.item, "ecg", "wfdb", "used"), found.state)
        (archive / "a" / "long_1.hea").write_text("long_1 2 250 2500 # changed\n")
        found, _ = scanned(archive, journal)
        assert len(found) == 3 and all(f.is_done for f in found)


def test_what_is_known_is_not_opened_again(archive, tmp_path):
    (archive / "notes.docx").write_text("x")
    with Journal(tmp_path, mark="salt") as journal:
        first, seen = scanned(archive, journal)
        assert seen.opened == 3
        for found in first:
            journal.put(Outcome(found.work.item, "ecg", "wfdb", "used"), found.state)
        again, seen = scanned(archive, journal)
        assert seen.opened == 0 and all(f.is_done for f in again)
        assert seen.others == {"docx": 1}
        assert not any(f.is_done for f in scanned(archive, journal, settings="2")[0])


@pytest.mark.parametrize("name", ["one.hea", "one.dat"])
def test_a_change_of_any_file_of_a_record_counts(archive, tmp_path, name):
    with Journal(tmp_path, mark="salt") as journal:
        for found in scanned(archive, journal)[0]:
            journal.put(Outcome(found.work.item, "ecg", "wfdb", "used"), found.state)
        os.utime(archive / "a" / name, ns=(1, 1))
        done = {f.work.source.path: f.is_done for f in scanned(archive, journal)[0]}
        assert done == {"a/one.hea": False, "a/two.hea": True}


def test_rows_of_an_array_are_items_and_its_schema_counts(tmp_path):
    import h5py

    root = tmp_path / "arrays"
    root.mkdir()
    with h5py.File(root / "ecgs.h5", "w") as file:
        file["tracings"] = np.zeros((3, 12, 1000), dtype="f4")
    schema = {
        "sampling_rate_hz": 500, "unit": "mV", "layout": "leads, samples", "signal": "tracings",
        "leads": ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"],
    }  # fmt: skip
    (root / "ecgs.h5.schema.json").write_text(json.dumps(schema))
    first, _ = scanned(root)
    assert names(first) == [("ecgs.h5", "0"), ("ecgs.h5", "1"), ("ecgs.h5", "2")]
    (root / "ecgs.h5.schema.json").write_text(json.dumps(schema | {"unit": "uV"}))
    assert {f.state for f in scanned(root)[0]}.isdisjoint(f.state for f in first)


def test_folders_that_are_left_out(archive):
    (archive / "cmr").mkdir()
    (archive / "cmr" / "x.hea").write_text("x")
    out = frozenset({archive / "cmr", archive / "a" / "two.hea"})
    assert names(scanned(archive, leave_out=out)[0]) == [("a/one.hea", "")]


def test_names_are_counted_by_class_and_never_shown(archive):
    for name in ("Smith, John", "scan.SmithJohn", "b.PDF", "c.nii.gz"):
        (archive / name).write_text("x")
    _, sighting = scanned(archive)
    assert sighting.others == {"no extension": 1, "other": 1, "pdf": 1, "nii.gz": 1}


def test_a_folder_that_vanishes_while_it_is_read(archive, monkeypatch):
    real = os.scandir

    def scandir(path):
        if str(path).endswith("/a"):
            raise FileNotFoundError(2, "No such file or directory")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found, sighting = scanned(archive)
    assert not found and sighting.closed == 1
    with pytest.raises(ConfigError, match="cannot be opened"):
        list(walk(archive / "a", Sighting()))


def test_a_thousand_folders_in_each_other(archive):
    place = archive
    for _ in range(1500):
        place = place / "d"
        os.mkdir(place)
    (place / "deep.hea").write_text("x")
    found, sighting = scanned(archive)
    assert len(found) == 3 and sighting.closed == 0
    members = _members(archive, CmrItem("cmr_ukb", "d", layout="ukb", members=("d",)))
    assert [f.name.count("/") for f in members] == [1500]
    (place / "deep.hea").unlink()
    os.removedirs(place)  # pytest's own tidying calls itself for every level


@pytest.mark.timeout(120)
def test_what_is_no_regular_file_is_never_opened(archive):
    os.mkfifo(archive / "a" / "pipe.hea")
    os.mkfifo(archive / "a" / "pipe.dcm")
    with socket.socket(socket.AF_UNIX) as listening:
        place = os.getcwd()
        os.chdir(archive)  # the path of a socket has a greatest length
        listening.bind("door.xml")
        os.chdir(place)
        found, sighting = scanned(archive)
    assert len(found) == 2 and sighting.others == {"special": 3}
    members = _members(archive, CmrItem("cmr_dicom", "a", layout="dicom", members=("a",)))
    assert not [f for f in members if "pipe" in f.name]
    assert not list(Scan(SALT, "1", None).cmrs(archive, sighting))
