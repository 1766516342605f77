"""Folders of mixed content: what is a study, and what never leads out of the folder."""

import os
import pickle
import subprocess

import numpy as np
import pydicom
import pytest

from cardionets_core.data.refusal import REASONS
from cardionets_core.sources import cmr_layouts
from cardionets_core.sources.cmr_item import CmrItem
from cardionets_core.sources.cmr_layouts import DEEPEST, find_cmr, read_cmr


@pytest.fixture
def grey(beating):
    return beating(phases=5)[0]


def test_dicom_studies_by_their_numbers(tmp_path, sax_images, save_all, grey):
    for patient in "12":
        for visit in "ab":
            number = f"1.{patient}.{ord(visit)}"
            tags = {"study": number, "PatientID": f"P{patient}"}
            for half in (0, 1):  # two series, a folder each, below different folders
                images = sax_images(grey[:, 3 * half : 3 * half + 3], first=24.0 * half,
                                    series=f"{number}.{half}", **tags)  # fmt: skip
                save_all(tmp_path / f"P{patient}" / f"s{half}" / visit, images.values())
    items = list(find_cmr(tmp_path))
    assert [i.layout for i in items] == ["dicom"] * 4
    assert len({(i.path, i.part) for i in items}) == 4
    assert items[0].path == "P1" and items[0].members == ("P1/s0/a", "P1/s1/a")
    for item in items:
        found = read_cmr(item, root=tmp_path)
        np.testing.assert_array_equal(found.views["sax"].frames, grey[:, 3])
        assert found.facts.person.patient_id == item.path


def test_studies_mixed_in_one_folder(tmp_path, sax_images, save_all, grey):
    for k in range(3):
        images = sax_images(grey + k, study=f"1.{k}", series=f"1.{k}.1", PatientID=f"P{k}")
        save_all(tmp_path, images.values(), prefix=f"{k}_")
    items = list(find_cmr(tmp_path))
    assert sorted(item.part for item in items) == ["1.0", "1.1", "1.2"]
    for item in items:
        assert len(item.members) == 30
        found = read_cmr(item, root=tmp_path)
        k = int(item.part[-1])
        assert found.refused == {} and found.facts.person.patient_id == f"P{k}"
        np.testing.assert_array_equal(found.views["sax"].frames, grey[:, 3] + k)


def test_every_header_is_read_once_and_that_is_told(
    tmp_path, sax_images, save_all, grey, monkeypatch
):
    for k in range(3):
        images = sax_images(grey + k, study=f"1.{k}", series=f"1.{k}.1")
        save_all(tmp_path, images.values(), prefix=f"{k}_")
    (tmp_path / "letter").write_bytes(b"no image")
    read, told = [], []
    whole = cmr_layouts.read_dataset
    monkeypatch.setattr(
        cmr_layouts, "read_dataset", lambda path, **how: (read.append(path), whole(path, **how))[1]
    )
    monkeypatch.setattr(cmr_layouts, "TOLD_EVERY", 40)
    assert len(list(find_cmr(tmp_path, told.append))) == 3
    assert len(read) == len(set(read)) == 91 and told == [40, 80]


def test_everything_in_one_tree(tmp_path, sax_images, save_all, save_stack, grey):
    save_all(tmp_path / "dicom", sax_images(grey).values())
    save_stack(tmp_path / "loose" / "P1_sax.nii.gz", grey)
    save_stack(tmp_path / "patient009" / "patient009_4d.nii.gz", grey)
    (tmp_path / "patient009" / "Info.cfg").write_text("ED: 1\n")
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "unknown").write_bytes(b"\0" * 200)
    (tmp_path / ".hidden_sax.nii.gz").write_bytes(b"x")
    items = list(find_cmr(tmp_path))
    assert sorted(i.layout for i in items) == ["acdc", "dicom", "nifti"]
    for item in items:
        assert pickle.loads(pickle.dumps(item)) == item  # it travels to a worker
        assert set(read_cmr(item, root=tmp_path).views) == {"sax"}


def test_a_broken_study_leaves_the_others(tmp_path, sax_images, save_all, grey, code_of):
    save_all(tmp_path / "good", sax_images(grey).values())
    for path in save_all(tmp_path / "bad", sax_images(grey, study="1.9").values()).iterdir():
        path.write_bytes(path.read_bytes()[:-2000])
    (tmp_path / "P1_sax.nii.gz").write_bytes(b"torn")
    codes = {i.path: code_of(read_cmr, i, root=tmp_path) for i in find_cmr(tmp_path)}
    assert codes == {"good": None, "bad": "truncated", ".": "header"}
    assert set(codes.values()) - {None} <= set(REASONS)


def test_a_folder_without_a_study_number_is_a_study(tmp_path, sax_images, save_all, grey):
    for k in range(2):
        images = sax_images(grey + k).values()
        for image in images:
            del image.StudyInstanceUID
        save_all(tmp_path / f"P{k}", images)
    for k, item in enumerate(find_cmr(tmp_path)):
        found = read_cmr(item, root=tmp_path)
        np.testing.assert_array_equal(found.views["sax"].frames, grey[:, 3] + k)


def directory_of(names):
    """A DICOMDIR (PS3.10, PS3.3 F) that names files as it likes."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    meta.MediaStorageSOPInstanceUID = "1.2.3.99"
    listing = pydicom.dataset.FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    records = []
    for name in names:
        record = pydicom.Dataset()
        record.DirectoryRecordType = "IMAGE"
        record.ReferencedFileID = name
        records.append(record)
    listing.DirectoryRecordSequence = records
    return listing


def test_a_dicomdir_leads_nowhere(tmp_path, sax_images, save_all, grey):
    outside = save_all(tmp_path / "outside", sax_images(grey + 500, SeriesNumber=9).values())
    root = save_all(tmp_path / "root", sax_images(grey).values())
    names = [["..", "outside", path.name] for path in outside.iterdir()]
    names += [[str(path)] for path in outside.iterdir()]
    with pydicom.config.disable_value_validation():
        directory_of(names).save_as(root / "DICOMDIR", enforce_file_format=True)
    (item,) = find_cmr(root)
    found = read_cmr(item, root=root)
    assert found.refused == {}
    np.testing.assert_array_equal(found.views["sax"].frames, grey[:, 3])


@pytest.mark.parametrize(
    "member",
    ["../outside", "/etc", "a/../../outside", "C:/data", "s3://bucket/x", "link", "link/IM0001.dcm",
     "~/x", "a\\b"],
)  # fmt: skip
def test_members_stay_below_the_root(tmp_path, sax_images, save_all, grey, code_of, member):
    save_all(tmp_path / "outside", sax_images(grey).values())
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "link").symlink_to(tmp_path / "outside")
    for layout in ("dicom", "ukb", "nifti", "acdc", "mnms"):
        name = f"{member}/P1_sa.nii.gz" if layout in ("nifti", "mnms", "acdc") else member
        item = CmrItem(f"cmr_{layout}", ".", layout=layout, members=(name,))
        assert code_of(read_cmr, item, root=root) in ("path_escape", "missing_file"), layout


def test_links_are_not_followed(tmp_path, sax_images, save_all, save_stack, grey):
    save_all(tmp_path / "outside", sax_images(grey).values())
    save_stack(tmp_path / "outside" / "P1_sax.nii.gz", grey)
    root = tmp_path / "root"
    root.mkdir()
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "P1_sax.nii.gz").symlink_to(tmp_path / "outside" / "P1_sax.nii.gz")
    (root / "IM.dcm").symlink_to(next((tmp_path / "outside").glob("*.dcm")))
    assert list(find_cmr(root)) == []


@pytest.mark.timeout(120)
def test_only_regular_files_are_opened(tmp_path, sax_images, save_all, save_stack, grey):
    """Opening a pipe waits for a writer, for ever."""
    save_stack(tmp_path / "P1" / "P1_sax.nii.gz", grey)
    save_all(tmp_path / "dicom", sax_images(grey).values())
    (tmp_path / "1234567_20209_2_0").mkdir()
    save_all(tmp_path / "1234567_20209_2_0", sax_images(grey).values())
    for folder in ("P1", "dicom", "1234567_20209_2_0"):
        for name in ("x.csv", "IM0000", "P2_sax.nii.gz", "7654321_20209_2_0.zip"):
            os.mkfifo(tmp_path / folder / name)
    items = list(find_cmr(tmp_path))
    assert sorted(i.layout for i in items) == ["dicom", "nifti", "ukb"]
    for item in items:
        assert set(read_cmr(item, root=tmp_path).views) == {"sax"}


@pytest.fixture
def chain(tmp_path):
    """Makes folders in each other: without paths, for these have a greatest length."""

    def make(place, levels):
        here = os.open(place, os.O_RDONLY)
        for _ in range(levels):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(here)

    yield make
    subprocess.run(["rm", "-rf", tmp_path], check=True)  # pytest's own way is recursive


def test_deep_trees(tmp_path, chain, save_stack, grey, code_of):
    chain(tmp_path, 1500)
    save_stack(tmp_path / "/".join("d" * 20) / "P1_sax.nii.gz", grey)
    save_stack(tmp_path / "/".join("d" * DEEPEST) / "P2_sax.nii.gz", grey)
    save_stack(tmp_path / "/".join("d" * (DEEPEST + 1)) / "P3_sax.nii.gz", grey)
    first, second, deep = find_cmr(tmp_path)
    assert (first.patient, second.patient) == ("P1", "P2")
    assert deep.path == "/".join("d" * (DEEPEST + 1)) and deep.members == ()
    assert code_of(read_cmr, deep, root=tmp_path) == "too_deep"


def test_a_deep_archive_of_one_participant(tmp_path, chain, sax_images, save_all, grey, code_of):
    place = save_all(tmp_path / "1234567_20209_2_0" / "a", sax_images(grey).values())
    (item,) = find_cmr(tmp_path)
    assert set(read_cmr(item, root=tmp_path).views) == {"sax"}
    chain(place, 1200)
    assert code_of(read_cmr, item, root=tmp_path) == "too_deep"


def test_sunnybrook(shared_data, code_of):
    root = shared_data / "sunnybrook-mini"
    (item,) = find_cmr(root)
    assert item.layout == "dicom" and item.members == ("dicom",)
    assert code_of(read_cmr, item, root=root) == "ed_es_only"
