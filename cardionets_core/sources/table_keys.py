"""From a key to the rows that hold it, for hundreds of thousands of rows in little memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import pandas as pd

UNUSABLE = "\0"
"""Key of a cell that names something, but nothing that can be found; no path is like it."""

_EXTENSIONS = re.compile(
    r"\.(hea|dat|mat|xml|dcm|ecg|csv|parquet|h5|hdf5|zip|nii|nii\.gz|txt|scp|edf)$", re.IGNORECASE
)

MOST_ROWS = 2000
"""Rows that one key may have. A placeholder for "nobody" can stand in every row of a table."""

Rows = np.ndarray[Any, np.dtype[np.intp]]


def path_key(path: str) -> str:
    """Return a path as rows and files are compared by: forward slashes, no known extension."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    return _EXTENSIONS.sub("", "/".join(parts))


class KeyIndex:
    """Sorted digests of the keys of a table; a look-up compares the keys themselves.

    Args:
        columns: one or more columns of texts of equal length that name the same thing (PTB-XL has
            two files per record); "" names nothing.
    """

    def __init__(self, columns: Sequence[pd.Series[str]]) -> None:
        self._columns = [column.array for column in columns]
        self._height = len(columns[0]) if columns else 0
        texts = (text for column in self._columns for text in column)
        count = self._height * len(columns)
        digests = np.fromiter((_digest(text) for text in texts), np.uint64, count)
        named = np.concatenate(
            [(column != "").to_numpy(bool) for column in columns] or [np.zeros(0, bool)]
        )
        places = np.flatnonzero(named)
        self._places = places[np.argsort(digests[places], kind="stable")]
        self._digests = digests[self._places]

    def rows(self, key: str) -> list[int]:
        """Return the rows that hold `key`, in the order of the table; none if it is `crowded`."""
        if not key or not self._height:
            return []
        wanted = np.uint64(_digest(key))
        first, last = np.searchsorted(self._digests, wanted, side="left"), self._after(wanted)
        if last - first > MOST_ROWS:
            return []
        found: set[int] = set()
        for place in self._places[first:last]:
            column, row = divmod(int(place), self._height)
            if self._columns[column][row] == key:
                found.add(row)
        return sorted(found)

    def crowded(self) -> Rows:
        """Return the first row of each key that more than `MOST_ROWS` rows have."""
        starts = self._starts()
        sizes = np.diff(np.r_[starts, len(self._digests)])
        return np.sort(self._places[starts[sizes > MOST_ROWS]] % max(self._height, 1))

    def disagreeing(self, values: np.ndarray[Any, Any]) -> Rows:
        """Return the first row of each group of rows of one key whose `values` differ.

        Args:
            values: float64 [rows]; NaN agrees with everything.
        """
        if not len(self._digests):
            return np.zeros(0, np.intp)
        starts = self._starts()
        rows = self._places % self._height
        ordered = values[rows]
        low = np.fmin.reduceat(ordered, starts)
        high = np.fmax.reduceat(ordered, starts)
        return np.sort(rows[starts[low < high]])

    def _starts(self) -> Rows:
        """Return where each run of equal digests begins."""
        changes = self._digests[1:] != self._digests[:-1]
        return np.flatnonzero(np.r_[np.ones(min(1, len(self._digests)), bool), changes])

    def _after(self, digest: np.uint64) -> int:
        return int(np.searchsorted(self._digests, digest, side="right"))


def _digest(text: str) -> int:
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")
