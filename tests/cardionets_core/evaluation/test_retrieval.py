"""Ranks by hand, chance by simulation, and galleries that add up."""

import numpy as np
import pytest

from cardionets_core.evaluation.retrieval import (
    histogram_median,
    match_ranks,
    retrieval_sums,
    summarise_retrieval,
)
from cardionets_core.evaluation.sums import merge


def _unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_ranks_by_hand_and_ties_count_against():
    similarity = np.array([[0.9, 0.1, 0.2], [0.5, 0.4, 0.3], [0.7, 0.7, 0.7]])
    np.testing.assert_array_equal(match_ranks(similarity), [1, 2, 3])


def test_a_collapsed_encoder_never_beats_chance():
    same = np.ones((40, 4)) / 2
    report = summarise_retrieval(retrieval_sums(same, same, np.ones((21, 40))))
    assert report["ecg_to_cmr"]["recall"]["r_at_10"]["value"] == 0.0
    assert report["ecg_to_cmr"]["recall"]["r_at_10"]["chance"] == pytest.approx(10 / 40)


def test_random_embeddings_score_chance():
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(40):
        ecg, cmr = (_unit(rng.normal(size=(50, 8))) for _ in range(2))
        parts.append(retrieval_sums(ecg, cmr, np.ones((21, 50))))
    report = summarise_retrieval(merge(parts))["cmr_to_ecg"]
    assert report["recall"]["r_at_5"]["value"] == pytest.approx(0.1, abs=0.02)
    assert report["recall"]["r_at_5"]["chance"] == pytest.approx(0.1)
    assert report["median_rank"] == pytest.approx(report["chance_median_rank"], abs=1.5)
    assert (report["queries"], report["mean_candidates"]) == (2000, 50)


def test_small_and_large_galleries_keep_their_own_chance():
    rng = np.random.default_rng(1)
    sizes = (4, 30)
    parts = [
        retrieval_sums(
            _unit(rng.normal(size=(n, 3))), _unit(rng.normal(size=(n, 3))), np.ones((21, n))
        )
        for n in sizes
    ]
    recall = summarise_retrieval(merge(parts))["ecg_to_cmr"]["recall"]
    assert recall["r_at_5"]["chance"] == pytest.approx((4 * 1 + 30 * 5 / 30) / 34)
    assert recall["r_at_1"]["chance"] == pytest.approx(2 / 34)


def test_perfect_match_ranks_first_in_both_directions():
    x = _unit(np.random.default_rng(2).normal(size=(25, 6)))
    report = summarise_retrieval(retrieval_sums(x, x, np.ones((21, 25))))
    for direction in report.values():
        assert direction["recall"]["r_at_1"]["value"] == 1.0
        assert direction["median_rank"] == 1.0


@pytest.mark.parametrize("ranks", [[1], [1, 2], [3, 3, 9], [1, 4, 6, 1000], [2, 5, 5, 7, 8]])
def test_median_of_a_histogram(ranks):
    counts = np.bincount(np.array(ranks) - 1, minlength=1024).astype(float)
    assert histogram_median(counts) == np.median(ranks)
