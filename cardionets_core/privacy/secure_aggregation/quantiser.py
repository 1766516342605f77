"""From updates to whole numbers modulo 2^32 and back: fixed point with a range set by the plan.

With n sites, clip C and L = floor((2^31 - 1) / n) levels on either side, a site of weight w (its
training studies; W is the largest weight of any site) adds

    q = rint(clip(delta, -C, C) x (w / W) x L / C),    |q| <= L,

so the sum over n sites lies within +-(2^31 - 1) and never wraps. The weighted mean is

    sum(q) x (C / L) x W / sum(w),    off by at most n x C / (2 L) x W / sum(w).

Rounding is to nearest even, not at random: a message that is asked for twice must be the same bit
for bit (two vectors under one mask would give away their difference), and steps of C / L, 2^-28 for
10 sites and C = 1, are finer than what float32 keeps of most weights, so a bias of half a step is
of no account. Arrays that are measured rather than learned have a C of their own (measured.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cardionets_core.errors import SiteError, WireError
from cardionets_core.measured import RANGES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from cardionets_core.packing import Groups
    from cardionets_core.privacy.secure_aggregation.masks import Residues

LARGEST = 2**31 - 1
"""The largest sum: residues modulo 2^32 are read as signed numbers."""

CHECKS = 4
"""Numbers at the end of a vector, to each of which every site adds 1: in a sum that was unmasked
rightly each is the number of sites; in any other it is so with a probability of 2^-128."""

BLOCK = 2**16
"""Numbers that are converted at a time."""


@dataclass(frozen=True)
class Quantiser:
    """The fixed point of one session.

    Attributes:
        sites: n, the most sites that add to a sum.
        clip: C, the range of learned values; `clips` names parts with one of their own.
        clips: part -> C.
        largest: W, the largest weight of a site.
    """

    sites: int
    clip: float
    clips: Mapping[str, float]
    largest: int

    @property
    def levels(self) -> int:
        """L, the levels on either side of zero."""
        return LARGEST // self.sites

    def residues(self, update: Groups, weight: int) -> tuple[Residues, int]:
        """Return a site's update as residues, CHECKS at the end, and how many values were clipped.

        Args:
            update: part -> name -> floating array; taken in the order of the names.
            weight: w, 1 to `largest`.

        Raises:
            SiteError: `diverged`, a value is not finite; `refused_task`, a weight beyond `largest`.
        """
        if not 1 <= weight <= self.largest:
            raise SiteError("refused_task")
        flat = np.empty(size_of(update) + CHECKS, dtype=np.uint32)
        clipped = start = 0
        for part, name, array in _arrays(update):
            end, clip = start + array.size, self.clip_of(part, name)
            factor = weight / self.largest * self.levels / clip
            clipped += _quantise(array, flat[start:end], factor, clip)
            start = end
        flat[start:] = 1
        return flat, clipped

    def mean(self, total: Residues, like: Groups, weight: int) -> Groups:
        """Return the weighted mean of the updates behind an unmasked sum, as float64.

        Args:
            total: sum of residues modulo 2^32, CHECKS at the end.
            like: part -> name -> array of the shapes.
            weight: sum of the weights in it.
        """
        mean: Groups = {part: {} for part in like}
        signed, start = total.view(np.int32), 0
        for part in sorted(like):
            for name in sorted(like[part]):
                step = self.clip_of(part, name) / self.levels * self.largest / weight
                array = like[part][name]
                values = signed[start : start + array.size].astype(np.float64)
                mean[part][name] = (values * step).reshape(array.shape)
                start += array.size
        return mean

    def error(self, part: str, name: str, weight: int) -> float:
        """Return the most by which a mean of this total weight is off, from rounding alone."""
        return self.sites * self.clip_of(part, name) / (2 * self.levels) * self.largest / weight

    def clip_of(self, part: str, name: str) -> float:
        """Return C of one array: a measured one has a range, whatever the plan says of its part."""
        return RANGES.get((part, name), self.clips.get(part, self.clip))


def size_of(groups: Groups) -> int:
    """Return how many numbers groups hold."""
    return sum(array.size for arrays in groups.values() for array in arrays.values())


def check_sum(total: Residues, sites: int) -> None:
    """Check that a sum was unmasked rightly.

    Raises:
        WireError: it was not; the masks of at least one site are still in it.
    """
    if not (total[-CHECKS:] == sites).all():
        raise WireError("the sum does not unmask: a site used other keys than it had shared")


def _arrays(groups: Groups) -> list[tuple[str, str, NDArray[np.floating]]]:
    return [(p, n, groups[p][n].reshape(-1)) for p in sorted(groups) for n in sorted(groups[p])]


def _quantise(
    values: NDArray[np.floating], out: NDArray[np.uint32], factor: float, clip: float
) -> int:
    """Write rint(clip(values) x factor) modulo 2^32 to `out`; return how many were clipped."""
    clipped = 0
    for start in range(0, len(values), BLOCK):
        block = values[start : start + BLOCK].astype(np.float64)
        if not np.isfinite(block).all():
            raise SiteError("diverged")
        clipped += int(np.count_nonzero(np.abs(block) > clip))
        steps = np.rint(np.clip(block, -clip, clip) * factor).astype(np.int64)
        out[start : start + BLOCK] = steps.astype(np.uint32)
    return clipped
