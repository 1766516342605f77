"""Fidelity of generated cines: Frechet distance, SSIM, PSNR, diversity, nearest training image.

No one of these ranks a generator. SSIM and PSNR are won by a blurry mean image, so they stand
beside it; the Frechet distance sees the distribution and not the patient; phenotype fidelity
(evaluate.py) sees the patient and not the sharpness. Report them together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from skimage.metrics import structural_similarity

from cardionets_core.evaluation.sums import Floats, Sums

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

GREY_RANGE = 2.0
"""Cines lie in [-1, 1]."""

SHRINKAGE = 1e-3
"""Share of the real cines' mean feature variance that is added to both diagonals."""

SSIM_WINDOW = 7
"""Side of the sliding window (scikit-image's default)."""


def feature_sums(features: Floats) -> Sums:
    """Sum what a Gaussian needs: `n` [1], `sum` [F], `outer` [F, F] of features [N, F]."""
    return {
        "n": np.array([float(len(features))]),
        "sum": features.sum(axis=0),
        "outer": features.T @ features,
    }


def gaussian(sums: Mapping[str, Floats]) -> tuple[Floats, Floats]:
    """Return mean [F] and covariance [F, F] (divided by n) from `feature_sums`."""
    n = float(sums["n"][0])
    mean = sums["sum"] / n
    return mean, sums["outer"] / n - np.outer(mean, mean)


def frechet_distance(
    real: Mapping[str, Floats], other: Mapping[str, Floats], *, shrinkage: float = SHRINKAGE
) -> float:
    """Return the Frechet distance of two Gaussians from their feature sums; NaN below two patients.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2)  (Dowson & Landau 1982; Heusel et al. 2017).

    With fewer patients than features a covariance is singular, so `shrinkage` times the mean
    variance of `real` is added to both diagonals. The distance falls with more patients
    (finite-sample bias): compare only values from the same number of patients.
    """
    if not real or not other or min(real["n"][0], other["n"][0]) < 2:
        return float("nan")
    (mean_1, cov_1), (mean_2, cov_2) = gaussian(real), gaussian(other)
    ridge = shrinkage * np.trace(cov_1) / len(cov_1) * np.eye(len(cov_1))
    cov_1, cov_2 = cov_1 + ridge, cov_2 + ridge
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(_root(cov_1) @ cov_2 @ _root(cov_1)), 0, None))
    gap = float(np.sum((mean_1 - mean_2) ** 2))
    return gap + float(np.trace(cov_1) + np.trace(cov_2) - 2 * cross.sum())


def _root(covariance: Floats) -> Floats:
    """Return the symmetric square root of a covariance."""
    values, vectors = np.linalg.eigh(covariance)
    root: Floats = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return root


def ssim(truth: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return SSIM of two cines [K, H, W] in [-1, 1], mean over phases (Wang et al. 2004)."""
    return float(
        structural_similarity(
            truth, other, win_size=SSIM_WINDOW, channel_axis=0, data_range=GREY_RANGE
        )
    )


def psnr(truth: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the peak signal-to-noise ratio in dB of two cines in [-1, 1], capped at 100 dB."""
    error = float(np.mean((truth.astype(np.float64) - other) ** 2))
    return float(10 * np.log10(GREY_RANGE**2 / max(error, GREY_RANGE**2 * 1e-10)))


def rms(one: NDArray[np.float32], other: NDArray[np.float32]) -> Floats:
    """Return the RMS grey difference [N] of [N, K, H, W] pairs, as a share of the range."""
    gap = ((one - other) / GREY_RANGE).reshape(len(one), -1)
    return np.asarray(np.sqrt(np.mean(gap.astype(np.float64) ** 2, axis=1)))


def diversity(samples: NDArray[np.float32]) -> Floats:
    """Return the mean pairwise RMS difference [N] between a patient's samples [S, N, K, H, W]."""
    pairs = [(i, j) for i in range(len(samples)) for j in range(i)]
    return np.asarray(np.mean([rms(samples[i], samples[j]) for i, j in pairs], axis=0))


def nearest_distance(cines: NDArray[np.float32], training: Iterable[NDArray[np.float32]]) -> Floats:
    """Return the RMS difference [N] from each cine [N, K, H, W] to its nearest training cine.

    Args:
        cines: in [-1, 1].
        training: chunks [M, K, H, W], so that a large cohort never lies in memory at once.
    """
    flat = (cines / GREY_RANGE).reshape(len(cines), -1).astype(np.float32)
    own = np.einsum("nd,nd->n", flat, flat, dtype=np.float64)
    nearest = np.full(len(cines), np.inf)
    for chunk in training:
        other = (chunk / GREY_RANGE).reshape(len(chunk), -1).astype(np.float32)
        square = own[:, None] + np.einsum("nd,nd->n", other, other, dtype=np.float64)
        nearest = np.minimum(nearest, (square - 2.0 * (flat @ other.T)).min(axis=1))
    return np.asarray(np.sqrt(np.clip(nearest, 0, None) / flat.shape[1]))
