"""Phenotypes in their units <-> z-scores, with mean and sd of the whole federation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class Scaler:
    """Mean and sd of P phenotypes.

    Attributes:
        mean: float64 [P].
        sd: float64 [P], positive.
    """

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]

    @classmethod
    def from_statistics(cls, statistics: Mapping[str, NDArray[np.float64]]) -> Scaler:
        """Return the scaler of sums that sites counted and the server added.

        A phenotype that nobody has, or that never varies, gets sd 1.

        Args:
            statistics: `phenotype_n`, `phenotype_sum`, `phenotype_square`, each float64 [P].
        """
        count = np.maximum(statistics["phenotype_n"], 1.0)
        mean = statistics["phenotype_sum"] / count
        variance = np.maximum(statistics["phenotype_square"] / count - mean**2, 0.0)
        # below this the difference of two large sums is rounding, not variance
        varies = variance > 1e-12 * (mean**2 + 1e-12)
        return cls(mean=mean, sd=np.where(varies, np.sqrt(variance), 1.0))

    def to_z(self, values: ArrayLike) -> NDArray[np.float64]:
        """Return [..., P] in sd from the mean; NaN stays NaN."""
        return np.asarray((np.asarray(values, dtype=np.float64) - self.mean) / self.sd)

    def to_raw(self, z: ArrayLike) -> NDArray[np.float64]:
        """Return [..., P] in the units of the vocabulary."""
        return np.asarray(np.asarray(z, dtype=np.float64) * self.sd + self.mean)
