"""Does the generator repeat the hearts that it was trained on?

For each generated cine: is the nearest real cine one of training, or one of as many held-out
patients of the same site, whom the generator has never seen? A generator that copies nobody is as
often nearer to the one as to the other (the idea of Meehan, Chaudhuri and Dasgupta, "A
non-parametric test to detect data-copying in generative models", AISTATS 2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Copies:
    """How generated images lie between training and held-out ones.

    Attributes:
        nearer_training: share of them whose nearest real image is a training image; 0.5 is what a
            generator gives that copies nobody.
        low: of the exact 95 % interval of that share.
        high: likewise.
        ratio: median distance to the nearest training image over that to the nearest held-out one.
        images: generated ones that were judged.
    """

    nearer_training: float
    low: float
    high: float
    ratio: float
    images: int

    @property
    def found(self) -> bool:
        """Whether more than half are nearer to training, beyond what chance explains."""
        return self.low > 0.5


def copies(to_training: Floats, to_held_out: Floats) -> Copies:
    """Judge generated images by their distances to the nearest real ones of two kinds.

    Args:
        to_training: [n], distance of each generated image to its nearest training image.
        to_held_out: [n], to its nearest held-out image, among AS MANY as there were of training:
            the nearest of more is nearer.
    """
    if len(to_training) != len(to_held_out) or not len(to_training):
        raise ValueError(f"{len(to_training)} and {len(to_held_out)} distances; as many of both")
    nearer = float(np.sum(to_training < to_held_out) + 0.5 * np.sum(to_training == to_held_out))
    interval = stats.binomtest(round(nearer), len(to_training)).proportion_ci(CONFIDENCE)
    held_out = max(float(np.median(to_held_out)), np.finfo(np.float64).tiny)
    return Copies(
        nearer_training=nearer / len(to_training),
        low=float(interval.low),
        high=float(interval.high),
        ratio=float(np.median(to_training)) / held_out,
        images=len(to_training),
    )
