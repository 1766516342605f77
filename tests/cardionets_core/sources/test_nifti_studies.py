"""Loose NIfTI files written by nibabel, hearts of known volume."""

import numpy as np
import pytest

from cardionets_core.sources.cmr_layouts import find_cmr, read_cmr
from cardionets_core.sources.nifti_studies import NamedFile, named


def only(folder):
    items = list(find_cmr(folder))
    assert len(items) == 1
    return items[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("P007_4ch.nii.gz", ("P007", "4ch", False, -1)), ("P007_sax.nii", ("P007", "sax", False, -1)),
     ("P_0-7_sax_seg.nii.gz", ("P_0-7", "sax", True, -1)), ("sax.nii.gz", ("", "sax", False, -1)),
     ("P7_la_4ch.nii.gz", ("P7", "4ch", False, -1)), ("sa_gt.nii.gz", ("", "sax", True, -1)),
     ("P7_sax_frame03.nii.gz", ("P7", "sax", False, 3)),
     ("x_cine_sax.nii", ("x", "sax", False, -1)),
     ("P7_sax_frame03_gt.nii.gz", ("P7", "sax", True, 3)), ("P7_2ch.nii.gz", None),
     ("cine_sax.nii.gz", ("", "sax", False, -1)), ("seg_sa.nii.gz", ("", "sax", True, -1)),
     ("seg_sa_ED.nii.gz", ("", "sax", True, 0)), ("P7_sax_ES.nii", ("P7", "sax", False, 1)),
     ("sax/P7.nii.gz", ("P7", "sax", False, -1)), ("4ch/P7_seg.nii.gz", ("P7", "4ch", True, -1)),
     ("sax/P7_frame02.nii", ("P7_frame02", "sax", False, -1)), ("P7/x.nii", None),
     ("P7/sax/image.nii", ("", "sax", False, -1)), ("P7/sa/image_seg.nii", ("", "sax", True, -1)),
     ("masax.nii.gz", None), ("scan.nii.gz", None)],
)  # fmt: skip
def test_names(name, expected):
    assert named(name) == (None if expected is None else NamedFile(*expected))


def test_views_masks_and_patients(tmp_path, beating, save_stack, true_volumes):
    grey, labels = beating()
    save_stack(tmp_path / "P1_sax.nii.gz", grey)
    save_stack(tmp_path / "P1_sax_seg.nii.gz", labels)
    save_stack(tmp_path / "P1_4ch.nii.gz", grey[:, :1])
    save_stack(tmp_path / "sub" / "P2" / "sax.nii.gz", grey + 1)
    items = list(find_cmr(tmp_path))
    assert [(i.patient, i.path, i.layout) for i in items] == [
        ("P1", ".", "nifti"), ("P2", "sub/P2", "nifti")]  # fmt: skip
    assert all("P1" not in repr(item) for item in items)
    first, second = (read_cmr(item, root=tmp_path) for item in items)
    assert set(first.views) == {"4ch", "sax"} and first.refused == {}
    np.testing.assert_array_equal(first.views["sax"].frames, grey[:, 3])
    assert first.views["4ch"].heart_mm is None and first.facts.person.patient_id == "P1"
    for name, truth in true_volumes.items():
        assert first.facts.values[name] == pytest.approx(truth, rel=0.03), name
    assert first.facts.values["lv_co"] == pytest.approx(
        (true_volumes["lv_edv"] - true_volumes["lv_esv"]) * 75 / 1000, rel=0.05
    )
    np.testing.assert_array_equal(second.views["sax"].frames, grey[:, 3] + 1)
    assert second.facts.person.patient_id == "P2" and dict(second.facts.values) == {}


def test_the_heart_of_the_mask(tmp_path, beating, save_stack):
    grey, labels = beating()
    save_stack(tmp_path / "P1_sax.nii.gz", grey)
    save_stack(tmp_path / "P1_sax_seg.nii.gz", labels)
    row, column = read_cmr(only(tmp_path), root=tmp_path).views["sax"].heart_mm
    inside = labels[:, 3] > 0
    assert row == pytest.approx(48.0, abs=0.8)
    assert column == pytest.approx(np.argwhere(inside)[:, 2].mean() * 1.5, abs=0.01)
    assert 48 < column < 62  # right ventricle included: left of the middle of the left one


def test_the_slice_is_the_middle_of_the_heart(tmp_path, beating, save_stack):
    grey, labels = beating(slices=9)
    labels[:, 6:] = 0
    save_stack(tmp_path / "P1_sax.nii.gz", grey)
    save_stack(tmp_path / "P1_sax_seg.nii.gz", labels)
    found = read_cmr(only(tmp_path), root=tmp_path)
    np.testing.assert_array_equal(found.views["sax"].frames, grey[:, 3])


def test_either_order_of_labels_is_found(tmp_path, beating, save_stack, true_volumes):
    grey, labels = beating()
    save_stack(tmp_path / "P1_sax.nii.gz", grey)
    save_stack(tmp_path / "P1_sax_seg.nii.gz", np.array([0, 3, 2, 1], np.uint8)[labels])
    values = read_cmr(only(tmp_path), root=tmp_path).facts.values
    assert values["lv_edv"] == pytest.approx(true_volumes["lv_edv"], rel=0.03)
    save_stack(tmp_path / "P1_sax_seg.nii.gz", np.array([0, 2, 1, 3], np.uint8)[labels])
    found = read_cmr(only(tmp_path), root=tmp_path)
    assert found.refused == {"study": "mask_labels"} and "sax" in found.views
    save_stack(tmp_path / "P1_sax_seg.nii.gz", labels * 60)
    assert read_cmr(only(tmp_path), root=tmp_path).refused == {"study": "mask_labels"}


def test_a_mask_of_two_phases_among_many(tmp_path, beating, save_stack, true_volumes):
    grey, labels = beating()
    some = np.where(np.isin(np.arange(8), (0, 4))[:, None, None, None], labels, 0)
    save_stack(tmp_path / "P1_sax.nii.gz", grey)
    save_stack(tmp_path / "P1_sax_gt.nii.gz", some.astype(np.uint8))
    found = read_cmr(only(tmp_path), root=tmp_path)
    assert found.facts.values["lv_esv"] == pytest.approx(true_volumes["lv_esv"], rel=0.03)
    assert found.views["sax"].heart_mm is not None


def test_two_phases_are_no_cine_but_their_masks_count(tmp_path, beating, save_stack, true_volumes):
    grey, labels = beating()
    save_stack(tmp_path / "P1_sax.nii.gz", grey[::4])
    save_stack(tmp_path / "P1_sax_seg.nii.gz", labels[::4])
    found = read_cmr(only(tmp_path), root=tmp_path)
    assert found.views == {} and found.refused == {"sax": "ed_es_only"}
    assert found.facts.values["lv_edv"] == pytest.approx(true_volumes["lv_edv"], rel=0.03)


def test_a_volume_for_each_phase(tmp_path, beating, save_stack):
    grey, labels = beating(phases=11)
    for k in range(11):
        save_stack(tmp_path / f"P1_sax_frame{k + 1}.nii.gz", grey[k])
    found = read_cmr(only(tmp_path), root=tmp_path)
    np.testing.assert_array_equal(found.views["sax"].frames, grey[:, 3])
    for k in range(11):
        save_stack(tmp_path / f"P1_sax_frame{k + 1}_seg.nii.gz", labels[k])
    found = read_cmr(only(tmp_path), root=tmp_path)
    np.testing.assert_array_equal(found.views["sax"].frames, grey[:, 3])
    assert found.views["sax"].heart_mm is not None and found.facts.values["lv_ef"] > 0


def test_refusals(tmp_path, beating, save_stack, code_of):
    grey, labels = beating()
    save_stack(tmp_path / "a" / "scan.nii.gz", grey)
    save_stack(tmp_path / "b" / "P1_sax.nii.gz", grey)
    save_stack(tmp_path / "b" / "P1_sax.nii", grey)
    save_stack(tmp_path / "c" / "P1_sax.nii.gz", grey[:, :, :, :60])
    save_stack(tmp_path / "c" / "P1_sax_seg.nii.gz", labels)
    torn = save_stack(tmp_path / "d" / "P1_sax.nii.gz", grey)
    torn.write_bytes(torn.read_bytes()[:2000])
    save_stack(tmp_path / "d" / "P1_4ch.nii.gz", grey[:, :1])
    codes = {}
    for item in find_cmr(tmp_path):
        codes[item.path] = code_of(read_cmr, item, root=tmp_path)
    assert codes["a/scan.nii.gz"] == "unknown_view" and codes["b"] == "ambiguous_files"
    c, d = (only(tmp_path / name) for name in "cd")
    assert read_cmr(c, root=tmp_path / "c").refused == {"sax": "image_shape"}
    found = read_cmr(d, root=tmp_path / "d")
    assert set(found.views) == {"4ch"} and found.refused == {"sax": "unreadable"}


def test_a_folder_for_each_view(tmp_path, beating, save_stack, true_volumes):
    grey, labels = beating()
    save_stack(tmp_path / "cmr" / "P1_4ch.nii.gz", grey[:, :1])
    save_stack(tmp_path / "cmr" / "sax" / "P1.nii.gz", grey)
    save_stack(tmp_path / "cmr" / "sax" / "P1_seg.nii.gz", labels)
    save_stack(tmp_path / "cmr" / "sax" / "P2_sax.nii.gz", grey)
    first, second = find_cmr(tmp_path)
    assert (first.path, first.patient, second.patient) == ("cmr", "P1", "P2")
    found = read_cmr(first, root=tmp_path)
    assert set(found.views) == {"4ch", "sax"} and found.refused == {}
    assert found.facts.values["lv_edv"] == pytest.approx(true_volumes["lv_edv"], rel=0.03)
    assert set(read_cmr(second, root=tmp_path).views) == {"sax"}


def test_whole_cines_come_before_their_single_phases(tmp_path, beating, save_stack, true_volumes):
    grey, labels = beating()
    for name, at in (("ED", 0), ("ES", 4)):
        save_stack(tmp_path / "P1" / f"sa_{name}.nii.gz", grey[at])
        save_stack(tmp_path / "P1" / f"seg_sa_{name}.nii.gz", labels[at])
    found = read_cmr(only(tmp_path), root=tmp_path)
    assert found.views == {} and found.refused == {"sax": "ed_es_only"}
    assert found.facts.values["lv_esv"] == pytest.approx(true_volumes["lv_esv"], rel=0.03)
    save_stack(tmp_path / "P1" / "sa.nii.gz", grey)
    found = read_cmr(only(tmp_path), root=tmp_path)
    assert set(found.views) == {"sax"} and found.refused == {}
    assert found.views["sax"].heart_mm is not None


def test_the_heart_of_a_four_chamber_mask(tmp_path, beating, save_stack):
    grey, labels = beating(slices=1)
    save_stack(tmp_path / "P1_4ch.nii.gz", grey)
    save_stack(tmp_path / "P1_4ch_seg.nii.gz", labels)
    found = read_cmr(only(tmp_path), root=tmp_path)
    assert found.views["4ch"].heart_mm[0] == pytest.approx(48, abs=0.8)
    assert dict(found.facts.values) == {}
