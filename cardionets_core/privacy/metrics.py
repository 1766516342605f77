"""Sums over patients that may leave a site: bounded per patient, noised, one charge each release.

The Gaussian mechanism over all patients of a split at once (no sampling would hide anybody): what a
release says of one patient is a vector of several groups of numbers. Each group is bounded in L2 by
a constant and divided by it, so that a patient moves the joined vector by at most the root of the
number of groups; noise of `noise` times that is added, and the ledger is charged (noise, rate 1,
one step). Everything after the noise is post-processing and costs nothing.

Which shapes leave never depends on the records: a site without the patients of a section sends
noise. Floors on counts (policy.min_patients) are not applied: they would tell an exact count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cardionets_core.privacy.accounting import Charge
from cardionets_core.privacy.rng import require_production

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cardionets_core.evaluation.sums import Floats, Sums
    from cardionets_core.privacy.rng import RandomSource

LEAST_SPREAD = 0.25
"""A noised sd is taken as no less than this share of the prior's."""

APART, SPREAD_APART = 0.5, 0.4
"""How far a site's mean lies from the prior's, in its sd, and its variance, as a share of it."""


@dataclass(frozen=True)
class Part:
    """Numbers of one kind that a release holds of every patient.

    Attributes:
        table: [N, ...], row i of patient i.
        bound: the largest L2 norm of a row, a constant.
    """

    table: Floats
    bound: float


@dataclass(frozen=True)
class Moments:
    """Number, mean and variance of columns, made usable after the noise; each [P].

    Attributes:
        n: patients, at least 1, whole.
        mean: in the unit of the values.
        variance: likewise; above 0.
    """

    n: Floats
    mean: Floats
    variance: Floats

    @property
    def sums(self) -> dict[str, Floats]:
        """`n`, `sum` and `square` as plain sums over patients would give them."""
        return {
            "n": self.n,
            "sum": self.n * self.mean,
            "square": self.n * (self.variance + self.mean**2),
        }


@dataclass(frozen=True)
class Prior:
    """What is taken for granted of columns before anybody is counted: public constants.

    Attributes:
        mean: [P] or a number, in the unit of the values.
        sd: likewise.
        reach: values are clipped this many sd from the mean.
    """

    mean: Floats | float
    sd: Floats | float
    reach: float = 4.0


def release_charge(noise: float) -> Charge:
    """Return what a release costs: one step in which everybody is."""
    return Charge(noise, 1.0, 1)


def private_sums(
    sums_per_patient: Mapping[str, Floats],
    bounds: Mapping[str, float],
    noise: float,
    rng: RandomSource,
) -> Sums:
    """Return noised sums over patients; adding or removing a patient is what is hidden.

    Args:
        sums_per_patient: name -> [N, ...], row i of patient i in all of them; N may be 0.
        bounds: name -> largest L2 norm of a patient's row; a row beyond it is scaled down to it,
            one that is not finite counts as zeros.
        noise: the multiplier that the ledger is charged for.
        rng: the site's private randomness.

    Returns:
        name -> [...], sums with independent normal noise of `noise_of(bounds, noise)[name]`.

    Raises:
        ValueError: names differ, or the tables are not of the same patients.
        TypeError: another source of randomness than the private one.
    """
    require_production(rng)
    if set(sums_per_patient) != set(bounds):
        raise ValueError("every group of sums needs one bound, and every bound a group")
    if len({len(table) for table in sums_per_patient.values()}) > 1:
        raise ValueError("the groups of sums are of different numbers of patients")
    spread = noise_of(bounds, noise)
    released: Sums = {}
    for name, table in sums_per_patient.items():
        total = _clipped(table, bounds[name]).sum(axis=0)
        noised = total + rng.normal(total.shape, spread[name])
        # Rounded once: the low bits of a float64 could tell of the sum (Mironov 2012).
        released[name] = noised.astype(np.float32).astype(np.float64)
    return released


def noise_of(bounds: Mapping[str, float], noise: float) -> dict[str, float]:
    """Return the standard deviation of the noise on every number of each group of a release."""
    sensitivity = np.sqrt(len(bounds))  # of the joined vector, each group divided by its bound
    return {name: float(noise * sensitivity * bound) for name, bound in bounds.items()}


def _clipped(table: Floats, bound: float) -> Floats:
    # Not reshape(n, -1): of no patients numpy cannot tell how long a row is.
    flat = np.asarray(table, dtype=np.float64).reshape(len(table), int(np.prod(table.shape[1:])))
    flat = np.where(np.isfinite(flat).all(axis=1, keepdims=True), flat, 0.0)
    norm = np.linalg.norm(flat, axis=1, keepdims=True)
    # A hair below the bound, so that rounding cannot reach beyond it.
    scale = np.minimum(1.0, bound / np.maximum(norm * (1 + 1e-12), 1e-300))
    return np.asarray((flat * scale).reshape(table.shape))


def released(parts: Mapping[str, Part], noise: float, rng: RandomSource) -> Sums:
    """Return the noised sums of `parts`: one release, one charge."""
    tables = {name: part.table for name, part in parts.items()}
    return private_sums(tables, bounds_of(parts), noise, rng)


def bounds_of(parts: Mapping[str, Part]) -> dict[str, float]:
    """Return the bound of each part."""
    return {name: part.bound for name, part in parts.items()}


def moment_parts(values: Floats, prior: Prior) -> dict[str, Part]:
    """Return what `moments` needs of [N, P] values, NaN where unknown.

    In units of the reach: whether a value is known, the value, and its square less one half (which
    halves what a patient can move it by; the count puts it back).
    """
    known = np.isfinite(values)
    unit = (np.where(known, values, prior.mean) - prior.mean) / (prior.sd * prior.reach)
    unit = np.where(known, np.clip(unit, -1.0, 1.0), 0.0)
    count = known.astype(np.float64)
    root = float(np.sqrt(max(1, values.shape[1])))
    return {
        "known": Part(count, root),
        "value": Part(unit, root),
        "square": Part(unit**2 - 0.5 * count, 0.5 * root),
    }


def moments(sums: Mapping[str, Floats], prior: Prior, *, noise_std: float) -> Moments:
    """Return usable moments from the noised sums of `moment_parts`.

    Mean and variance are drawn towards the prior by how far noise may have moved them, against how
    far a site usually lies from it (APART, SPREAD_APART): with many patients they are the site's
    own, and where noise drowns the sums, what is left is the prior.

    Args:
        sums: `known`, `value` and `square`, each [P].
        prior: that of `moment_parts`.
        noise_std: of the noise on `known`, in patients.
    """
    count = np.maximum(sums["known"], noise_std)
    own = 1.0 / prior.reach**2  # the prior's variance, in units of the reach
    mean = np.clip(sums["value"] / count, -1.0, 1.0)
    square = (sums["square"] + 0.5 * sums["known"]) / count
    spread = np.clip(square - mean**2, 0.0, 1.0) - own
    moved = noise_std / count  # what noise does to a mean; to a mean square, the root of a half
    mean = mean * kept_share(moved, APART / prior.reach)
    variance = own + spread * kept_share(np.sqrt(0.5) * moved, SPREAD_APART * own)
    unit = prior.sd * prior.reach
    return Moments(
        np.maximum(np.rint(count), 1.0),
        prior.mean + unit * mean,
        unit**2 * np.maximum(variance, own * LEAST_SPREAD**2),
    )


def kept_share(moved: Floats, apart: float) -> Floats:
    """Return the share of a difference from the prior that is kept: apart^2 / (apart^2 + moved^2).

    The best share for a normal difference of sd `apart` that is seen with an error of sd `moved`.
    """
    return np.asarray(1.0 / (1.0 + (moved / apart) ** 2))


def to_total(counts: Floats, total: Floats) -> Floats:
    """Return the nearest counts [..., B] that are not negative and add up to total [...].

    The Euclidean projection onto a simplex (Duchi et al., ICML 2008): one number is taken off every
    bin, and what would fall below zero is zero.
    """
    ordered = -np.sort(-counts, axis=-1)
    places = np.arange(1, counts.shape[-1] + 1)
    excess = (np.cumsum(ordered, axis=-1) - total[..., None]) / places
    held = np.maximum((ordered > excess).sum(axis=-1, keepdims=True), 1)
    taken = np.take_along_axis(excess, held - 1, axis=-1)
    return np.asarray(np.maximum(counts - taken, 0.0))
