"""Client-level privacy: clipping over all parts, noise by a planned divisor, and what it costs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cardionets_core.privacy.central import clipped_update, cost_of, noised_mean
from cardionets_core.privacy.rng import PrivacyRandom
from cardionets_core.privacy_config import CentralPrivacy


def norm_of(groups):
    return math.sqrt(sum(float((a**2).sum()) for g in groups.values() for a in g.values()))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_an_update_is_clipped_over_all_parts_together(scale):
    rng = np.random.default_rng(0)
    delta = {
        "a": {"w": (scale * rng.standard_normal((3, 4))).astype(np.float32)},
        "b": {"w": (scale * rng.standard_normal(5)).astype(np.float32)},
    }
    clipped = clipped_update(delta, 2.0)
    if norm_of(delta) <= 2.0:
        assert norm_of(clipped) == pytest.approx(norm_of(delta), rel=1e-9)
    else:
        assert 1.999 < norm_of(clipped) <= 2.0
    ratio = clipped["a"]["w"][0, 0] / delta["a"]["w"][0, 0]
    assert clipped["b"]["w"][0] == pytest.approx(ratio * delta["b"]["w"][0])


def test_an_empty_update_stays_empty():
    assert norm_of(clipped_update({"a": {"w": np.zeros(3, np.float32)}}, 1.0)) == 0.0


def test_the_divisor_is_planned_and_the_noise_is_of_the_sum():
    plan = CentralPrivacy(noise=0.5, clip=3.0)
    mean = {"a": {"w": np.full(40_000, 2.0)}}
    found = noised_mean(mean, {"a": 3}, sites=5, plan=plan, rng=PrivacyRandom())["a"]["w"]
    # Three of five came: their sum, 6, over five; noise of 0.5 x 3 on the sum.
    assert found.mean() == pytest.approx(6 / 5, abs=0.01)
    assert found.std() == pytest.approx(1.5 / 5, rel=0.025)


def test_noise_from_a_seeded_source_is_refused():
    class Seeded:
        def normal(self, shape, std):
            return np.random.default_rng(0).normal(0, std, shape)

    with pytest.raises(TypeError, match="PrivacyRandom"):
        noised_mean({}, {}, sites=1, plan=CentralPrivacy(noise=1.0), rng=Seeded())


def test_five_sites_at_epsilon_8_are_drowned_in_noise():
    """PRIVACY.md 4.4: z = 4.2, 50 rounds, 5 million weights: about 1,900 a round, 268 in all."""
    cost = cost_of(CentralPrivacy(noise=4.2), sites=5, rounds=50, weights=5_000_000)
    assert 8.0 <= cost.epsilon <= 8.8  # exactly 8 for one Gaussian; Renyi DP is a little looser
    assert cost.per_round == pytest.approx(1898, rel=0.02)
    assert cost.per_run == pytest.approx(268, rel=0.02)
    assert "5 sites" in cost.sentence() and "1,878 times" in cost.sentence()


def test_a_negative_noise_is_refused():
    with pytest.raises(ValueError, match="noise is -1"):
        CentralPrivacy(noise=-1.0)
