"""Sums of the handshake under privacy: mean and sd of phenotypes over training patients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cardionets_core.privacy.metrics import (
    Prior,
    bounds_of,
    moment_parts,
    moments,
    noise_of,
    released,
)
from cardionets_core.privacy.reference import REFERENCE

if TYPE_CHECKING:
    from cardionets_core.data.dataset import SiteDataset
    from cardionets_core.evaluation.sums import Floats, Sums
    from cardionets_core.privacy.rng import RandomSource


def private_statistics(dataset: SiteDataset, noise: float, rng: RandomSource) -> Sums:
    """Return `phenotype_n`, `phenotype_sum` and `phenotype_square` [P] of noised training patients.

    One release: charge `metrics.release_charge(noise)` before. Each patient counts once, with the
    mean of their studies; values are clipped 4 reference sd from the reference mean. The sums are
    consistent, and a phenotype that noise drowns is near the reference (`metrics.moments`).

    Args:
        dataset: the site's; its `phenotypes` name the columns.
        noise: the noise multiplier.
        rng: the site's private randomness.
    """
    if not dataset.phenotypes:
        return {f"phenotype_{key}": np.zeros(0) for key in ("n", "sum", "square")}
    constants = np.array([REFERENCE[name] for name in dataset.phenotypes])
    prior = Prior(constants[:, 0], constants[:, 1])
    parts = moment_parts(_of_patients(dataset), prior)
    spread = noise_of(bounds_of(parts), noise)["known"]
    found = moments(released(parts, noise, rng), prior, noise_std=spread)
    return {f"phenotype_{key}": value for key, value in found.sums.items()}


def _of_patients(dataset: SiteDataset) -> Floats:
    """Return the phenotypes [N, P] of the N training patients, each the mean of their studies."""
    table = dataset.manifest.table.iloc[dataset.indices("train")]
    columns = table.reindex(columns=list(dataset.phenotypes)).astype(np.float64)
    return np.asarray(columns.groupby(table["patient_id"].to_numpy()).mean(), dtype=np.float64)
