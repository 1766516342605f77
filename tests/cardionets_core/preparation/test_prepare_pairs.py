"""ECGs and CMRs of one hospital together: files by nibabel and wfdb, real ones where they are."""

import csv
import gzip
import shutil

import nibabel as nib
import numpy as np
import pytest

from cardionets_core.data.cmr import read_nifti
from cardionets_core.data.manifest import SPLITS, read_manifest, split_of
from cardionets_core.preparation.identity import Salt
from cardionets_core.preparation.journal import Journal


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Cines of three patients, one of them torn, as nibabel writes them."""
    root = tmp_path_factory.mktemp("scans") / "cmr"
    root.mkdir()
    rows, columns = np.mgrid[:90, :80] * 2.0
    for patient, centre in (("A1", 70.0), ("B2", 75.0), ("C3", 80.0)):
        for view in ("4ch", "sax"):
            radius = 26 + 7 * np.cos(2 * np.pi * np.arange(12) / 12)[:, None, None]
            distance = np.hypot(rows - 90, columns - centre)
            frames = 200 + 600 / (1 + np.exp((distance - radius) / 1.5))
            stored = frames.astype(np.int16).transpose(2, 1, 0)[:, :, None]
            image = nib.Nifti1Image(stored, np.diag([2.0, 2.0, 8.0, 1.0]))
            image.header.set_xyzt_units("mm", "sec")
            image.header["pixdim"][4] = 0.9 / 12
            nib.save(image, root / f"{patient}_{view}.nii.gz")
    (root / "C3_4ch.nii.gz").write_bytes(gzip.compress(b"torn"))
    return root


@pytest.fixture
def both(tmp_path, scans, write_record):
    ecg = tmp_path / "ecg"
    for k, patient in enumerate(("A1", "B2", "D4")):
        write_record(ecg, f"r{k}", seed=k, comments=[f"<subject_id>: {patient}"])
    return {"ecg": ecg, "cmr": scans}


def test_pairs_of_both_modalities(both, run, tmp_path):
    summary = run(**both)
    out = tmp_path / "prepared"
    assert summary.items == {"cmr partly": 1, "cmr used": 2, "ecg used": 3}
    assert (summary.patients, summary.studies, summary.pairs) == (4, 4, 2)
    assert summary.views == {"cine_4ch": 2, "cine_sax": 3} and not summary.copies.extra
    table = read_manifest(out / "manifest.parquet", out).table
    assert [(bool(r.ecg), bool(r.cine_4ch), bool(r.cine_sax)) for r in table.itertuples()].count(
        (True, True, True)
    ) == 2
    assert run(**both).new == 0


def test_neutral_cines_hold_the_pixels_and_the_size(both, run, scans, tmp_path):
    run(**both)
    out = tmp_path / "prepared"
    source = read_nifti(scans / "A1_4ch.nii.gz")
    names = read_manifest(out / "manifest.parquet", out).table["cine_4ch"]
    cines = [read_nifti(out / name) for name in names if name]
    same = [c for c in cines if np.array_equal(c.frames, source.frames)]
    assert len(same) == 1 and same[0].pixel_mm == pytest.approx(source.pixel_mm)
    assert same[0].cycle_s == pytest.approx(0.9, abs=1e-3)
    header = nib.load(out / names[names != ""].iloc[0]).header
    assert bytes(header["descrip"]).strip(b"\0") == b"" == bytes(header["db_name"]).strip(b"\0")


def test_one_modality_can_be_brought_up_to_date_alone(both, run):
    run(**both)
    again = run(ecg=both["ecg"])
    assert (again.new, again.gone, again.studies, again.pairs) == (0, 0, 4, 2)
    (both["ecg"] / "r0.hea").unlink()
    (both["ecg"] / "r0.dat").unlink()
    again = run(ecg=both["ecg"])
    assert (again.gone, again.studies, again.pairs) == (1, 4, 1)


def test_phenotypes_come_from_a_table(both, run, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("patient_id,lv_edv,lv_ef,age\nA1,150.5,61,93\nD4,,55,40\n")
    summary = run(**both, table=table)
    assert summary.table["recordings it names"] == 3
    out = tmp_path / "prepared"
    rows = read_manifest(out / "manifest.parquet", out).table.dropna(subset=["lv_ef"])
    assert sorted(rows["lv_ef"]) == [55, 61] and sorted(rows["age"]) == [40, 90]


@pytest.mark.parametrize("nobody", ["ANONYMOUS", "Unbekannt", "0000000", "N/A"])
def test_one_word_for_everybody_is_no_patient(run, tmp_path, write_record, scans, nobody):
    ecg = tmp_path / "ecg"
    for k, sex in enumerate("MFM"):
        said = [f"<age>: {40 + k}  <sex>: {sex}  <subject_id>: {nobody}"]
        write_record(ecg, f"r{k}", seed=k, comments=said)
    cmr = tmp_path / "cmr"
    cmr.mkdir()
    for view in ("4ch", "sax"):
        name = "unbekannt" if "/" in nobody else nobody
        shutil.copy(scans / f"A1_{view}.nii.gz", cmr / f"{name}_{view}.nii.gz")
    table = tmp_path / "table.csv"
    table.write_text(f"patient_id,lv_ef\n{nobody},55\n")
    summary = run(ecg=ecg, cmr=cmr, table=table)
    assert (summary.patients, summary.pairs, summary.patient_unknown) == (4, 0, 4)
    assert summary.known == {} and summary.contradicting_patients == 0


def test_an_id_of_two_sexes_is_counted(run, tmp_path, write_record):
    for k, sex in enumerate("MFMM"):
        said = [f"<sex>: {sex}  <subject_id>: P{k // 2}"]
        write_record(tmp_path / "ecg", f"r{k}", seed=k, comments=said)
    summary = run(ecg=tmp_path / "ecg")
    assert (summary.patients, summary.contradicting_patients) == (2, 1)


def test_ptbxl_with_its_own_table(shared_data, run, tmp_path):
    """Every patient in one split, both rates of a record once, no id or date anywhere."""
    source = shared_data / "ptbxl"
    summary = run(source)
    out = tmp_path / "prepared"
    with (source / "ptbxl_database.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert summary.items == {"ecg used": 383} and summary.same_again >= 30
    assert summary.patients == len({r["patient_id"] for r in rows})
    norm = sum("'NORM': " in r["scp_codes"] and "'NORM': 0.0" not in r["scp_codes"] for r in rows)
    table = read_manifest(out / "manifest.parquet", out).table
    assert len(table) <= len(rows) and abs(int(table["normal_ecg"].sum()) - norm) <= 3
    known = table["age"].dropna()
    assert (known == known.round()).all() and known.max() <= 90 and len(known) > 330
    salt = (out / "site_salt").read_text().strip()
    splits = [split_of(patient, salt=salt) for patient in set(table["patient_id"])]
    per_split = {name: splits.count(name) for name in SPLITS}
    assert per_split == summary.splits
    ids = {r["patient_id"] for r in rows} | {r["patient_id"].removesuffix(".0") for r in rows}
    assert not ids & set(table["patient_id"])
    for path in (out / "manifest.csv", out / "journal.sqlite"):
        assert b"1984-11" not in path.read_bytes()
    with Journal(out, mark=Salt(salt).mark) as journal:
        years = {o.day // 365.25 for o in journal.rows() if o.day is not None}
    assert len(years) > 60  # 1984 to 2001, moved by up to a century


def test_one_record_through_two_archives_is_found_to_be_one(shared_data, run, tmp_path):
    """CinC's HR00002 is PTB-XL's record 2 at 500 Hz."""
    for source in (shared_data / "cinc2021" / "ptb-xl", shared_data / "ptbxl" / "records500"):
        for file in sorted(source.rglob("*"))[:12]:
            if file.is_file():
                place = tmp_path / "both" / source.name / file.name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(file.read_bytes())
    summary = run(tmp_path / "both")
    assert summary.copies.across_patients == 4  # no table says that they are one patient
    assert summary.patient_unknown == summary.items["ecg used"]


@pytest.mark.parametrize("prefix", ["", "ecg/"])
def test_paths_of_a_table_start_at_the_folder_or_at_the_table(
    both, run, write_record, tmp_path, prefix
):
    table = tmp_path / "table.csv"
    write_record(both["ecg"], "r2", seed=2)  # no patient but the name of the file: the table's row
    names = ["x", "y", "r2"]
    rows = [f"{patient},{prefix}r{k}.hea,{50 + k},1,x" for k, patient in enumerate(names)]
    table.write_text("patient_id,ecg,lv_edv,heart_failure,ward\n" + "\n".join(rows) + "\n")
    summary = run(**both, table=table)
    assert summary.patient_unknown == 0 and summary.unused_columns == ("column 5",)
    out = tmp_path / "prepared"
    found = read_manifest(out / "manifest.parquet", out).table
    assert sorted(found["lv_edv"].dropna()) == [50.0, 51.0, 52.0]
    assert found["heart_failure"].sum() == 3
