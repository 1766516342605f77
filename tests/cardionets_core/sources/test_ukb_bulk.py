"""UK Biobank's bulk archives, packed with zipfile from DICOM images made tag by tag."""

import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from cardionets_core.sources import ukb_bulk
from cardionets_core.sources.cmr_layouts import find_cmr, read_cmr

EID = "1234567"


def four_chamber(mr_image, grey):
    return [
        mr_image(grey[k, 0], series="1.9.4", SeriesDescription="CINE_segmented_LAX_4Ch",
                 PatientID="other", TriggerTime=40.0 * k, InstanceNumber=k + 1)
        for k in range(len(grey))
    ]  # fmt: skip


def short_axis(sax_images, grey):
    images = sax_images(grey)
    for (at, _), image in images.items():
        image.SeriesInstanceUID = f"1.2.3.{at + 10}"
        image.SeriesDescription = f"CINE_segmented_SAX_b{at + 1}"
    return list(images.values())


def packed(path, images, manifest="manifest.csv", method=zipfile.ZIP_DEFLATED):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for k, image in enumerate(images):
            buffer = io.BytesIO()
            image.save_as(buffer, enforce_file_format=True)
            archive.writestr(f"{k * 7919 % 1009:04d}.dcm", buffer.getvalue())
        archive.writestr(manifest, "filename,patientid,date\n0.dcm,Canary Anna,3 May, 2019\n")
    return path


@pytest.fixture
def grey(beating):
    return beating(phases=5, slices=4)[0]


@pytest.mark.parametrize("apart", [False, True])
def test_both_fields_are_one_study(tmp_path, sax_images, mr_image, grey, apart):
    long, short = (("20208", "20209") if apart else ("", ""))  # fmt: skip
    packed(tmp_path / long / f"{EID}_20208_2_0.zip", four_chamber(mr_image, grey), "manifest.cvs")
    packed(tmp_path / short / f"{EID}_20209_2_0.zip", short_axis(sax_images, grey))
    packed(tmp_path / short / "7654321_20209_3_0.zip", short_axis(sax_images, grey + 5))
    before = sorted(tmp_path.rglob("*"))
    items = {item.patient: item for item in find_cmr(tmp_path)}
    assert set(items) == {EID, "7654321"} and items[EID].layout == "ukb"
    assert len(items[EID].members) == 2 and EID not in repr(items[EID])
    found = read_cmr(items[EID], root=tmp_path)
    assert found.refused == {} and set(found.views) == {"4ch", "sax"}
    np.testing.assert_array_equal(found.views["4ch"].frames, grey[:, 0])
    np.testing.assert_array_equal(found.views["sax"].frames, grey[:, 2])
    assert found.facts.person.patient_id == EID and found.facts.person.sex == 0.0
    other = read_cmr(items["7654321"], root=tmp_path)
    np.testing.assert_array_equal(other.views["sax"].frames, grey[:, 2] + 5)
    assert sorted(tmp_path.rglob("*")) == before  # nothing was unpacked


def test_visits_are_studies_of_their_own(tmp_path, sax_images, grey):
    for visit in (2, 3):
        packed(tmp_path / f"{EID}_20209_{visit}_0.zip", short_axis(sax_images, grey))
    assert [item.part for item in find_cmr(tmp_path)] == [f"{EID}_2_0", f"{EID}_3_0"]


@pytest.mark.parametrize(
    ("path", "part", "visit"),
    [
        ("short", f"{EID}_2_0", 2),
        ("short", f"{EID}_3_0", 3),
        (f"ecg/{EID}_20205_3_0.xml", "", 3),
        (f"{EID}_20209_2_0.zip", "", 2),
        (f"ecg/{EID}.xml", "", None),
        (f"{EID}_20205_3_0/a.dcm", "", None),
        ("123_20205_3_0.xml", "1", None),
    ],
)
def test_the_visit_of_a_bulk_file(path, part, visit):
    assert ukb_bulk.visit_of(path, part) == visit


@pytest.mark.parametrize("below", ["", "series"])
def test_unpacked(tmp_path, sax_images, save_all, mr_image, grey, below):
    save_all(tmp_path / f"{EID}_20209_2_0" / below, short_axis(sax_images, grey))
    packed(tmp_path / f"{EID}_20208_2_0.zip", four_chamber(mr_image, grey))
    (item,) = find_cmr(tmp_path)
    assert set(read_cmr(item, root=tmp_path).views) == {"4ch", "sax"}


def test_a_torn_archive_costs_its_view_only(tmp_path, sax_images, mr_image, grey, code_of):
    packed(tmp_path / f"{EID}_20208_2_0.zip", four_chamber(mr_image, grey))
    short = packed(tmp_path / f"{EID}_20209_2_0.zip", short_axis(sax_images, grey))
    short.write_bytes(short.read_bytes()[:9000])
    (item,) = find_cmr(tmp_path)
    found = read_cmr(item, root=tmp_path)
    assert set(found.views) == {"4ch"} and found.refused == {"sax": "zip"}
    (tmp_path / f"{EID}_20208_2_0.zip").write_bytes(b"PK")
    assert code_of(read_cmr, item, root=tmp_path) == "zip"


def test_a_torn_member_costs_its_view_only(tmp_path, sax_images, mr_image, grey):
    packed(tmp_path / f"{EID}_20209_2_0.zip", short_axis(sax_images, grey))
    long = packed(tmp_path / f"{EID}_20208_2_0.zip", four_chamber(mr_image, grey))
    data = bytearray(long.read_bytes())
    data[2000:2400] = b"\xff" * 400
    long.write_bytes(data)
    (item,) = find_cmr(tmp_path)
    found = read_cmr(item, root=tmp_path)
    assert set(found.views) >= {"sax"} and "zip" in found.refused.values()


def bomb(path, *, claimed, method=zipfile.ZIP_DEFLATED):
    """A member of 70 MB of zeros that claims to unpack to `claimed` bytes."""
    zeros = b"\0" * 128 + b"DICM" + b"\0" * (70 * 2**20)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.dcm", zeros)
    del zeros
    data = bytearray(path.read_bytes())
    directory = data.rindex(b"PK\1\2")
    data[directory + 24 : directory + 28] = struct.pack("<I", claimed)
    data[22:26] = struct.pack("<I", claimed)
    path.write_bytes(data)


@pytest.mark.parametrize(("claimed", "code"), [(70 * 2**20 + 132, "too_large"), (5000, "zip")])
def test_zip_bombs(tmp_path, code_of, claimed, code):
    bomb(tmp_path / f"{EID}_20209_2_0.zip", claimed=claimed)
    (item,) = find_cmr(tmp_path)
    tracemalloc.start()
    try:
        assert code_of(read_cmr, item, root=tmp_path) == code
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


def test_sizes_are_judged_before_anything_is_unpacked(tmp_path, monkeypatch, code_of):
    path = tmp_path / f"{EID}_20209_2_0.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for k in range(6):
            archive.writestr(f"{k}.dcm", b"DICM" * 100)
    (item,) = find_cmr(tmp_path)
    monkeypatch.setattr(ukb_bulk, "LARGEST_TOTAL", 2000)
    assert code_of(read_cmr, item, root=tmp_path) == "too_large"
    monkeypatch.setattr(ukb_bulk, "MOST_MEMBERS", 5)
    assert code_of(read_cmr, item, root=tmp_path) == "too_large"


def test_other_methods_and_names(tmp_path, code_of):
    for k, method in enumerate((zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)):
        path = tmp_path / f"{EID}_20209_{k}_0.zip"
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("../../a.dcm", b"x" * 1000)
    for item in find_cmr(tmp_path):
        assert code_of(read_cmr, item, root=tmp_path) == "zip"
    with zipfile.ZipFile(tmp_path / f"{EID}_20209_0_0.zip", "w") as archive:
        archive.writestr("../../a.dcm", b"x" * 1000)
    item = next(iter(find_cmr(tmp_path)))
    assert code_of(read_cmr, item, root=tmp_path) == "no_pixels"
    assert not (tmp_path.parent / "a.dcm").exists()


def test_a_link_to_an_archive_is_not_followed(tmp_path, sax_images, grey):
    packed(tmp_path / "elsewhere" / "x.zip", short_axis(sax_images, grey))
    root = tmp_path / "root"
    root.mkdir()
    (root / f"{EID}_20209_2_0.zip").symlink_to(tmp_path / "elsewhere" / "x.zip")
    assert list(find_cmr(root)) == []
