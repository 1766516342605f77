"""The unit of privacy: a patient with all their studies, sampled as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cardionets_core.data.dataset import SiteDataset
    from cardionets_core.privacy.rng import RandomSource

CHOICES = 2**32
"""A study is chosen by one of so many equally likely numbers: the bias is below studies / 2^32."""


class PatientIndex:
    """The training patients of a site who have what a stage needs, and their studies.

    Args:
        dataset: the site's studies, split by patient.
        needs: what a study must have (words of SiteDataset.indices).
    """

    def __init__(self, dataset: SiteDataset, needs: Iterable[str]) -> None:
        rows = dataset.indices("train", needs)
        names = dataset.manifest.table["patient_id"].to_numpy(dtype=object)[rows].astype(str)
        self._names, owner = np.unique(names, return_inverse=True)
        order = np.argsort(owner, kind="stable")
        self._rows = rows[order]
        self._counts = np.bincount(owner, minlength=len(self._names)).astype(np.int64)
        self._first = np.cumsum(self._counts) - self._counts
        self._owner_of: dict[int, str] = dict(
            zip(rows.tolist(), self._names[owner].tolist(), strict=True)
        )

    @property
    def patients(self) -> int:
        """How many there are; it depends on the data and never leaves the site."""
        return len(self._names)

    def sample(self, rate: float, rng: RandomSource) -> NDArray[np.int64]:
        """Return rows of the manifest: each patient with probability `rate`, one study of each.

        A patient with several studies gives one at random, so that many studies weigh no more than
        one and all of them are used in time.
        """
        chosen = np.flatnonzero(rng.bernoulli(self.patients, rate))
        which = rng.integers(len(chosen), CHOICES) % self._counts[chosen]
        picked: NDArray[np.int64] = self._rows[self._first[chosen] + which]
        return picked

    def patient_of(self, row: int) -> str:
        """Return whose study a row is; for keys that stay in the process."""
        return self._owner_of[row]
