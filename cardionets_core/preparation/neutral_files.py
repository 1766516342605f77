"""Which neutral files are there: a journal that says "done" is believed only where they are."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


class NeutralFiles:
    """The files of a prepared folder; each of its folders is listed once, when first asked about.

    Args:
        out: the prepared folder.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._listed: dict[str, frozenset[str]] = {}

    def hold(self, names: Iterable[str]) -> bool:
        """Whether all of these files are there and not empty; a header with its signal.

        Args:
            names: paths below the prepared folder.
        """
        return all(self._has(name) for name in names)

    def _has(self, name: str) -> bool:
        folder, _, file = name.rpartition("/")
        if folder not in self._listed:
            self._listed[folder] = self._list(folder)
        wanted = {file, f"{file[:-4]}.dat"} if file.endswith(".hea") else {file}
        return wanted <= self._listed[folder]

    def _list(self, folder: str) -> frozenset[str]:
        try:
            with os.scandir(self._out / folder) as entries:
                return frozenset(e.name for e in entries if e.is_file() and e.stat().st_size > 0)
        except FileNotFoundError:
            return frozenset()
