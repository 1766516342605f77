"""Frechet distance, SSIM, PSNR and distances against SciPy, scikit-image and plain loops."""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from cardionets_core.evaluation import fidelity
from cardionets_core.evaluation.sums import merge


def _features(rng, count, dim=6):
    return rng.normal(size=(count, dim)) @ rng.normal(size=(dim, dim)) + rng.normal(size=dim)


def _reference(one, other):
    """Return the textbook formula with SciPy's matrix square root."""
    cov_1, cov_2 = (np.cov(x, rowvar=False, bias=True) for x in (one, other))
    gap = np.sum((one.mean(0) - other.mean(0)) ** 2)
    return gap + np.trace(cov_1 + cov_2 - 2 * sqrtm(cov_1 @ cov_2).real)


def _cines(rng, *shape):
    return rng.uniform(-1, 1, size=(*shape, 4, 16, 16)).astype(np.float32)


def test_frechet_is_the_textbook_one():
    rng = np.random.default_rng(0)
    one, other = _features(rng, 200), _features(rng, 150)
    sums = [fidelity.feature_sums(x) for x in (one, other)]
    found = fidelity.frechet_distance(*sums, shrinkage=0.0)
    assert found == pytest.approx(_reference(one, other), rel=1e-6)
    assert fidelity.frechet_distance(*sums) == pytest.approx(found, rel=0.02)
    assert fidelity.frechet_distance(sums[0], sums[0]) == pytest.approx(0.0, abs=1e-6)


def test_frechet_of_merged_sites_is_that_of_all_patients():
    rng = np.random.default_rng(1)
    one, other = _features(rng, 90), _features(rng, 90)
    merged = merge([fidelity.feature_sums(one[:20]), fidelity.feature_sums(one[20:])])
    pooled = fidelity.feature_sums(one)
    second = fidelity.feature_sums(other)
    assert fidelity.frechet_distance(merged, second) == pytest.approx(
        fidelity.frechet_distance(pooled, second), rel=1e-9
    )


def test_frechet_with_fewer_patients_than_features_is_finite():
    rng = np.random.default_rng(2)
    few = fidelity.feature_sums(rng.normal(size=(5, 40)))
    more = fidelity.feature_sums(rng.normal(size=(300, 40)))
    assert 0 < fidelity.frechet_distance(more, few) < 100
    constant = fidelity.feature_sums(np.ones((5, 40)))
    assert fidelity.frechet_distance(more, constant) > 60  # 40 of variance and 40 of mean
    assert np.isnan(fidelity.frechet_distance(more, fidelity.feature_sums(np.ones((1, 40)))))
    assert np.isnan(fidelity.frechet_distance(more, {}))


def test_ssim_and_psnr_are_skimages():
    rng = np.random.default_rng(3)
    truth = _cines(rng)
    other = np.clip(truth + 0.2 * rng.normal(size=truth.shape), -1, 1).astype(np.float32)
    expected = np.mean(
        [structural_similarity(a, b, data_range=2.0) for a, b in zip(truth, other, strict=True)]
    )
    assert fidelity.ssim(truth, other) == pytest.approx(expected, abs=1e-5)
    assert fidelity.ssim(truth, truth) == pytest.approx(1.0)
    expected = peak_signal_noise_ratio(truth.astype(float), other.astype(float), data_range=2.0)
    assert fidelity.psnr(truth, other) == pytest.approx(expected, abs=1e-6)
    assert fidelity.psnr(truth, truth) == pytest.approx(100.0)


def test_diversity_is_the_mean_over_pairs_of_samples():
    samples = _cines(np.random.default_rng(4), 3, 5)
    gaps = [
        np.sqrt((((samples[i, 2] - samples[j, 2]) / 2) ** 2).mean())
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    assert fidelity.diversity(samples)[2] == pytest.approx(np.mean(gaps), rel=1e-5)
    same = np.broadcast_to(samples[:1], samples.shape)
    np.testing.assert_array_equal(fidelity.diversity(same), 0.0)


def test_nearest_distance_finds_a_copied_training_cine():
    rng = np.random.default_rng(5)
    training, cines = _cines(rng, 30), _cines(rng, 4)
    cines[1] = training[17]
    found = fidelity.nearest_distance(cines, [training[:11], training[11:]])
    assert found[1] == pytest.approx(0.0, abs=1e-3)
    expected = min(np.sqrt((((cines[0] - t) / 2) ** 2).mean()) for t in training)
    assert found[0] == pytest.approx(expected, rel=1e-4)
    whole = fidelity.nearest_distance(cines, [training])
    np.testing.assert_allclose(whole, found, atol=1e-6)
