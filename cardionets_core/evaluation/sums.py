"""Sums: what a site sends instead of predictions. Everything in them adds up over sites.

A site that cannot serve a section leaves its keys out, which counts as zeros. Confidence intervals
come from the Poisson bootstrap (Chamandy et al., Google 2012): replicate b weighs every patient
with an independent Poisson(1) count, so replicate b of a federation is the sum of the sites'
replicates b, and no site needs to know how many patients the others have.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cardionets_core.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Floats = NDArray[np.float64]
"""A float64 array of any shape."""

Sums = dict[str, Floats]
"""Name -> float64 array; sums of two groups of patients add up to the sums of both."""

INTERVAL = (2.5, 97.5)
"""Percentiles of a 95 % interval."""


def merge(parts: Iterable[Mapping[str, NDArray[np.float64]]]) -> Sums:
    """Add the sums of several sites; a missing key counts as zeros.

    Raises:
        WireError: two sites sent the same key in different shapes.
    """
    total: Sums = {}
    for part in parts:
        for key, value in part.items():
            if key not in total:
                total[key] = np.array(value, dtype=np.float64)
            elif total[key].shape != value.shape:
                raise WireError(
                    f"evaluation sums {key!r}: one site sent shape {total[key].shape}, another "
                    f"{value.shape}; all sites must score with the same model and options."
                )
            else:
                total[key] = total[key] + value
    return total


def under(prefix: str, sums: Mapping[str, Floats]) -> Sums:
    """Return the sums with `prefix/` before every key."""
    return {f"{prefix}/{key}": value for key, value in sums.items()}


def section(sums: Mapping[str, Floats], prefix: str) -> Sums:
    """Return the sums under `prefix/`, without the prefix; empty where there are none."""
    start = f"{prefix}/"
    return {k.removeprefix(start): v for k, v in sums.items() if k.startswith(start)}


def bootstrap_weights(patients: Sequence[str], *, replicates: int, seed: int) -> Floats:
    """Return Poisson(1) weights [1 + replicates, N]; row 0 is all ones (the estimate itself).

    A patient's weights depend on the seed and the patient alone: all studies of a patient move
    together, and neither the order of rows nor the other patients are of any account.
    """
    weights = np.ones((1 + replicates, len(patients)))
    drawn: dict[str, Floats] = {}
    for column, patient in enumerate(patients):
        if patient not in drawn:
            key = hashlib.sha256(f"cardionets bootstrap:{seed}:{patient}".encode()).digest()
            rng = np.random.default_rng(int.from_bytes(key[:16], "big"))
            drawn[patient] = rng.poisson(1.0, replicates).astype(np.float64)
        weights[1:, column] = drawn[patient]
    return weights


def interval(replicated: Floats) -> tuple[Floats, Floats]:
    """Return the 95 % percentile interval over the replicates [R, ...]: (low, high).

    Undefined replicates (no positive was drawn, say) are left out; with fewer than half of them
    defined the interval is NaN.
    """
    if not len(replicated):
        nothing = np.full(replicated.shape[1:], np.nan)
        return nothing, nothing.copy()
    flat = replicated.reshape(len(replicated), -1)
    low = np.full(flat.shape[1], np.nan)
    high = low.copy()
    for column in range(flat.shape[1]):
        known = flat[np.isfinite(flat[:, column]), column]
        if len(known) >= max(2, len(flat) // 2):
            low[column], high[column] = np.percentile(known, INTERVAL)
    shape = replicated.shape[1:]
    return low.reshape(shape), high.reshape(shape)


def ratio(top: Floats, bottom: Floats) -> Floats:
    """Return top / bottom, NaN where the bottom is not above zero."""
    top, bottom = np.broadcast_arrays(np.asarray(top, float), np.asarray(bottom, float))
    result = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=result, where=bottom > 0)
    return result


def mean_known(values: Floats, axis: int = -1) -> Floats:
    """Return the mean over the finite values of an axis; NaN where there is none."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return ratio(total, known.sum(axis=axis).astype(np.float64))
