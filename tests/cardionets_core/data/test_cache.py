import csv
import dataclasses
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from cardionets_core.data import cache as cache_module
from cardionets_core.data.cache import KEPT, open_cache
from cardionets_core.data.cache_folders import forget_files, sweep
from cardionets_core.data.cine_transforms import prepare_cine
from cardionets_core.data.cmr import read_nifti
from cardionets_core.data.ecg import read_wfdb
from cardionets_core.data.manifest import FILE_COLUMNS, read_manifest
from cardionets_core.data.transforms import prepare_ecg
from cardionets_core.errors import DataError
from cardionets_core.model_config import CineSpec, EcgSpec

ECG, CINE = EcgSpec(), CineSpec()


@pytest.fixture
def manifest(paired_site):
    return read_manifest(paired_site / "manifest.csv", paired_site)


def open_in(folder, manifest, *, ecg=ECG, cine=CINE, salt="s", **how):
    return open_cache(manifest, ecg, cine, folder, salt=salt, **how)


def test_the_cache_holds_what_the_transforms_make(tmp_path, manifest, paired_site):
    arrays = open_in(tmp_path / "cache", manifest)
    assert arrays.ecg.shape == (14, 12, 1000) and arrays.ecg.dtype == np.float16
    assert arrays.cine.shape == (14, 2, 8, 64, 64) and arrays.cine.dtype == np.uint8
    for k in (0, 6, 13):
        truth = prepare_ecg(read_wfdb(paired_site / "ecg" / f"s{k:02d}.hea"), ECG)
        np.testing.assert_allclose(arrays.ecg[k], truth, rtol=5e-4, atol=1e-4)
        for v, view in enumerate(CINE.views):
            volume = read_nifti(paired_site / "cmr" / f"s{k:02d}_{view}.nii.gz")
            np.testing.assert_array_equal(arrays.cine[k, v], prepare_cine(volume, CINE))


def test_masks_and_quarantine(tmp_path, manifest):
    arrays = open_in(tmp_path / "cache", manifest)
    has_ecg, has_cine = arrays.lead_mask.any(axis=1), arrays.view_mask
    assert np.flatnonzero(~has_ecg).tolist() == [1, 7]
    assert np.argwhere(~has_cine).tolist() == [[2, 0], [2, 1], [4, 1]]
    assert not arrays.ecg[7].any() and not arrays.cine[2].any()
    assert arrays.ecg_samples[[0, 1, 6, 7]].tolist() == [1000, 0, 700, 0]
    (bad,) = arrays.quarantine
    assert (bad.row, bad.column, bad.code) == (9, "ecg", "truncated")
    with (tmp_path / "cache" / "quarantine.csv").open() as file:
        assert list(csv.reader(file)) == [["row", "column", "code"], ["9", "ecg", "truncated"]]


def test_files_that_vanish_or_lie_are_quarantined(tmp_path, paired_site):
    manifest = read_manifest(paired_site / "manifest.csv", paired_site)
    (paired_site / "ecg" / "s00.hea").unlink()
    header = paired_site / "ecg" / "s03.hea"
    header.write_text(header.read_text().replace("s03.dat", "../s03.dat"))
    (paired_site / "cmr" / "s05_sax.nii.gz").write_bytes(b"torn")
    arrays = open_in(tmp_path / "cache", manifest)
    found = {(q.row, q.column, q.code) for q in arrays.quarantine}
    assert found == {
        (2, "ecg", "missing_file"),
        (5, "ecg", "path_escape"),
        (7, "cine_sax", "header"),
        (9, "ecg", "truncated"),
    }
    assert arrays.lead_mask.any(axis=1).sum() == 10


def test_a_second_opening_builds_nothing(tmp_path, manifest):
    calls: list[int] = []
    first = open_in(tmp_path / "cache", manifest, progress=calls.append)
    assert calls == list(range(1, 15))
    again = open_in(tmp_path / "cache", manifest, progress=calls.append)
    assert len(calls) == 14 and again.key == first.key and again.quarantine == first.quarantine
    np.testing.assert_array_equal(again.ecg, first.ecg)
    left = sorted(p.name for p in (tmp_path / "cache").iterdir())
    assert left == sorted([first.key, "quarantine.csv"])


def test_workers_do_not_change_the_arrays(tmp_path, manifest):
    one = open_in(tmp_path / "one", manifest)
    two = open_in(tmp_path / "two", manifest, workers=2)
    assert one.key == two.key and one.quarantine == two.quarantine
    for name in ("ecg", "ecg_samples", "lead_mask", "cine", "view_mask"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_whatever_matters_changes_the_key(tmp_path, paired_site):
    def key(ecg=ECG, cine=CINE, salt="s"):
        manifest = read_manifest(paired_site / "manifest.csv", paired_site)
        return open_in(tmp_path / "cache", manifest, ecg=ecg, cine=cine, salt=salt).key

    keys = [key(), key(salt="t")]
    keys += [key(ecg=dataclasses.replace(ECG, highpass_hz=0.5))]
    keys += [key(cine=dataclasses.replace(CINE, pixel_mm=2.0))]
    file = paired_site / "ecg" / "s00.hea"
    file.write_text(file.read_text() + "# exported again\n")
    keys += [key()]
    table = paired_site / "manifest.csv"
    table.write_text(table.read_text() + "p99,99,40,1,,,,ecg/s00.hea,,\n")
    keys += [key()]
    assert len(set(keys)) == len(keys)
    assert key() == keys[-1]


@pytest.fixture
def prepared(monkeypatch):
    """The rows that were prepared anew."""
    rows: list[int] = []
    original = cache_module.prepare_study

    def count(study, **how):
        rows.append(study.index)
        return original(study, **how)

    monkeypatch.setattr(cache_module, "prepare_study", count)
    return rows


def test_ten_new_studies_cost_ten_studies(tmp_path, paired_site, prepared):
    table = paired_site / "manifest.csv"
    first = open_in(tmp_path / "cache", read_manifest(table, paired_site))
    assert sorted(prepared) == list(range(14))
    prepared.clear()
    lines = table.read_text().splitlines()
    new = "p99,99,40,1,,,,ecg/s00.hea,,"
    table.write_text("\n".join([lines[0], new, *lines[1:]]) + "\n")
    second = open_in(tmp_path / "cache", read_manifest(table, paired_site))
    assert prepared == [0]
    np.testing.assert_array_equal(second.ecg[1:], first.ecg)
    np.testing.assert_array_equal(second.cine[1:], first.cine)
    np.testing.assert_array_equal(second.lead_mask[1:], first.lead_mask)
    np.testing.assert_array_equal(second.ecg_samples[1:], first.ecg_samples)
    # what was refused stays refused, under its new row number, without being read again
    (bad,) = second.quarantine
    assert (bad.row, bad.column, bad.code) == (10, "ecg", "truncated")
    whole = open_in(tmp_path / "other", read_manifest(table, paired_site))
    for name in ("ecg", "ecg_samples", "lead_mask", "cine", "view_mask"):
        np.testing.assert_array_equal(getattr(second, name), getattr(whole, name))


def test_other_labels_need_no_new_arrays(tmp_path, paired_site, prepared):
    table = paired_site / "manifest.csv"
    first = open_in(tmp_path / "cache", read_manifest(table, paired_site))
    prepared.clear()
    lines = table.read_text().splitlines()
    age = lines[0].split(",").index("age")
    cells = lines[1].split(",")
    cells[age] = "77"
    table.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")
    again = read_manifest(table, paired_site)
    assert open_in(tmp_path / "cache", again).key == first.key and prepared == []


def test_signals_that_changed_are_read_again(tmp_path, manifest, paired_site, prepared):
    first = open_in(tmp_path / "cache", manifest)
    prepared.clear()
    data = paired_site / "ecg" / "s03.dat"
    data.write_bytes(data.read_bytes()[::-1])
    os.utime(data, ns=(1, 1))
    second = open_in(tmp_path / "cache", manifest)
    assert prepared == [3] and second.key != first.key


def test_old_caches_do_not_fill_the_disk(tmp_path, manifest, paired_site):
    keys = []
    for k in range(KEPT + 2):
        os.utime(paired_site / "ecg" / "s00.hea", ns=(k + 1, k + 1))
        keys.append(open_in(tmp_path / "cache", manifest).key)
        os.utime(tmp_path / "cache" / keys[-1], ns=(k + 1, k + 1))
    left = {p.name for p in (tmp_path / "cache").iterdir() if p.is_dir()}
    assert left == set(keys[-KEPT:])


def test_a_site_without_cines_stores_none(tmp_path, paired_site, write_manifest):
    rows = [{"patient_id": f"p{k}", "ecg": f"ecg/s{k:02d}.hea"} for k in (0, 3)]
    path = write_manifest(paired_site / "ecg_only.csv", rows)
    arrays = open_in(tmp_path / "cache", read_manifest(path, paired_site))
    assert arrays.cine is None and not arrays.view_mask.any()
    assert not (tmp_path / "cache" / arrays.key / "cine.npy").exists()


def test_a_site_without_ecgs_stores_none(tmp_path, paired_site, write_manifest):
    rows = [{"patient_id": "p0", "cine_sax": "cmr/s00_sax.nii.gz"}]
    path = write_manifest(paired_site / "cmr_only.csv", rows)
    arrays = open_in(tmp_path / "cache", read_manifest(path, paired_site))
    assert arrays.ecg is None and arrays.view_mask.tolist() == [[False, True]]


def test_a_build_that_dies_leaves_nothing_behind(tmp_path, manifest):
    def die(done):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_in(tmp_path / "cache", manifest, progress=die)
    assert list((tmp_path / "cache").iterdir()) == []
    assert len(open_in(tmp_path / "cache", manifest)) == 14


DYING = """
import os, sys
from pathlib import Path
from cardionets_core.data.cache import open_cache
from cardionets_core.data.manifest import read_manifest
from cardionets_core.model_config import CineSpec, EcgSpec

def die(done):
    if done == 5:
        os.kill(os.getpid(), 9)

site, folder = map(Path, sys.argv[1:])
manifest = read_manifest(site / "manifest.csv", site)
open_cache(manifest, EcgSpec(), CineSpec(), folder, salt="s", progress=die)
"""


def test_what_a_killed_build_leaves_is_swept(tmp_path, manifest, paired_site):
    folder = tmp_path / "cache"
    died = subprocess.run([sys.executable, "-c", DYING, paired_site, folder])
    assert died.returncode == -signal.SIGKILL
    (left,) = folder.iterdir()
    assert left.name.startswith(".building-")
    (folder / f"{left.name}.csv").write_text("row,column,code\n")
    (folder / ".building-earlier").mkdir()  # as a version without locks left them
    key = open_in(folder, manifest).key
    assert {p.name for p in folder.iterdir()} == {key, "quarantine.csv"}


def test_what_is_being_built_is_not_swept(tmp_path, manifest):
    seen = []

    def sweep_beside(done):
        if done == 3:
            sweep(tmp_path / "cache")
            seen.extend((tmp_path / "cache").glob(".building-*/ecg.npy"))

    open_in(tmp_path / "cache", manifest, progress=sweep_beside)
    assert len(seen) == 1


def names(manifest):
    return {n for column in FILE_COLUMNS for n in manifest.table[column] if n}


def test_what_is_gone_stays_in_no_cache(tmp_path, paired_site):
    """Neither in an older cache of the same specs nor in one of another model."""
    folder, table = tmp_path / "cache", paired_site / "manifest.csv"
    whole, salted = read_manifest(table, paired_site), {"salt": "t"}
    before = [open_in(folder, whole, **how).key for how in ({}, salted)]
    assert forget_files(folder, names(whole)) == 0
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    fewer = read_manifest(table, paired_site)
    after = open_in(folder, fewer).key
    assert forget_files(folder, names(fewer)) == 2
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {after} and after not in before
    assert forget_files(folder, names(fewer)) == 0


def test_files_that_are_put_together_anew_are_not_gone(tmp_path, paired_site):
    table = paired_site / "manifest.csv"
    first = read_manifest(table, paired_site)
    key = open_in(tmp_path / "cache", first).key
    table.write_text(table.read_text() + "p99,99,40,1,,,,ecg/s00.hea,cmr/s05_4ch.nii.gz,\n")
    assert forget_files(tmp_path / "cache", names(read_manifest(table, paired_site))) == 0
    assert (tmp_path / "cache" / key).is_dir()


@pytest.mark.parametrize("damage", ["torn", "absent", "of an earlier version"])
def test_a_cache_that_does_not_say_what_it_holds_goes(tmp_path, manifest, damage):
    key = open_in(tmp_path / "cache", manifest).key
    masks = tmp_path / "cache" / key / "masks.npz"
    if damage == "torn":
        masks.write_bytes(masks.read_bytes()[:200])
    elif damage == "absent":
        masks.unlink()
    else:
        np.savez(masks, row_keys=np.zeros((14, 16), np.uint8))
    assert forget_files(tmp_path / "cache", names(manifest)) == 1
    assert not (tmp_path / "cache" / key).exists()
    assert (tmp_path / "cache" / "quarantine.csv").exists()


def test_two_builders_at_once_agree(tmp_path, manifest):
    """The second finishes while the first is still at work; both get the same arrays."""
    others = []

    def build_too(done):
        if done == 3:
            others.append(open_in(tmp_path / "cache", manifest))

    mine = open_in(tmp_path / "cache", manifest, progress=build_too)
    assert mine.key == others[0].key
    np.testing.assert_array_equal(mine.ecg, others[0].ecg)
    assert len([p for p in (tmp_path / "cache").iterdir() if p.is_dir()]) == 1


def test_no_identifier_and_no_file_name_is_written(tmp_path, paired_site, write_manifest):
    secret = "canary7731"
    for old in paired_site.joinpath("ecg").glob("s00.*"):
        new = old.with_name(old.name.replace("s00", f"{secret}"))
        new.write_bytes(old.read_bytes().replace(b"s00", secret.encode()))
    rows = [
        {"patient_id": f"{secret}p", "ecg": f"ecg/{secret}.hea"},
        {"patient_id": "b", "ecg": "ecg/s07.hea"},
    ]
    path = write_manifest(paired_site / "m.csv", rows)
    arrays = open_in(tmp_path / "cache", read_manifest(path, paired_site), salt=f"{secret}salt")
    assert arrays.lead_mask[0].all()
    for file in (tmp_path / "cache").rglob("*"):
        assert secret not in file.name
        assert not file.is_file() or secret.encode() not in file.read_bytes()


def test_errors(tmp_path, manifest):
    with pytest.raises(DataError, match="Unknown cine view '2ch'"):
        open_in(tmp_path / "cache", manifest, cine=CineSpec(views=("2ch",)))
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot be written"):
        open_in(tmp_path / "file", manifest)
