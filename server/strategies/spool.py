"""The updates of one round on disk, so that rules that need all of them need little memory.

One file per site and part: its floating arrays, flat, in the order of their names. Only this round
reads them; a crash leaves files that the next round removes.
"""

from __future__ import annotations

import hashlib
import shutil
from math import prod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from cardionets_core.packing import Arrays, Groups

BLOCK = 2**16
"""Coordinates that are read at a time, of each site: memory is a few times BLOCK x sites x 8."""


class SpoolError(Exception):
    """The updates of a round cannot be kept or read back.

    Not an error of a site: it must end the round, and not be taken for a refused update.
    """


class Spool:
    """Holds updates in a folder of its own until `remove`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sites: dict[str, set[str]] = {}
        self._shapes: dict[str, dict[str, tuple[int, ...]]] = {}
        self.remove()
        folder.mkdir(parents=True)

    def add(self, site: str, delta: Groups) -> None:
        """Write a site's update.

        Raises:
            SpoolError: the disk is full or away.
        """
        for part, arrays in delta.items():
            names = sorted(n for n, a in arrays.items() if np.issubdtype(a.dtype, np.floating))
            flat = np.concatenate([arrays[n].reshape(-1) for n in names])
            try:
                np.save(self._path(site, part), flat, allow_pickle=False)
            except OSError as error:
                raise SpoolError(f"{flat.nbytes} bytes cannot be written: {error}") from error
            self._shapes[part] = {n: arrays[n].shape for n in names}
            self._sites.setdefault(part, set()).add(site)

    def parts(self) -> dict[tuple[str, ...], list[str]]:
        """Return sites, sorted by name -> the parts that exactly they have trained."""
        found: dict[tuple[str, ...], list[str]] = {}
        for part in sorted(self._sites):
            found.setdefault(tuple(sorted(self._sites[part])), []).append(part)
        return found

    def size(self, part: str) -> int:
        """Return the number of coordinates of a part."""
        return sum(prod(shape) for shape in self._shapes[part].values())

    def blocks(
        self, part: str, sites: Sequence[str]
    ) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """Yield (coordinates, their values [sites, up to BLOCK]) until the part is through.

        Raises:
            SpoolError: a file is away or torn.
        """
        size = self.size(part)
        files = [self._path(site, part) for site in sites]
        for start in range(0, size, BLOCK):
            where = slice(start, min(start + BLOCK, size))
            values = np.empty((len(sites), where.stop - start))
            for row, path in zip(values, files, strict=True):
                row[:] = _read(path, where)
            yield where, values

    def arrays(self, part: str, flat: NDArray[np.float64]) -> Arrays:
        """Return the coordinates of a part as its named arrays."""
        arrays: Arrays = {}
        start = 0
        for name, shape in self._shapes[part].items():
            arrays[name] = flat[start : start + prod(shape)].reshape(shape)
            start += prod(shape)
        return arrays

    def remove(self) -> None:
        """Delete the folder with all that is in it."""
        if self._folder.exists():
            shutil.rmtree(self._folder)

    def _path(self, site: str, part: str) -> Path:
        # Hashed, because the names must not choose the path.
        name = hashlib.sha256(f"{site}|{part}".encode()).hexdigest()[:32]
        return self._folder / f"{name}.npy"


def _read(path: Path, where: slice) -> NDArray[np.floating]:
    """Read some coordinates of a file by seeking: mapped pages would count as our memory."""
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            _, _, dtype = np.lib.format.read_array_header_1_0(file)
            file.seek(where.start * dtype.itemsize, 1)
            values = np.fromfile(file, dtype, where.stop - where.start)
    except (OSError, ValueError) as error:
        raise SpoolError(f"{path.name} cannot be read: {error}") from error
    if len(values) != where.stop - where.start:
        raise SpoolError(f"{path.name} is torn")
    return values
