"""The files of one cache: arrays as memory maps, masks, row keys, and what was refused."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from cardionets_core.data.manifest import row_number
from cardionets_core.data.prepare import PreparedStudy
from cardionets_core.vocabulary import LEADS


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


@dataclass(frozen=True)
class ArrayShapes:
    """Sizes of a cache; 0 where the site has no such files.

    Attributes:
        studies: rows N.
        ecg_samples: samples of a lead.
        cine: (views, phases, size, size).
        has_ecg, has_cine: whether any row names such a file.
    """

    studies: int
    ecg_samples: int
    cine: tuple[int, int, int, int]
    has_ecg: bool
    has_cine: bool


class CacheWriter:
    """Fills the arrays of a new cache row by row; rows that nobody fills are holes on disk.

    Args:
        folder: an empty folder.
        shapes: of the arrays.
    """

    def __init__(self, folder: Path, shapes: ArrayShapes) -> None:
        self._folder = folder
        count = shapes.studies
        self._ecg: Any = None
        self._cine: Any = None
        if shapes.has_ecg:
            shape: tuple[int, ...] = (count, len(LEADS), shapes.ecg_samples)
            self._ecg = open_memmap(folder / "ecg.npy", mode="w+", dtype=np.float16, shape=shape)
        if shapes.has_cine:
            shape = (count, *shapes.cine)
            self._cine = open_memmap(folder / "cine.npy", mode="w+", dtype=np.uint8, shape=shape)
        self._samples = np.zeros(count, dtype=np.int32)
        self._lead_mask = np.zeros((count, len(LEADS)), dtype=bool)
        self._view_mask = np.zeros((count, shapes.cine[0]), dtype=bool)
        self._refused: list[Quarantined] = []

    def put(self, study: PreparedStudy) -> None:
        """Write one prepared study into its row."""
        k = study.index
        if self._ecg is not None and study.ecg is not None and study.lead_mask is not None:
            self._ecg[k] = study.ecg
            self._samples[k], self._lead_mask[k] = study.ecg_samples, study.lead_mask
        for v, frames in enumerate(study.cines):
            if self._cine is not None and frames is not None:
                self._cine[k, v], self._view_mask[k, v] = frames, True
        self._refused += [Quarantined(row_number(k), c, code) for c, code in study.refused]

    def close(self, row_keys: NDArray[np.uint8], file_keys: NDArray[np.uint8]) -> None:
        """Flush the arrays and write masks, keys of rows [N, 16] and files, and the quarantine."""
        for array in (self._ecg, self._cine):
            if array is not None:
                array.flush()
        np.savez(
            self._folder / "masks.npz",
            samples=self._samples,
            lead_mask=self._lead_mask,
            view_mask=self._view_mask,
            row_keys=row_keys,
            file_keys=file_keys,
        )
        with (self._folder / "quarantine.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("row", "column", "code"))
            refused = sorted(self._refused, key=lambda q: (q.row, q.column))
            writer.writerows((q.row, q.column, q.code) for q in refused)


def read_arrays(folder: Path) -> CachedArrays:
    """Open the arrays of a finished cache."""
    with np.load(folder / "masks.npz") as masks:
        samples, lead_mask, view_mask = masks["samples"], masks["lead_mask"], masks["view_mask"]
    with (folder / "quarantine.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return CachedArrays(
        ecg=_map(folder / "ecg.npy"),
        ecg_samples=samples,
        lead_mask=lead_mask,
        cine=_map(folder / "cine.npy"),
        view_mask=view_mask,
        quarantine=tuple(Quarantined(int(r["row"]), r["column"], r["code"]) for r in rows),
        key=folder.name,
    )


class EarlierCache:
    """A finished cache of the same specs, whose rows a new one may take over.

    Args:
        folder: of the finished cache.
    """

    def __init__(self, folder: Path) -> None:
        self._arrays = read_arrays(folder)
        with np.load(folder / "masks.npz") as masks:
            keys = masks["row_keys"]
        self._row_of = {bytes(key): k for k, key in enumerate(keys)}
        self._refused: dict[int, list[tuple[str, str]]] = {}
        for q in self._arrays.quarantine:
            self._refused.setdefault(q.row, []).append((q.column, q.code))

    def study(self, key: bytes, index: int) -> PreparedStudy | None:
        """Return the study with this row key as row `index` of a new cache, if it is here."""
        k = self._row_of.get(key)
        if k is None:
            return None
        arrays = self._arrays
        has_ecg = arrays.ecg is not None and bool(arrays.lead_mask[k].any())
        cines = tuple(
            arrays.cine[k, v] if arrays.cine is not None and seen else None
            for v, seen in enumerate(arrays.view_mask[k])
        )
        return PreparedStudy(
            index=index,
            ecg=arrays.ecg[k] if has_ecg and arrays.ecg is not None else None,
            ecg_samples=int(arrays.ecg_samples[k]),
            lead_mask=arrays.lead_mask[k] if has_ecg else None,
            cines=cines,
            refused=tuple(self._refused.get(row_number(k), ())),
        )


def _map(path: Path) -> Any:
    return np.load(path, mmap_mode="r") if path.exists() else None
