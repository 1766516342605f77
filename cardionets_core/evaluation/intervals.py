"""95 % intervals that need nothing but what every estimate already counts.

Bootstrap replicates of a small cohort give its patients away: with as many replicates as patients
the equations can be solved for each patient's values. So none leave a site; these closed forms
serve the pooled results. R2 has none here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from cardionets_core.evaluation.sums import Floats

FEWEST = 10
"""Patients with, or without, a disease below which its AUROC gets no interval: it is too tight."""

Z = 1.959963984540054
"""The 97.5 % point of the normal distribution."""


def fisher(r: Floats, n: Floats) -> tuple[Floats, Floats]:
    """Return (low, high) of Pearson correlations r of n pairs each (Fisher 1921); NaN below 4."""
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = np.arctanh(np.clip(r, -1.0, 1.0))
        half = np.where(n > 3, Z / np.sqrt(np.maximum(n - 3, 1e-12)), np.nan)
        return np.tanh(centre - half), np.tanh(centre + half)


def hanley_mcneil(area: Floats, present: Floats, absent: Floats) -> tuple[Floats, Floats]:
    """Return (low, high) of AUROCs (Hanley and McNeil, Radiology 1982), cut to [0, 1].

    Args:
        area: AUROC [...].
        present: patients with the disease [...].
        absent: patients without it [...].
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        q1 = area / (2 - area)
        q2 = 2 * area**2 / (1 + area)
        spread = area * (1 - area) + (present - 1) * (q1 - area**2) + (absent - 1) * (q2 - area**2)
        half = Z * np.sqrt(np.maximum(spread, 0.0) / (present * absent))
        half = np.where(np.minimum(present, absent) < FEWEST, np.nan, half)
    return np.maximum(area - half, 0.0), np.minimum(area + half, 1.0)


def wilson(share: Floats, n: Floats) -> tuple[Floats, Floats]:
    """Return (low, high) of shares of n trials each (Wilson 1927)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = Z / (1 + Z**2 / n) * np.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return centre - half, centre + half
