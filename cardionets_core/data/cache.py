"""The prepared arrays of a site: built once, memory-mapped after.

ECGs are kept as float16: its rounding is 0.05 % of the value, below one bit of the devices (5 uV)
for voltages up to 10 mV, and a site takes half the disk and half the page reads. Cines are kept as
the 8-bit grey values that they are. Rows without a file are holes in sparse files.

The key of a cache is a digest of the manifest, the specs, the salt, the size and time of every
referenced file and `CACHE_VERSION`: change one of them, and a new cache is built.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from cardionets_core.config_tree import digest, to_mapping
from cardionets_core.data.manifest import FILE_COLUMNS, Manifest, row_number
from cardionets_core.data.prepare import PreparedStudy, StudyFiles, prepare_study
from cardionets_core.errors import DataError
from cardionets_core.model_config import CineSpec, EcgSpec
from cardionets_core.vocabulary import LEADS, VIEWS

CACHE_VERSION = 1
"""Raised with every change that alters prepared arrays."""


@dataclass(frozen=True)
class Quarantined:
    """A file that could not be used: manifest row number, column, reason code."""

    row: int
    column: str
    code: str


@dataclass(frozen=True, eq=False)
class CachedArrays:
    """The arrays of a site, one row per row of the manifest.

    Attributes:
        ecg: float16 [N, 12, record_samples] on disk; None where the site has no ECG.
        ecg_samples: int32 [N], samples that are signal and not padding; 0 without an ECG.
        lead_mask: bool [N, 12].
        cine: uint8 [N, V, phases, size, size] on disk; None where the site has no cine.
        view_mask: bool [N, V].
        quarantine: the files that could not be used.
        key: digest of everything that the arrays depend on.
    """

    ecg: NDArray[np.float16] | None
    ecg_samples: NDArray[np.int32]
    lead_mask: NDArray[np.bool_]
    cine: NDArray[np.uint8] | None
    view_mask: NDArray[np.bool_]
    quarantine: tuple[Quarantined, ...]
    key: str

    def __len__(self) -> int:
        return len(self.ecg_samples)


def open_cache(
    manifest: Manifest,
    spec_ecg: EcgSpec,
    spec_cine: CineSpec,
    folder: Path,
    *,
    salt: str,
    progress: Callable[[int], None] | None = None,
    workers: int = 1,
) -> CachedArrays:
    """Return the site's arrays, building them first where they are not there yet.

    A file that cannot be used goes to `folder/quarantine.csv` (row number, column, reason code);
    the others go on.

    Args:
        manifest: the site's studies.
        spec_ecg: how records are prepared.
        spec_cine: how cines are prepared.
        folder: where caches lie; created if need be, readable by its owner only.
        salt: the site's secret; part of the key, so that caches of two sites never look alike.
        progress: called with the number of studies done, while building.
        workers: processes that prepare studies; the arrays do not depend on it.

    Raises:
        DataError: an unknown view, or a folder that cannot be written.
    """
    unknown = [view for view in spec_cine.views if view not in VIEWS]
    if unknown:
        raise DataError(f"Unknown cine view {unknown[0]!r}; known views: {', '.join(VIEWS)}.")
    key = _key(manifest, spec_ecg, spec_cine, salt)
    ready = folder / key
    if not ready.is_dir():
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            building = Path(tempfile.mkdtemp(prefix=".building-", dir=folder))
        except OSError as error:
            raise DataError(
                f"The cache folder {folder} cannot be written ({error.strerror}); "
                "choose another or correct its permissions."
            ) from None
        try:
            studies = _prepared(manifest, spec_ecg, spec_cine, workers)
            _build(building, manifest, spec_ecg, spec_cine, studies, progress)
            _publish(building, ready)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return _open(ready)


def _key(manifest: Manifest, spec_ecg: EcgSpec, spec_cine: CineSpec, salt: str) -> str:
    facts = hashlib.sha256()
    for part in (CACHE_VERSION, manifest.sha256, digest(spec_ecg), digest(spec_cine)):
        facts.update(f"{part}\n".encode())
    facts.update(hashlib.sha256(salt.encode()).digest())
    for column in FILE_COLUMNS:
        for name in manifest.table[column]:
            facts.update(_file_state(manifest.root, name) if name else b"-")
    return facts.hexdigest()[:32]


def _file_state(root: Path, name: str) -> bytes:
    try:
        state = os.stat(os.path.join(root, name))
    except OSError:
        return b"absent"
    return f"{state.st_size}:{state.st_mtime_ns};".encode()


def _prepared(
    manifest: Manifest, spec_ecg: EcgSpec, spec_cine: CineSpec, workers: int
) -> Iterator[PreparedStudy]:
    columns = [manifest.table[f"cine_{view}"] for view in spec_cine.views]
    studies = (
        StudyFiles(index, ecg, cines)
        for index, (ecg, *rest) in enumerate(zip(manifest.table["ecg"], *columns, strict=True))
        for cines in (tuple(rest),)
    )
    prepare = partial(prepare_study, root=manifest.root, ecg_spec=spec_ecg, cine_spec=spec_cine)
    if workers <= 1:
        yield from map(prepare, studies)
        return
    # spawn: a forked child of a process with threads (torch, gRPC) can hang
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(prepare, studies, chunksize=16)


def _build(
    folder: Path,
    manifest: Manifest,
    spec_ecg: EcgSpec,
    spec_cine: CineSpec,
    studies: Iterator[PreparedStudy],
    progress: Callable[[int], None] | None,
) -> None:
    count, views = len(manifest), len(spec_cine.views)
    side = spec_cine.size_px
    ecg = cine = None
    if (manifest.table["ecg"] != "").any():
        shape: tuple[int, ...] = (count, len(LEADS), spec_ecg.record_samples)
        ecg = open_memmap(folder / "ecg.npy", mode="w+", dtype=np.float16, shape=shape)
    if any((manifest.table[f"cine_{view}"] != "").any() for view in spec_cine.views):
        shape = (count, views, spec_cine.phases, side, side)
        cine = open_memmap(folder / "cine.npy", mode="w+", dtype=np.uint8, shape=shape)
    samples = np.zeros(count, dtype=np.int32)
    lead_mask = np.zeros((count, len(LEADS)), dtype=bool)
    view_mask = np.zeros((count, views), dtype=bool)
    refused: list[tuple[int, str, str]] = []
    for done, study in enumerate(studies, start=1):
        k = study.index
        if ecg is not None and study.ecg is not None and study.lead_mask is not None:
            ecg[k], samples[k], lead_mask[k] = study.ecg, study.ecg_samples, study.lead_mask
        for v, frames in enumerate(study.cines):
            if cine is not None and frames is not None:
                cine[k, v], view_mask[k, v] = frames, True
        refused += [(row_number(k), column, code) for column, code in study.refused]
        if progress is not None:
            progress(done)
    for array in (ecg, cine):
        if array is not None:
            array.flush()
    np.savez(folder / "masks.npz", samples=samples, lead_mask=lead_mask, view_mask=view_mask)
    _write_quarantine(folder / "quarantine.csv", refused)
    specs = {"version": CACHE_VERSION, "ecg": to_mapping(spec_ecg), "cine": to_mapping(spec_cine)}
    (folder / "spec.json").write_text(json.dumps(specs, indent=1))


def _write_quarantine(path: Path, refused: list[tuple[int, str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("row", "column", "code"))
        writer.writerows(refused)


def _publish(building: Path, ready: Path) -> None:
    """Rename the finished folder into place; whoever was faster wins, both built the same."""
    newest = building.parent / f"{building.name}.csv"
    shutil.copyfile(building / "quarantine.csv", newest)
    os.replace(newest, building.parent / "quarantine.csv")
    try:
        os.rename(building, ready)
    except OSError:
        if not ready.is_dir():
            raise


def _open(folder: Path) -> CachedArrays:
    with np.load(folder / "masks.npz") as masks:
        samples, lead_mask, view_mask = masks["samples"], masks["lead_mask"], masks["view_mask"]
    with (folder / "quarantine.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    quarantine = tuple(Quarantined(int(r["row"]), r["column"], r["code"]) for r in rows)
    return CachedArrays(
        ecg=_map(folder / "ecg.npy"),
        ecg_samples=samples,
        lead_mask=lead_mask,
        cine=_map(folder / "cine.npy"),
        view_mask=view_mask,
        quarantine=quarantine,
        key=folder.name,
    )


def _map(path: Path) -> Any:
    return np.load(path, mmap_mode="r") if path.exists() else None
