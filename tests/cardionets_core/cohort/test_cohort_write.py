"""A site's folder: readable by others, the same for the same seed, honest about what is missing."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import wfdb

from cardionets_core.cohort import COHORT_VERSION
from cardionets_core.cohort.ecg_file import read_ecg
from cardionets_core.cohort.patient import open_streams, simulate_patient
from cardionets_core.cohort.preview import preview
from cardionets_core.cohort.sites import PRESETS, Missing
from cardionets_core.cohort.write import COLUMNS, read_cine, write_site
from cardionets_core.errors import ConfigError, DataError
from cardionets_core.vocabulary import (
    COHORT_DISCLAIMER,
    COVARIATES,
    DISEASES,
    LEADS,
    PHENOTYPE_NAMES,
)

COMPLETE = Missing(cmr=0, view=0, label=0, lead=0)


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _digest(folder: Path, patient: str) -> dict[str, str]:
    files = [p for p in folder.rglob("*") if p.name.startswith(patient)]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cohort") / "three"
    write_site("B", patients=3, seed=4, out=out, missing=COMPLETE)
    return out


def test_wfdb_reads_the_records(three: Path) -> None:
    site = PRESETS["B"]
    patient = simulate_patient(site, open_streams(site, 4, 0), with_cmr=False)
    record = wfdb.rdrecord(str(three / "ecg" / "B000001"), physical=False)
    assert record.sig_name == [name.upper() for name in LEADS]
    assert record.units == ["uV"] * 12
    assert record.fs == 1000 and record.sig_len == 10000
    checks = [int(c) for c in record.checksum]
    assert [c % 65536 for c in record.calc_checksum()] == [c % 65536 for c in checks]
    physical = wfdb.rdrecord(str(three / "ecg" / "B000001")).p_signal.T
    np.testing.assert_allclose(physical, patient.ecg * 1000, atol=0.51)
    signal, rate = read_ecg(three / "ecg" / "B000001.hea")
    assert rate == 1000
    np.testing.assert_allclose(signal, patient.ecg, atol=0.00051)


@pytest.mark.parametrize(
    ("name", "unit", "gain", "second"),
    [
        ("A", "mV", 1000.0, "aVR"),
        ("C", "mV", 200.0, "avr"),
    ],
)
def test_devices_have_their_habits(
    tmp_path: Path, name: str, unit: str, gain: float, second: str
) -> None:
    write_site(name, patients=1, seed=1, out=tmp_path / "s", ecg_only=True, missing=COMPLETE)
    header = wfdb.rdheader(str(tmp_path / "s" / "ecg" / f"{name}000001"))
    assert header.units[0] == unit and header.adc_gain[0] == gain
    assert header.sig_name[3] == second


def test_nibabel_reads_the_cines_where_they_belong(three: Path) -> None:
    site = PRESETS["B"]
    patient = simulate_patient(site, open_streams(site, 4, 1))
    for view, cine in patient.cines.items():
        image = nib.load(three / "cmr" / f"B000002_{view}.nii.gz")
        assert image.shape == (96, 96, 1, 10)
        assert image.get_data_dtype() == np.int16
        assert image.header.get_xyzt_units() == ("mm", "sec")
        pixel = 1.6 * (1.15 if view == "4ch" else 1.0)
        assert image.header.get_zooms()[:2] == pytest.approx((pixel, pixel), rel=1e-5)
        assert image.header.get_zooms()[3] == pytest.approx(6 / patient.heart.heart_rate, rel=1e-5)
        # pixel (column 70, row 20) in RAS must be the plane's own point in LPS
        point = cine.plane.points().reshape(96, 96, 3)[20, 70] * [-1, -1, 1]
        np.testing.assert_allclose((image.affine @ [70, 20, 0, 1])[:3], point, atol=1e-3)
        stored = read_cine(three / "cmr" / f"B000002_{view}.nii.gz")
        assert np.corrcoef(stored.ravel(), cine.frames.ravel())[0, 1] > 0.999


def test_the_manifest_speaks_the_vocabulary(three: Path) -> None:
    rows = _rows(three)
    assert [row["patient_id"] for row in rows] == ["B000001", "B000002", "B000003"]
    files = {"patient_id", "ecg", "cine_4ch", "cine_sax"}
    assert set(rows[0]) == files | set(COVARIATES) | set(PHENOTYPE_NAMES) | {
        name for name in COLUMNS if name in DISEASES
    }
    for row in rows:
        for name in ("ecg", "cine_4ch", "cine_sax"):
            assert (three / row[name]).is_file()
        assert all(np.isfinite(float(row[name])) for name in PHENOTYPE_NAMES)
        assert row["sex"] in "01"
        assert all(row[name] in ("0", "1") for name in DISEASES if name in row)
    text = (three / "README.txt").read_text()
    assert COHORT_DISCLAIMER in text
    assert "seed 4" in text and f"cohort version {COHORT_VERSION}" in text


def test_phenotypes_in_the_manifest_are_the_patients_own(three: Path) -> None:
    site = PRESETS["B"]
    patient = simulate_patient(site, open_streams(site, 4, 2), with_cmr=False)
    for name, value in patient.phenotypes.items():
        assert float(_rows(three)[2][name]) == pytest.approx(value, rel=1e-3), name


def test_a_patient_depends_on_seed_and_index_only(three: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    write_site(
        "B", patients=5, seed=4, out=tmp_path / "five", missing=COMPLETE, workers=2,
        progress=seen.append,
    )  # fmt: skip
    assert seen == [1, 2, 3, 4, 5]
    for patient in ("B000001", "B000002", "B000003"):
        assert _digest(tmp_path / "five", patient) == _digest(three, patient)
    assert _rows(tmp_path / "five")[:3] == _rows(three)
    write_site("B", patients=1, seed=4, out=tmp_path / "third", missing=COMPLETE, first=2)
    assert _digest(tmp_path / "third", "B000003") == _digest(three, "B000003")
    write_site("B", patients=1, seed=5, out=tmp_path / "other", missing=COMPLETE)
    assert _digest(tmp_path / "other", "B000001") != _digest(three, "B000001")


def test_without_cmr_the_ecg_stays_the_same(three: Path, tmp_path: Path) -> None:
    summary = write_site(
        "B", patients=1, seed=4, out=tmp_path / "ecg", ecg_only=True, missing=COMPLETE
    )
    assert summary.with_cine == 0 and not (tmp_path / "ecg" / "cmr").exists()
    own = _digest(tmp_path / "ecg", "B000001")
    assert own.items() <= _digest(three, "B000001").items()
    row = _rows(tmp_path / "ecg")[0]
    assert row["cine_4ch"] == row["cine_sax"] == "" and row["lv_edv"]


def test_without_ecgs_the_cines_stay_the_same_and_everybody_was_scanned(
    three: Path, tmp_path: Path
) -> None:
    unscanned = Missing(cmr=1.0, view=0.0, label=0.0, lead=1.0, broken=1.0)
    summary = write_site(
        "B", patients=1, seed=4, out=tmp_path / "cmr", cmr_only=True, missing=unscanned
    )
    assert summary.with_cine == 1 and not (tmp_path / "cmr" / "ecg").exists()
    own = _digest(tmp_path / "cmr", "B000001")
    assert own and own.items() <= _digest(three, "B000001").items()
    assert _rows(tmp_path / "cmr")[0] == _rows(three)[0] | {"ecg": ""}
    assert preview(tmp_path / "cmr", tmp_path / "p.png").is_file()


def test_a_hospital_without_any_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose one"):
        write_site("B", patients=1, seed=4, out=tmp_path / "s", ecg_only=True, cmr_only=True)


def test_missing_data_comes_at_its_rate(tmp_path: Path) -> None:
    gaps = Missing(cmr=0.3, view=0.0, label=0.2, lead=1.0)
    summary = write_site("C", patients=30, seed=2, out=tmp_path / "s", missing=gaps)
    rows = _rows(tmp_path / "s")
    without = [row for row in rows if not row["cine_sax"]]
    assert 3 <= len(without) <= 16 and summary.with_cine == 30 - len(without)
    assert all(not row[name] for row in without for name in PHENOTYPE_NAMES)
    cells = [not row[name] for row in rows if row["cine_sax"] for name in PHENOTYPE_NAMES]
    assert 0.15 < np.mean(cells) < 0.25
    signal, _ = read_ecg(tmp_path / "s" / rows[0]["ecg"])
    assert (np.ptp(signal, axis=1) == 0).sum() == 1


def test_broken_files_come_only_when_asked_for(tmp_path: Path) -> None:
    gaps = Missing(broken=1.0)
    write_site("A", patients=1, seed=1, out=tmp_path / "s", ecg_only=True, missing=gaps)
    with pytest.raises(ValueError):
        wfdb.rdrecord(str(tmp_path / "s" / "ecg" / "A000001"))
    assert all(site.missing.broken == 0 for site in PRESETS.values())


def test_a_used_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        write_site("A", patients=1, seed=1, out=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_site("A", patients=1, seed=1, out=tmp_path / "file" / "s")


@pytest.mark.parametrize("wrong", [{"patients": 0}, {"seed": -1}, {"workers": 0}, {"first": -1}])
def test_numbers_out_of_range_are_named(tmp_path: Path, wrong: dict[str, int]) -> None:
    settings = {"patients": 1, "seed": 1, "workers": 1, "first": 0} | wrong
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        write_site("A", out=tmp_path / "s", **settings)  # type: ignore[arg-type]


def test_an_unknown_preset_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Unknown site preset 'Z'"):
        write_site("Z", patients=1, seed=1, out=tmp_path / "s")


def test_an_interrupted_writer_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_site("A", patients=2, seed=1, out=tmp_path / "s", ecg_only=True, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_the_preview_is_a_picture(three: Path, tmp_path: Path) -> None:
    from PIL import Image

    out = preview(three, tmp_path / "p.png", patients=2)
    with Image.open(out) as picture:
        assert picture.width > 800 and picture.height > 900
        assert np.asarray(picture).std() > 20


def test_a_preview_needs_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest\.csv"):
        preview(tmp_path, tmp_path / "p.png")
