"""The layouts of ACDC and M&Ms, written with nibabel as the data sets' papers and sites say."""

import numpy as np
import pytest

from cardionets_core.data.paths import file_inside
from cardionets_core.sources.cine_groups import ACDC_GROUPS, MNMS_PATHOLOGIES
from cardionets_core.sources.cmr_layouts import find_cmr, read_cmr
from cardionets_core.vocabulary import DISEASES

ACDC_ORDER = np.array([0, 3, 2, 1], np.uint8)
INFO = "ED: 1\nES: 5\nGroup: DCM\nHeight: 184.0\nNbFrame: 8\nWeight: 95.0\n"


def acdc(folder, save_stack, stack, *, info=INFO, whole=True, name="patient001"):
    grey, labels = stack
    place = folder / name
    for frame in (1, 5):
        save_stack(place / f"{name}_frame{frame:02d}.nii.gz", grey[frame - 1])
        masks = ACDC_ORDER[labels[frame - 1]]
        save_stack(place / f"{name}_frame{frame:02d}_gt.nii.gz", masks)
    if whole:
        save_stack(place / f"{name}_4d.nii.gz", grey)
    (place / "Info.cfg").write_text(info)
    return folder


def read_only(folder):
    (item,) = find_cmr(folder)
    return item, read_cmr(item, root=folder)


def test_acdc(tmp_path, beating, save_stack, true_volumes):
    grey, _ = stack = beating()
    item, found = read_only(acdc(tmp_path / "training", save_stack, stack))
    assert (item.layout, item.patient, item.path) == ("acdc", "patient001", "patient001")
    assert set(found.views) == {"sax"} and found.refused == {}
    np.testing.assert_array_equal(found.views["sax"].frames, grey[:, 3])
    assert found.views["sax"].heart_mm[0] == pytest.approx(48, abs=0.8)
    person, values = found.facts.person, found.facts.values
    assert (person.patient_id, person.height_cm, person.weight_kg) == ("patient001", 184.0, 95.0)
    assert values["dilated_cardiomyopathy"] == 1.0 and "myocardial_infarction" not in values
    for name, truth in true_volumes.items():
        assert values[name] == pytest.approx(truth, rel=0.03), name


def test_acdc_begins_at_end_diastole(tmp_path, beating, save_stack):
    grey, labels = beating()
    late = np.roll(grey, 2, axis=0), np.roll(labels, 2, axis=0)
    info = INFO.replace("ED: 1", "ED: 3")
    _, found = read_only(acdc(tmp_path, save_stack, late, info=info))
    np.testing.assert_array_equal(found.views["sax"].frames, grey[:, 3])


def test_acdc_with_two_frames_only(tmp_path, beating, save_stack, true_volumes):
    _, found = read_only(acdc(tmp_path, save_stack, beating(), whole=False))
    assert found.views == {} and found.refused == {"sax": "ed_es_only"}
    assert found.facts.values["lv_edv"] == pytest.approx(true_volumes["lv_edv"], rel=0.03)


def test_acdc_when_info_or_one_file_is_odd(tmp_path, beating, save_stack, code_of):
    stack = beating()
    info = "ED: x\nGroup: NOR\r\nHeight: 0\nWeight: nan"
    _, found = read_only(acdc(tmp_path / "a", save_stack, stack, info=info))
    assert np.isnan(found.facts.person.height_cm) and np.isnan(found.facts.person.weight_kg)
    assert found.facts.values["hypertrophic_cardiomyopathy"] == 0.0
    folder = acdc(tmp_path / "b", save_stack, stack)
    mask = folder / "patient001" / "patient001_frame05_gt.nii.gz"
    mask.write_bytes(mask.read_bytes()[:300])
    _, found = read_only(folder)
    assert set(found.views) == {"sax"} and set(found.refused) == {"study"}
    assert found.views["sax"].heart_mm is None
    folder = acdc(tmp_path / "c", save_stack, stack, info="x" * 5000)
    (item,) = find_cmr(folder)
    assert code_of(read_cmr, item, root=folder) == "too_large"


def test_one_broken_patient_leaves_the_others(tmp_path, beating, save_stack, code_of):
    stack = beating()
    acdc(tmp_path, save_stack, stack)
    acdc(tmp_path, save_stack, stack, name="patient002")
    for file in (tmp_path / "patient001").glob("*.gz"):
        file.write_bytes(b"torn")
    codes = [code_of(read_cmr, item, root=tmp_path) for item in find_cmr(tmp_path)]
    assert codes == ["header", None]


TABLE = """External code,VendorName,Vendor,Centre,ED,ES,Age,Pathology,Sex,Height,Weight
A0S9V9,Siemens,A,1,2,6,52,HCM,M,173.0,80.5
B1T0W0,Philips,B,2,0,4,,Other,F,,
"""


def mnms(folder, save_stack, grey, labels, code="A0S9V9", place="Training/Labeled"):
    save_stack(folder / place / code / f"{code}_sa.nii.gz", grey)
    if labels is not None:
        save_stack(folder / place / code / f"{code}_sa_gt.nii.gz", labels)


def test_mnms(tmp_path, beating, save_stack, true_volumes):
    grey, labels = beating()
    late, late_labels = np.roll(grey, 2, axis=0), np.roll(labels, 2, axis=0)
    late_labels[[0, 1, 3, 4, 5, 7]] = 0
    mnms(tmp_path, save_stack, late, late_labels)
    mnms(tmp_path, save_stack, grey, None, code="B1T0W0", place="Training/Unlabeled")
    (tmp_path / "dataset.csv").write_text(TABLE)
    items = list(find_cmr(tmp_path))
    assert [(i.layout, i.patient) for i in items] == [("mnms", "A0S9V9"), ("mnms", "B1T0W0")]
    assert all("dataset.csv" in item.members for item in items)
    first, second = (read_cmr(item, root=tmp_path) for item in items)
    np.testing.assert_array_equal(first.views["sax"].frames, grey[:, 3])  # ED is phase 2
    person = first.facts.person
    assert (person.sex, person.age, person.height_cm, person.weight_kg) == (1.0, 52.0, 173.0, 80.5)
    assert first.facts.values["hypertrophic_cardiomyopathy"] == 1.0
    for name, truth in true_volumes.items():
        assert first.facts.values[name] == pytest.approx(truth, rel=0.03), name
    assert second.facts.person.sex == 0.0 and np.isnan(second.facts.person.age)
    assert set(second.views) == {"sax"} and dict(second.facts.values) == {}


def test_mnms_without_its_table(tmp_path, beating, save_stack, true_volumes):
    mnms(tmp_path, save_stack, *beating())
    item, found = read_only(tmp_path)
    assert item.layout == "mnms" and found.facts.person.patient_id == "A0S9V9"
    assert found.facts.values["rv_edv"] == pytest.approx(true_volumes["rv_edv"], rel=0.03)


def test_diseases_have_names_of_the_vocabulary():
    for table in (ACDC_GROUPS, MNMS_PATHOLOGIES):
        for values in table.values():
            assert set(values) <= set(DISEASES) and set(values.values()) <= {0.0, 1.0}


def test_members_are_files_below_the_root(tmp_path, beating, save_stack):
    acdc(tmp_path / "x", save_stack, beating())
    for item in find_cmr(tmp_path):
        assert len(item.members) == 6
        for member in item.members:
            assert file_inside(tmp_path, member).is_file()
