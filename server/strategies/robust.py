"""Robust aggregation: results that a few wrong sites cannot choose; pure functions on arrays.

Every function takes `values` [sites, coordinates] in float64, sites in the order of their names.
Sites count alike: a weight is a claim of the site, and these rules are there to doubt claims.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def median(values: Floats) -> Floats:
    """Return the median of each coordinate (Yin et al. 2018, arXiv 1803.01498, Definition 1).

    Of an even number of sites, the mean of the two in the middle.
    """
    result: Floats = np.median(values, axis=0)
    return result


def trimmed_mean(values: Floats, trim: float) -> Floats:
    """Return the mean of each coordinate without its extremes (Yin et al. 2018, Definition 2).

    Args:
        trim: share of the sites that is cut at each end, rounded down to whole sites.
    """
    cut = int(trim * len(values))
    kept = np.sort(values, axis=0)[cut : len(values) - cut]
    result: Floats = kept.mean(axis=0)
    return result


def add_distances(distances: Floats, values: Floats) -> None:
    """Add the squared distances between all sites over these coordinates to [sites, sites].

    From differences, not from norms and inner products: those cancel where updates are alike.
    """
    for i in range(len(values) - 1):
        square = np.square(values[i + 1 :] - values[i]).sum(axis=1)
        distances[i, i + 1 :] += square
        distances[i + 1 :, i] += square


def krum_choice(distances: Floats, *, malicious: int, keep: int) -> list[int]:
    """Return the sites that Krum keeps, best first (Blanchard et al. 2017, arXiv 1703.02757).

    A site's score is the sum of the squared distances to its n - f - 2 nearest other sites; the
    lowest scores are kept. Of equal scores, the site whose name comes first.

    Args:
        distances: squared, [sites, sites].
        malicious: f, the number of wrong sites to withstand.
        keep: 1 is Krum; more is Multi-Krum.
    """
    count = len(distances)
    others = distances[~np.eye(count, dtype=bool)].reshape(count, count - 1)
    scores = np.sort(others, axis=1)[:, : count - malicious - 2].sum(axis=1)
    return [int(i) for i in np.argsort(scores, kind="stable")[:keep]]
