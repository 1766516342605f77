"""The formulas of the objectives: golden values, by hand or from other code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cardionets_core.models.masking import choose_visible
from cardionets_core.training.alignment import (
    descriptor_distance,
    info_nce,
    negative_weights,
    phenotype_distance,
)
from cardionets_core.training.generative import kl_divergence, split_tokens, truncated_normal
from cardionets_core.training.masked import hidden_error


def test_visible_tokens_keep_the_ratio_of_each_patient() -> None:
    present = torch.ones(3, 40, dtype=torch.bool)
    present[1, 20:] = False  # half the leads
    present[2] = False
    noise = torch.rand(3, 40, generator=torch.Generator().manual_seed(0))
    visible = choose_visible(noise, present, mask_ratio=0.75)
    assert visible.index.shape == (3, 10)
    assert visible.used.sum(1).tolist() == [10, 5, 0]
    assert visible.hidden.sum(1).tolist() == [30, 15, 0]
    for row in range(2):
        seen = set(visible.index[row][visible.used[row]].tolist())
        hidden = set(torch.nonzero(visible.hidden[row]).flatten().tolist())
        there = set(torch.nonzero(present[row]).flatten().tolist())
        assert not seen & hidden
        assert seen | hidden == there
        assert max(noise[row, list(seen)]) < min(noise[row, list(hidden)])


def test_error_counts_hidden_patches_only() -> None:
    target = torch.zeros(2, 4, 3)
    prediction = torch.full((2, 4, 3), 100.0)
    hidden = torch.tensor([[True, False, True, False], [False] * 4])
    prediction[0, 0], prediction[0, 2] = 2.0, 4.0
    assert hidden_error(prediction, target, hidden).tolist() == [(4.0 + 16.0) / 2, 0.0]


def numpy_info_nce(
    ecg: np.ndarray, cmr: np.ndarray, weights: np.ndarray, temperature: float
) -> np.ndarray:
    """Written out by hand: -log of the pair's share, both directions, averaged."""
    size = len(ecg)
    result = np.zeros(size)
    for i in range(size):
        for anchor, others in ((ecg[i], cmr), (cmr[i], ecg)):
            own = np.exp(anchor @ others[i] / temperature)
            rest = sum(
                weights[i, j] * np.exp(anchor @ others[j] / temperature)
                for j in range(size)
                if j != i
            )
            result[i] += -0.5 * np.log(own / (own + rest))
    return result


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_info_nce_golden_value(temperature: float) -> None:
    rng = np.random.default_rng(0)
    ecg, cmr = (rng.normal(size=(6, 4)) for _ in range(2))
    ecg /= np.linalg.norm(ecg, axis=1, keepdims=True)
    cmr /= np.linalg.norm(cmr, axis=1, keepdims=True)
    distance = rng.uniform(0, 2, size=(6, 6))
    distance = distance + distance.T
    weights = 1 - np.exp(-distance / 0.5**2)
    ours = info_nce(
        torch.tensor(ecg),
        torch.tensor(cmr),
        negative_weights(torch.tensor(distance), 0.5).float(),
        temperature=temperature,
    )
    np.testing.assert_allclose(
        ours.numpy(), numpy_info_nce(ecg, cmr, weights, temperature), rtol=2e-4, atol=1e-5
    )


def test_info_nce_with_equal_weights_is_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    ecg, cmr = (F.normalize(torch.randn(8, 5, generator=generator), dim=1) for _ in range(2))
    logits, labels = ecg @ cmr.T / 0.1, torch.arange(8)
    expected = 0.5 * (
        F.cross_entropy(logits, labels, reduction="none")
        + F.cross_entropy(logits.T, labels, reduction="none")
    )
    weights = negative_weights(torch.rand(8, 8, generator=generator), sigma=0.0)
    assert torch.allclose(info_nce(ecg, cmr, weights, temperature=0.1), expected, atol=1e-5)


def test_negatives_that_are_alike_weigh_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    ecg, cmr = (F.normalize(torch.randn(4, 5, generator=generator), dim=1) for _ in range(2))
    weights = negative_weights(torch.zeros(4, 4), sigma=0.5)
    assert torch.allclose(info_nce(ecg, cmr, weights, temperature=0.1), torch.zeros(4), atol=1e-6)


def test_phenotype_distance_reads_only_what_both_have() -> None:
    values = torch.tensor([[0.0, 1.0, 5.0], [2.0, 9.0, 4.0], [1.0, 1.0, 1.0]])
    mask = torch.tensor([[True, True, False], [True, False, True], [False, False, False]])
    distance = phenotype_distance(values * mask, mask)
    assert float(distance[0, 1]) == pytest.approx(4.0)
    assert torch.isinf(distance[0, 2])
    assert float(negative_weights(distance, 0.5)[0, 2]) == 1.0


def test_descriptor_distance_is_two_on_average() -> None:
    generator = torch.Generator().manual_seed(0)
    features = 3.0 + 0.2 * torch.randn(64, 10, generator=generator)
    distance = descriptor_distance(features, torch.ones(64, dtype=torch.bool))
    off = distance[~torch.eye(64, dtype=torch.bool)]
    assert float(off.mean()) == pytest.approx(2.0 * 64 / 63, rel=1e-4)
    assert torch.allclose(distance.diagonal(), torch.zeros(64))


def test_kl_against_torch_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(3, 2, 4, generator=generator)
    log_variance = torch.randn(3, 2, 4, generator=generator)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(
        normal(mean, (0.5 * log_variance).exp()), normal(0.0, 1.0)
    )
    assert torch.allclose(kl_divergence(mean, log_variance), expected.sum((1, 2)), atol=1e-5)


def test_mask_ratio_is_a_truncated_normal() -> None:
    from scipy.stats import kstest, truncnorm

    generator = torch.Generator().manual_seed(0)
    drawn = truncated_normal((4000,), generator, low=0.7, high=1.0, mean=1.0, sd=0.25)
    expected = truncnorm(-0.3 / 0.25, 0.0, loc=1.0, scale=0.25)
    assert kstest(drawn.numpy(), expected.cdf).pvalue > 0.01
    assert 0.7 <= float(drawn.min()) and float(drawn.max()) <= 1.0


def test_known_and_trained_tokens_are_disjoint() -> None:
    order = torch.rand(3, 20, generator=torch.Generator().manual_seed(0))
    known, query = split_tokens(order, torch.tensor([0.7, 0.82, 1.0]), queries=14)
    assert known.used.sum(1).tolist() == [6, 3, 0]
    assert query.shape == (3, 14)
    for row in range(3):
        seen = set(known.index[row][known.used[row]].tolist())
        assert not seen & set(query[row].tolist())
