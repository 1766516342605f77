"""The fixed point: never wraps, is off by what it says, and repeats bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cardionets_core.errors import SiteError, WireError
from cardionets_core.measured import RANGES
from cardionets_core.privacy.secure_aggregation.quantiser import (
    CHECKS,
    Quantiser,
    check_sum,
    size_of,
)


def update_of(rng, scale=1.0, size=50):
    return {
        "encoder": {
            "w": (scale * rng.normal(size=(size, 2))).astype(np.float32),
            "b": (scale * rng.normal(size=3)).astype(np.float32),
        },
        "head": {"w": (scale * rng.normal(size=size)).astype(np.float32)},
    }


def total_of(quantiser, updates, weights):
    total = np.zeros(size_of(updates[0]) + CHECKS, dtype=np.uint32)
    for update, weight in zip(updates, weights, strict=True):
        total += quantiser.residues(update, weight)[0]
    return total


@given(
    st.integers(0, 2**32),
    st.lists(st.integers(1, 10_000), min_size=1, max_size=9),
    st.sampled_from([1e-3, 1.0, 50.0]),
    st.sampled_from([0.1, 1.0, 4.0]),
)
@settings(max_examples=40, deadline=None)
def test_the_mean_is_that_of_the_clipped_updates_within_the_stated_error(
    seed, weights, scale, clip
):
    rng = np.random.default_rng(seed)
    updates = [update_of(rng, scale) for _ in weights]
    quantiser = Quantiser(len(weights) + 2, clip, {"head": 2 * clip}, max(weights))
    total = total_of(quantiser, updates, weights)
    check_sum(total, len(weights))
    mean = quantiser.mean(total, updates[0], sum(weights))
    for part, bound in (("encoder", clip), ("head", 2 * clip)):
        for name, got in mean[part].items():
            clipped = [np.clip(u[part][name].astype(np.float64), -bound, bound) for u in updates]
            expected = np.average(clipped, axis=0, weights=weights)
            error = quantiser.error(part, name, sum(weights)) + 1e-12 * bound
            assert np.abs(got - expected).max() <= error


@pytest.mark.parametrize("sites", [2, 3, 7, 100, 1000])
@pytest.mark.parametrize("sign", [-1, 1])
def test_sites_that_are_all_at_the_end_of_the_range_do_not_wrap(sites, sign):
    quantiser = Quantiser(sites, 0.3, {}, 77)
    update = {"p": {"w": np.full(3, sign * 1e9, dtype=np.float32)}}
    one, clipped = quantiser.residues(update, 77)
    total = (one.astype(np.uint64) * sites % 2**32).astype(np.uint32)
    mean = quantiser.mean(total, update, 77 * sites)["p"]["w"]
    assert clipped == 3 and np.allclose(mean, sign * 0.3, rtol=1e-6, atol=0)


def test_golden_residues_by_hand():
    """Two sites, C = 2: L = 1073741823. 1.0 of full weight is L / 2, and -1.0 of half weight -L/4.

    In whole steps, to nearest: 536870911.5 -> 536870912 (even), -268435455.75 -> -268435456.
    """
    quantiser = Quantiser(2, 2.0, {}, 10)
    plus, _ = quantiser.residues({"p": {"w": np.ones(1, np.float32)}}, 10)
    minus, _ = quantiser.residues({"p": {"w": -np.ones(1, np.float32)}}, 5)
    assert plus.tolist() == [536870912, 1, 1, 1, 1]
    assert minus.tolist() == [2**32 - 268435456, 1, 1, 1, 1]
    mean = quantiser.mean(plus + minus, {"p": {"w": np.ones(1)}}, 15)
    assert mean["p"]["w"][0] == pytest.approx((1.0 * 10 - 1.0 * 5) / 15, abs=1e-8)


def test_it_is_finer_than_float32_keeps_the_weights():
    quantiser = Quantiser(10, 1.0, {}, 100)
    assert quantiser.error("p", "w", 1000) < np.spacing(np.float32(0.05))


SDS = np.geomspace(0.05, 30.0, 8)
MEASURED = [name for _, name in RANGES]


def statistics_of(sd):
    """Return how far the statistics of latents of these sds, [C], lie from 0 and 1."""
    delta = {"latent_mean": 0.3 * sd, "latent_square": 1.09 * sd**2 - 1, "w": 0.1 * sd}
    return {"tokenizer": {name: array.astype(np.float32) for name, array in delta.items()}}


def sd_of(mean):
    return np.sqrt(1 + mean["latent_square"] - mean["latent_mean"] ** 2)


@pytest.mark.parametrize("clips", [{}, {"tokenizer": 0.01}, {"tokenizer": 100.0}])
@pytest.mark.parametrize("sites", [2, 10, 20])
def test_the_sd_of_the_latents_is_within_a_hundredth_whatever_clips_are_asked(sites, clips):
    """The site of the fewest studies has a tenth of those of the largest."""
    rng = np.random.default_rng(sites)
    weights = [100, 10, *rng.integers(10, 100, sites - 2).tolist()]
    updates = [statistics_of(SDS * rng.uniform(0.8, 1.25, len(SDS))) for _ in weights]
    quantiser = Quantiser(sites, 4.0, clips, 100)
    got = quantiser.mean(total_of(quantiser, updates, weights), updates[0], sum(weights))
    true = {
        name: np.average([u["tokenizer"][name] for u in updates], axis=0, weights=weights)
        for name in MEASURED
    }
    np.testing.assert_allclose(sd_of(got["tokenizer"]), sd_of(true), rtol=0.01)


def test_statistics_have_the_whole_range_of_a_release_and_weights_that_of_their_part():
    largest = {"latent_mean": -200.0, "latent_square": 1e4, "w": 1.0}
    update = {"tokenizer": {n: np.full(3, x, np.float32) for n, x in largest.items()}}
    quantiser = Quantiser(3, 4.0, {"tokenizer": 0.5}, 10)
    residues, clipped = quantiser.residues(update, 10)
    mean = quantiser.mean(residues, update, 10)["tokenizer"]
    assert clipped == 3  # the weights alone
    for name, expected in (largest | {"w": 0.5}).items():
        np.testing.assert_allclose(mean[name], expected, rtol=1e-8)


def test_the_size_of_a_sum_is_that_of_the_arrays():
    sizes = {len(Quantiser(3, 4.0, {}, 1).residues(statistics_of(x * SDS), 1)[0]) for x in (0, 1)}
    assert sizes == {3 * len(SDS) + CHECKS}


def test_the_same_update_gives_the_same_residues():
    update = update_of(np.random.default_rng(3))
    first, second = (Quantiser(5, 1.0, {}, 9).residues(update, 4)[0] for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(value):
    with pytest.raises(SiteError, match="diverged"):
        Quantiser(2, 1.0, {}, 1).residues({"p": {"w": np.array([value], np.float32)}}, 1)


@pytest.mark.parametrize("weight", [0, -1, 11])
def test_a_weight_beyond_the_largest_is_refused(weight):
    with pytest.raises(SiteError, match="refused_task"):
        Quantiser(2, 1.0, {}, 10).residues({"p": {"w": np.ones(1, np.float32)}}, weight)


def test_a_sum_with_a_mask_left_in_it_is_known():
    total = np.zeros(10, dtype=np.uint32)
    total[-CHECKS:] = [3, 3, 3, 4]
    with pytest.raises(WireError, match="does not unmask"):
        check_sum(total, 3)
