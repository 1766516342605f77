"""Write the folder of a virtual hospital, exactly as a real one would hold it.

WFDB records with the device's own rate, gain and lead names, NIfTI cines with their true affine,
one manifest. A patient's files depend on (preset, seed, index) only: not on how many patients there
are, nor on the number of workers.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import shutil
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from cardionets_core.cohort import COHORT_VERSION
from cardionets_core.cohort.ecg_file import write_ecg
from cardionets_core.cohort.gaps import DISEASE_COLUMNS, Gaps, draw_gaps
from cardionets_core.cohort.patient import Cine, VirtualPatient, open_streams, simulate_patient
from cardionets_core.cohort.sites import Missing, SitePreset, find_preset
from cardionets_core.errors import ConfigError
from cardionets_core.vocabulary import (
    COHORT_DISCLAIMER,
    COVARIATES,
    PHENOTYPE_NAMES,
    VIEWS,
)

COLUMNS = (
    "patient_id",
    "ecg",
    *(f"cine_{view}" for view in VIEWS),
    *COVARIATES,
    *PHENOTYPE_NAMES,
    *DISEASE_COLUMNS,
)
"""Columns of the manifest, in order."""
_IMAGE_TOP = 400
"""Stored intensity of the brightest half percent."""

_GZIP = 31
"""zlib's window bits for a gzip file (without a time stamp: same patient, same bytes)."""

Row = dict[str, str]


@dataclass(frozen=True)
class CohortSummary:
    """What was written.

    Attributes:
        folder: the site's folder.
        preset: letter of the preset.
        patients: rows of the manifest.
        with_cine: rows with at least one cine.
        diseases: present cases per disease column.
        seconds: wall time.
    """

    folder: Path
    preset: str
    patients: int
    with_cine: int
    diseases: dict[str, int]
    seconds: float


@dataclass(frozen=True)
class _Job:
    """One patient to write; travels to a worker process (which has the presets itself)."""

    preset: str
    missing: Missing
    seed: int
    index: int
    folder: Path
    ecg_only: bool
    cmr_only: bool


def write_site(
    preset: str,
    *,
    patients: int,
    seed: int,
    out: Path,
    ecg_only: bool = False,
    cmr_only: bool = False,
    workers: int = 1,
    first: int = 0,
    progress: Callable[[int], None] | None = None,
    missing: Missing | None = None,
) -> CohortSummary:
    """Write a virtual hospital of `patients` patients into the new folder `out`.

    Args:
        preset: letter of a site preset.
        patients: how many, at least 1.
        seed: not negative; with `preset` it fixes every patient.
        out: folder that does not exist yet or is empty; appears when all is written.
        ecg_only: no cines; the table keeps its phenotypes (as from reports of another hospital).
        cmr_only: no ECGs, as an imaging centre; every patient was scanned.
        workers: processes.
        first: index of the first patient.
        progress: called with the number of patients written so far.
        missing: rates of missing data instead of the preset's.

    Raises:
        ConfigError: unknown preset, a number out of range, a folder that is in use, or a hospital
            without ECGs and without cines.
    """
    site = find_preset(preset)
    if ecg_only and cmr_only:
        raise ConfigError("ecg_only and cmr_only leave no records at all; choose one of them.")
    _check(patients=patients, seed=seed, workers=workers, first=first, out=out)
    started = time.monotonic()
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    gaps = site.missing if missing is None else missing
    jobs = [
        _Job(preset, gaps, seed, first + k, partial, ecg_only, cmr_only) for k in range(patients)
    ]
    folders = [name for name, left_out in (("ecg", cmr_only), ("cmr", ecg_only)) if not left_out]
    try:
        for name in folders:
            (partial / name).mkdir(parents=True)
        rows = _write_all(jobs, workers, progress)
        _write_manifest(partial / "manifest.csv", rows)
        (partial / "README.txt").write_text(_read_me(site, patients, seed, first), "utf-8")
        if out.is_dir():
            out.rmdir()
        partial.replace(out)
    except OSError as error:
        raise ConfigError(
            f"{out} cannot be written: {error.strerror}. Name a folder on a disk with room."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return _summarise(out, preset, rows, time.monotonic() - started)


def _check(*, patients: int, seed: int, workers: int, first: int, out: Path) -> None:
    for name, value, least in (
        ("patients", patients, 1),
        ("seed", seed, 0),
        ("workers", workers, 1),
        ("first", first, 0),
    ):
        if value < least:
            raise ConfigError(f"{name} is {value}; it must be at least {least}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not empty. Name a new folder, or remove this one first.")


def _write_all(jobs: list[_Job], workers: int, progress: Callable[[int], None] | None) -> list[Row]:
    rows = []
    for row in _run(jobs, min(workers, len(jobs))):
        rows.append(row)
        if progress is not None:
            progress(len(rows))
    return rows


def _run(jobs: list[_Job], workers: int) -> Iterator[Row]:
    if workers == 1:
        yield from map(_write_patient, jobs)
        return
    # spawn: a forked child of a process with threads (torch, BLAS) may hang
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context)
    try:
        yield from pool.map(_write_patient, jobs, chunksize=max(1, min(16, len(jobs) // workers)))
    finally:
        pool.shutdown(cancel_futures=True)


def _write_patient(job: _Job) -> Row:
    """Simulate one patient, write the files, return the row of the manifest."""
    site = find_preset(job.preset)
    streams = open_streams(site, job.seed, job.index)
    gaps = draw_gaps(job.missing, streams.files)
    unscanned = gaps.cmr and not job.cmr_only
    patient = simulate_patient(site, streams, with_cmr=not (job.ecg_only or unscanned))
    name = f"{job.preset}{job.index + 1:06d}"
    row = {"patient_id": name}
    if not job.cmr_only:
        _write_ecg(patient, site, gaps, folder=job.folder / "ecg", name=name)
        row["ecg"] = f"ecg/{name}.hea"
    for view, cine in patient.cines.items():
        if view != gaps.view:
            row[f"cine_{view}"] = f"cmr/{name}_{view}.nii.gz"
            _write_cine(cine, job.folder / row[f"cine_{view}"])
    cells = _cells(patient, table=not unscanned)
    return row | {key: text for key, text in cells.items() if key not in gaps.cells}


def _write_ecg(
    patient: VirtualPatient, site: SitePreset, gaps: Gaps, *, folder: Path, name: str
) -> None:
    ecg = patient.ecg.copy()
    if gaps.lead is not None:
        ecg[gaps.lead] = 0.0
    person = patient.heart.person
    comments = (f"Age: {person.age:.0f}", f"Sex: {'M' if person.sex else 'F'}")
    write_ecg(ecg, site.device, folder=folder, name=name, comments=comments)
    if gaps.broken:
        _tear(folder / f"{name}.dat")


def _write_cine(cine: Cine, path: Path) -> None:
    """Write a cine as int16 NIfTI (column, row, 1, phase); zooms[3] is seconds per phase."""
    top = float(np.percentile(cine.frames[0], 99.5))
    stored = np.clip(np.rint(cine.frames * (_IMAGE_TOP / top)), 0, 32767).astype(np.int16)
    image = nib.Nifti1Image(stored.transpose(2, 1, 0)[:, :, None], cine.plane.affine())
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((*image.header.get_zooms()[:3], cine.phase_s))
    # noise has no repeats to look for: Huffman coding alone is three times faster, as small
    packer = zlib.compressobj(1, wbits=_GZIP, strategy=zlib.Z_HUFFMAN_ONLY)
    path.write_bytes(packer.compress(image.to_bytes()) + packer.flush())


def read_cine(path: Path) -> NDArray[np.float32]:
    """Read back what `write_site` wrote: frames [phases, rows, columns]."""
    stored = np.asarray(nib.load(path).dataobj)[:, :, 0]
    return stored.transpose(2, 1, 0).astype(np.float32)


def _cells(patient: VirtualPatient, *, table: bool) -> Row:
    """Covariates, phenotypes (unless there was no CMR at all) and diseases as text."""
    person, heart = patient.heart.person, patient.heart
    cells = {
        "age": f"{person.age:.0f}",
        "sex": str(person.sex),
        "height_cm": f"{person.height_cm:.0f}",
        "weight_kg": f"{person.weight_kg:.1f}",
    }
    if table:
        cells |= {name: f"{value:.4g}" for name, value in patient.phenotypes.items()}
    present = {
        "hypertrophic_cardiomyopathy": heart.diagnosis == "hcm",
        "dilated_cardiomyopathy": heart.diagnosis == "dcm",
        "left_ventricular_hypertrophy": heart.diagnosis == "lvh",
        "myocardial_infarction": heart.diagnosis == "mi",
        "pulmonary_hypertension": heart.diagnosis == "ph",
        "atrial_fibrillation": heart.af,
        "left_bundle_branch_block": heart.lbbb,
        "right_bundle_branch_block": heart.rbbb,
        "conduction_disturbance": heart.lbbb or heart.rbbb or heart.lafb,
        "hypertrophy": heart.diagnosis in ("lvh", "hcm"),
    }
    return cells | {name: str(int(present[name])) for name in DISEASE_COLUMNS}


def _tear(path: Path) -> None:
    """Cut a file in half, as an interrupted copy would."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _write_manifest(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _read_me(site: SitePreset, patients: int, seed: int, first: int) -> str:
    return (
        f"Virtual hospital {site.name}: {site.title}.\n"
        f"{patients} virtual patients (from number {first + 1}), seed {seed}, "
        f"cohort version {COHORT_VERSION}.\n"
        f"{COHORT_DISCLAIMER}\n\n"
        "manifest.csv  one row per patient; empty cells are missing\n"
        "ecg/          WFDB records as the ECG device stored them\n"
        "cmr/          NIfTI cines, four-chamber and mid short axis, first phase at end-diastole\n"
    )


def _summarise(folder: Path, preset: str, rows: list[Row], seconds: float) -> CohortSummary:
    cines = [any(row.get(f"cine_{view}") for view in VIEWS) for row in rows]
    present = Counter(name for row in rows for name in DISEASE_COLUMNS if row.get(name) == "1")
    return CohortSummary(
        folder=folder,
        preset=preset,
        patients=len(rows),
        with_cine=sum(cines),
        diseases={name: present[name] for name in DISEASE_COLUMNS},
        seconds=seconds,
    )
