"""The prepared arrays of a site: built once, memory-mapped after.

ECGs are kept as float16: its rounding is 0.05 % of the value, below one bit of the devices (5 uV)
for voltages up to 10 mV, and a site takes half the disk and half the page reads. Cines are kept as
the 8-bit grey values that they are. Rows without a file are holes in sparse files.

The name of a cache is two digests. The first is of what is done to a study: both specs, the salt
and `CACHE_VERSION`. The second is of the rows: name, size and time of every file (in a prepared
site the name is the digest of the content). A new cache takes over the rows that an earlier one of
the same first digest holds, so ten new studies cost ten studies and not the whole archive.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cardionets_core.config_tree import digest, to_mapping
from cardionets_core.data.cache_files import (
    ArrayShapes,
    CachedArrays,
    CacheWriter,
    EarlierCache,
    Quarantined,
    read_arrays,
)
from cardionets_core.data.cache_folders import (
    KEPT,
    file_keys,
    finished,
    new_folder,
    publish,
    remove_old,
    sweep,
)
from cardionets_core.data.manifest import FILE_COLUMNS, Manifest
from cardionets_core.data.prepare import PreparedStudy, StudyFiles, prepare_study
from cardionets_core.errors import DataError
from cardionets_core.model_config import CineSpec, EcgSpec
from cardionets_core.vocabulary import VIEWS

__all__ = ["CACHE_VERSION", "KEPT", "CachedArrays", "Quarantined", "open_cache"]

CACHE_VERSION = 3
"""Raised with every change that alters prepared arrays or what a cache says of them."""

_DATA_SUFFIXES = ("", ".dat", ".mat")
"""A WFDB header names its signals; the usual place is the same name with one of these."""

_CHUNK = 16
_CHUNKS_AHEAD = 4
"""Studies per message to a worker, and messages per worker that may wait: memory stays flat."""


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
    """Return the site's arrays, building first what is not there yet.

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
    specs = _specs_key(spec_ecg, spec_cine, salt)
    keys = _row_keys(manifest, specs)
    ready = folder / f"{specs}-{hashlib.sha256(keys.tobytes()).hexdigest()[:16]}"
    sweep(folder)
    if not ready.is_dir():
        earlier = _earlier(folder, specs)
        with new_folder(folder) as building:
            studies = _studies(manifest, spec_ecg, spec_cine, keys, earlier, workers)
            writer = CacheWriter(building, _shapes(manifest, spec_ecg, spec_cine))
            for done, study in enumerate(studies, start=1):
                writer.put(study)
                if progress is not None:
                    progress(done)
            writer.close(keys, _file_keys(manifest, specs))
            _write_spec(building / "spec.json", spec_ecg, spec_cine)
            publish(building, ready)
            remove_old(folder, specs, keep=ready)
    return read_arrays(ready)


def _specs_key(spec_ecg: EcgSpec, spec_cine: CineSpec, salt: str) -> str:
    facts = hashlib.sha256()
    for part in (CACHE_VERSION, digest(spec_ecg), digest(spec_cine)):
        facts.update(f"{part}\n".encode())
    facts.update(hashlib.sha256(salt.encode()).digest())
    return facts.hexdigest()[:16]


def _row_keys(manifest: Manifest, specs: str) -> NDArray[np.uint8]:
    """Return uint8 [N, 16]: a digest of the files of each row."""
    keys = np.zeros((len(manifest), 16), dtype=np.uint8)
    columns = [manifest.table[column] for column in FILE_COLUMNS]
    for k, names in enumerate(zip(*columns, strict=True)):
        facts = hashlib.sha256(specs.encode())
        for name in names:
            facts.update(_file_state(manifest.root, name) if name else b"-")
        keys[k] = np.frombuffer(facts.digest()[:16], dtype=np.uint8)
    return keys


def _file_keys(manifest: Manifest, specs: str) -> NDArray[np.uint8]:
    return file_keys((n for column in FILE_COLUMNS for n in manifest.table[column]), specs)


def _file_state(root: Path, name: str) -> bytes:
    """Return the name, and size and time of the file and of the signals beside a header."""
    states = [name]
    path = os.path.join(root, name)
    stem = path.removesuffix(".hea")
    for place in [path] if stem == path else [path, *(stem + s for s in _DATA_SUFFIXES[1:])]:
        try:
            state = os.stat(place)
        except OSError:
            continue
        states.append(f"{state.st_size}:{state.st_mtime_ns}")
    return (";".join(states) + "\n").encode()


def _earlier(folder: Path, specs: str) -> EarlierCache | None:
    found = finished(folder, specs)
    return EarlierCache(found[0]) if found else None


def _shapes(manifest: Manifest, spec_ecg: EcgSpec, spec_cine: CineSpec) -> ArrayShapes:
    table, side = manifest.table, spec_cine.size_px
    return ArrayShapes(
        studies=len(manifest),
        ecg_samples=spec_ecg.record_samples,
        cine=(len(spec_cine.views), spec_cine.phases, side, side),
        has_ecg=bool((table["ecg"] != "").any()),
        has_cine=any((table[f"cine_{view}"] != "").any() for view in spec_cine.views),
    )


def _studies(
    manifest: Manifest,
    spec_ecg: EcgSpec,
    spec_cine: CineSpec,
    keys: NDArray[np.uint8],
    earlier: EarlierCache | None,
    workers: int,
) -> Iterator[PreparedStudy]:
    """Yield every study once: first those that an earlier cache holds, then the prepared ones."""
    columns = [manifest.table[f"cine_{view}"] for view in spec_cine.views]
    new: list[StudyFiles] = []
    for index, (ecg, *cines) in enumerate(zip(manifest.table["ecg"], *columns, strict=True)):
        study = earlier.study(keys[index].tobytes(), index) if earlier is not None else None
        if study is not None:
            yield study
        else:
            new.append(StudyFiles(index, ecg, tuple(cines)))
    prepare = partial(prepare_study, root=manifest.root, ecg_spec=spec_ecg, cine_spec=spec_cine)
    if workers <= 1 or len(new) <= _CHUNK:
        yield from map(prepare, new)
    else:
        yield from _in_processes(prepare, new, workers)


def _in_processes(
    prepare: Callable[[StudyFiles], PreparedStudy], studies: Iterable[StudyFiles], workers: int
) -> Iterator[PreparedStudy]:
    """Prepare studies in order, with a bounded number of them waiting (pool.map has no bound)."""
    waiting: deque[Future[list[PreparedStudy]]] = deque()
    todo = iter(studies)
    # spawn: a forked child of a process with threads (torch, gRPC) can hang
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        while chunk := list(islice(todo, _CHUNK)):
            waiting.append(pool.submit(_prepare_all, prepare, chunk))
            if len(waiting) >= workers * _CHUNKS_AHEAD:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _prepare_all(
    prepare: Callable[[StudyFiles], PreparedStudy], chunk: list[StudyFiles]
) -> list[PreparedStudy]:
    return [prepare(study) for study in chunk]


def _write_spec(path: Path, spec_ecg: EcgSpec, spec_cine: CineSpec) -> None:
    specs = {"version": CACHE_VERSION, "ecg": to_mapping(spec_ecg), "cine": to_mapping(spec_cine)}
    path.write_text(json.dumps(specs, indent=1))
