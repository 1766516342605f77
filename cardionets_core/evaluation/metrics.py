"""Metrics from sums: R2, r, MAE; AUROC, AUPRC, Brier, ECE from binned scores.

First axis of every replicated array: 0 is the estimate, 1 to R are Poisson-bootstrap replicates
(sums.py). Results from merged sums equal results on pooled predictions, to rounding for regression
and exactly for counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import digamma

from cardionets_core.evaluation.intervals import fisher, hanley_mcneil
from cardionets_core.evaluation.sums import Floats, Sums, interval, ratio

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Estimate:
    """A metric per column with its 95 % interval; all three have the same shape."""

    value: Floats
    low: Floats
    high: Floats


def estimate(replicated: Floats) -> Estimate:
    """Split a replicated array [1 + R, ...] into the estimate and its interval."""
    low, high = interval(replicated[1:])
    return Estimate(replicated[0], low, high)


# ------------------------------------------------------------------------------------ regression


def regression_sums(
    truth: Floats, mask: NDArray[np.bool_], predictions: Mapping[str, Floats], weights: Floats
) -> Sums:
    """Sum what R2, r and MAE need, for several predictors of the same truth.

    Args:
        truth: [N, P] in standard deviations of the federation.
        mask: [N, P], True where the truth was measured; only these cells count.
        predictions: name -> [N, P].
        weights: [1 + R, N].

    Returns:
        `n`, `sum`, `square` of the truth and, per predictor, `NAME/sum`, `/square`, `/cross`,
        `/absolute`; each [1 + R, P].
    """
    known = mask.astype(np.float64)
    y = np.where(mask, truth, 0.0)
    sums = {"n": weights @ known, "sum": weights @ y, "square": weights @ (y * y)}
    for name, prediction in predictions.items():
        p = np.where(mask, prediction, 0.0)
        sums[f"{name}/sum"] = weights @ p
        sums[f"{name}/square"] = weights @ (p * p)
        sums[f"{name}/cross"] = weights @ (p * y)
        sums[f"{name}/absolute"] = weights @ np.abs(y - p)
    return sums


def r_squared(sums: Mapping[str, Floats], predictor: str) -> Floats:
    """Return R2 = 1 - sum (y - p)^2 / sum (y - mean y)^2, replicated [1 + R, P].

    The mean is that of the scored patients themselves, as in scikit-learn's `r2_score`: a constant
    predictor scores 0 only if it hits that mean, and below 0 elsewhere.
    """
    residual = sums["square"] - 2 * sums[f"{predictor}/cross"] + sums[f"{predictor}/square"]
    return 1 - ratio(residual, _scatter(sums["n"], sums["sum"], sums["square"]))


def pearson(sums: Mapping[str, Floats], predictor: str) -> Floats:
    """Return Pearson's r, replicated [1 + R, P]; NaN for a constant predictor."""
    n = sums["n"]
    covariance = sums[f"{predictor}/cross"] - ratio(sums["sum"] * sums[f"{predictor}/sum"], n)
    spread = _scatter(n, sums["sum"], sums["square"])
    spread_p = _scatter(n, sums[f"{predictor}/sum"], sums[f"{predictor}/square"])
    return ratio(covariance, np.sqrt(spread * spread_p))


def mean_absolute_error(sums: Mapping[str, Floats], predictor: str) -> Floats:
    """Return the mean absolute error in standard deviations, replicated [1 + R, P]."""
    return ratio(sums[f"{predictor}/absolute"], sums["n"])


def _scatter(n: Floats, total: Floats, square: Floats) -> Floats:
    """Return sum (x - mean)^2, with what is only rounding set to zero."""
    scatter = square - np.nan_to_num(ratio(total * total, n))
    return np.where((n >= 2) & (scatter > 1e-10 * square), scatter, 0.0)


# ------------------------------------------------------------------------------------ binary scores


def binary_sums(
    truth: NDArray[np.bool_],
    mask: NDArray[np.bool_],
    probability: Floats,
    rank: Floats,
    weights: Floats,
    *,
    bins: tuple[int, int, int],
) -> Sums:
    """Sum what AUROC, AUPRC, Brier and ECE need for one predictor.

    Args:
        truth: [N, D], True where the disease is present.
        mask: [N, D], True where it is known.
        probability: [N, D] in [0, 1].
        rank: [N, D] in [0, 1], any monotone function of the score that spreads it over the bins.
        weights: [1 + R, N].
        bins: score bins, coarser score bins of the replicates, calibration bins.

    Returns:
        `n`, `present`, `brier` [1 + R, D]; `histogram` [2, D, bins] (absent, present);
        `replicates` [R, 2, D, coarse bins]; `calibration` [3, D, bins] (patients, sum of
        probabilities, present).
    """
    known, positive = mask.astype(np.float64), (truth & mask).astype(np.float64)
    error = np.where(mask, (probability - truth) ** 2, 0.0)
    classes = np.stack([known - positive, positive])
    parts = np.stack([known, np.where(mask, probability, 0.0), positive])
    return {
        "n": weights @ known,
        "present": weights @ positive,
        "brier": weights @ error,
        "histogram": _histogram(rank, classes, bins[0]),
        "replicates": _replicated_histogram(rank, classes, weights[1:], bins[1]),
        "calibration": _histogram(probability, parts, bins[2]),
    }


def auroc(histogram: Floats) -> tuple[Floats, Floats]:
    """Return AUROC [...] and its bin error from [2, ..., bins]: (absent, present), ascending.

    Pairs that share a bin count one half (Mann-Whitney). The error is the most that the order
    inside the bins could change: half of the share of such pairs.
    """
    absent, present = histogram
    below = np.cumsum(absent, axis=-1) - absent
    pairs = absent.sum(-1) * present.sum(-1)
    tied = (present * absent).sum(-1)
    return ratio((present * below).sum(-1) + 0.5 * tied, pairs), ratio(0.5 * tied, pairs)


def average_precision(histogram: Floats) -> tuple[Floats, Floats]:
    """Return average precision [...] and its bin error from [2, ..., bins] as in `auroc`.

    AP = sum over thresholds of (change of recall) x precision, as in scikit-learn. The error is the
    larger distance to the two extreme orders inside the bins (all positives first or all last);
    inside a bin sum_i (a + i) / (b + i) has the closed form k - (b - a) (digamma(b + k + 1) -
    digamma(b + 1)).
    """
    absent, present = (h[..., ::-1] for h in histogram)
    true_before = np.cumsum(present, -1) - present
    false_before = np.cumsum(absent, -1) - absent
    false_after = false_before + absent
    total = present.sum(-1)

    def within(false: Floats) -> Floats:
        start = true_before + false
        steps = digamma(start + present + 1) - digamma(start + 1)
        return ratio((present - false * steps).sum(-1), total)

    precision = np.nan_to_num(ratio(true_before + present, true_before + present + false_after))
    value = ratio((present * precision).sum(-1), total)
    best, worst = within(false_before), within(false_after)
    return value, np.maximum(best - value, value - worst)


def pearson_estimate(sums: Mapping[str, Floats], predictor: str) -> Estimate:
    """Return r [P] with its interval: of the replicates, or Fisher's where there are none."""
    found = estimate(pearson(sums, predictor))
    if len(sums["n"]) > 1:
        return found
    return Estimate(found.value, *fisher(found.value, sums["n"][0]))


def auroc_estimate(sums: Mapping[str, Floats]) -> Estimate:
    """Return AUROC [D] with its interval: Hanley and McNeil's where there are no replicates.

    The coarse bins of the replicates are corrected for.
    """
    if not len(sums["replicates"]):
        value = auroc(sums["histogram"])[0]
        absent, present = sums["histogram"].sum(-1)
        return Estimate(value, *hanley_mcneil(value, present, absent))
    return _binned(sums, auroc)


def average_precision_estimate(sums: Mapping[str, Floats]) -> Estimate:
    """Return average precision [D] with its interval, corrected in the same way."""
    return _binned(sums, average_precision)


def brier(sums: Mapping[str, Floats]) -> Floats:
    """Return the Brier score, replicated [1 + R, D]."""
    return ratio(sums["brier"], sums["n"])


def calibration_error(sums: Mapping[str, Floats]) -> Floats:
    """Return the expected calibration error [D]: mean |probability - frequency| over the bins."""
    patients, probability, present = sums["calibration"]
    return ratio(np.abs(probability - present).sum(-1), patients.sum(-1))


def calibration_curve(sums: Mapping[str, Floats]) -> tuple[Floats, Floats, Floats]:
    """Return (mean probability, observed frequency, patients) per bin, each [D, bins]."""
    patients, probability, present = sums["calibration"]
    return ratio(probability, patients), ratio(present, patients), patients


def _binned(sums: Mapping[str, Floats], metric: _BinnedMetric) -> Estimate:
    fine = sums["histogram"]
    if not len(sums["replicates"]):
        value = metric(fine)[0]
        return Estimate(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    replicates = sums["replicates"].swapaxes(0, 1)
    coarse = fine.reshape(*fine.shape[:2], replicates.shape[-1], -1).sum(-1)
    value = metric(fine)[0]
    shift = value - metric(coarse)[0]
    low, high = interval(metric(replicates)[0] + shift)
    return Estimate(value, np.maximum(low, 0.0), np.minimum(high, 1.0))


def _histogram(share: Floats, amounts: Floats, bins: int) -> Floats:
    """Return [C, D, bins]: the amounts [C, N, D] summed by the bin of share [N, D]."""
    place = _bin(share, bins)
    columns = range(share.shape[1])
    return np.stack(
        [
            np.stack([np.bincount(place[:, d], part[:, d], minlength=bins) for d in columns])
            for part in amounts
        ]
    )


def _replicated_histogram(share: Floats, classes: Floats, weights: Floats, bins: int) -> Floats:
    """Return [R, C, D, bins]: the classes [C, N, D] weighted by [R, N] and summed by bin."""
    place = _bin(share, bins)
    result = np.empty((len(weights), len(classes), share.shape[1], bins))
    for column in range(share.shape[1]):
        one_hot = (place[:, column, None] == np.arange(bins)).astype(np.float64)
        for row, part in enumerate(classes):
            result[:, row, column] = (weights * part[:, column]) @ one_hot
    return result


def _bin(share: Floats, bins: int) -> NDArray[np.int64]:
    return np.clip((share * bins).astype(np.int64), 0, bins - 1)


if TYPE_CHECKING:
    from collections.abc import Callable

    _BinnedMetric = Callable[[Floats], tuple[Floats, Floats]]
