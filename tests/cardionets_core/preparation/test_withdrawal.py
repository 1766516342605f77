"""A patient withdraws: nothing of the recordings is left in the prepared folder."""

import shutil

import numpy as np

from cardionets_core.data.cache import open_cache
from cardionets_core.data.manifest import read_manifest
from cardionets_core.model_config import CineSpec, EcgSpec


def caches_of(out):
    return sorted(p for p in (out / "cache").iterdir() if p.is_dir())


def test_arrays_of_a_patient_who_withdraws_are_in_no_cache(run, hospital, tmp_path):
    out = tmp_path / "prepared"
    run(hospital, presets=("tiny",))
    (tiny,) = caches_of(out)
    manifest = read_manifest(out / "manifest.parquet", out)
    other = EcgSpec(record_seconds=5.0)
    open_cache(manifest, other, CineSpec(), out / "cache", salt="another model")
    assert len(caches_of(out)) == 2
    shutil.rmtree(hospital / "pc")
    summary = run(hospital, presets=("tiny",))
    (left,) = caches_of(out)
    assert summary.gone == 1 and left != tiny
    assert len(np.load(left / "ecg.npy", mmap_mode="r")) == summary.studies


def test_without_a_model_too(run, hospital, tmp_path):
    run(hospital, presets=("tiny",))
    run(hospital)
    assert len(caches_of(tmp_path / "prepared")) == 1  # nobody withdrew
    shutil.rmtree(hospital / "pc")
    run(hospital)
    assert caches_of(tmp_path / "prepared") == []


def test_when_only_what_cannot_be_used_is_left(run, hospital, tmp_path):
    run(hospital, presets=("tiny",))
    for folder in hospital.glob("p?"):
        if folder.name != "pb":
            shutil.rmtree(folder)
    for file in (hospital / "pb").glob("rec*"):
        file.unlink()
    assert run(hospital, presets=("tiny",)).studies == 0
    assert caches_of(tmp_path / "prepared") == []
