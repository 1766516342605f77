"""The firewall's bounds of how far an update may go: from whom they are learned, and when."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from cardionets_core.model_config import ModelConfig
from cardionets_core.run_config import StageConfig
from cardionets_core.screening_config import ScreeningConfig
from server.norms import STATISTICS, l2_norm, learned_names, norms_of, travel
from server.screening import Asked, Firewall
from tests.server.screened_round import (
    SITES,
    WEIGHTS,
    an_update,
    clean_round,
    firewall,
    judged,
    noise,
    round_of,
)


def decayed(scale=1.0):
    """Return what weight decay alone does in one AdamW step of the settings of `firewall`."""
    settings_ = StageConfig(rounds=20, batch_size=8, lr_floor=1.0)
    shrunk = -settings_.lr * settings_.weight_decay * WEIGHTS["ecg_encoder"]["w"]
    return (scale * shrunk).astype(np.float32)


def test_a_round_in_which_no_gradient_reached_a_part_bounds_nothing():
    still = [an_update(num_examples=8, site=s, w=decayed(1 + i / 100)) for i, s in enumerate(SITES)]
    first = round_of(1, still)
    assert first["accepted"] == list(SITES)
    second = clean_round(2, [first], norm_floor=0.0)
    assert second["accepted"] == list(SITES)
    # From then on the median is that of updates which training made.
    third = firewall(3, [first, second], norm_floor=0.0)
    assert judged(third, an_update(number=3, w=noise(1))) is None
    assert judged(third, an_update(site="b", number=3, w=noise(2, scale=0.5))) == "norm"


def test_the_norm_is_that_of_numpy_in_float64_and_does_not_overflow():
    values = np.random.default_rng(5).normal(size=(300, 700)).astype(np.float32)
    got = l2_norm([values, np.array(10**9)])  # an integer does not count
    assert got == pytest.approx(np.linalg.norm(values.astype(np.float64)), rel=1e-8)
    assert l2_norm([np.full(4, 1e30, dtype=np.float32)]) == pytest.approx(2e30)
    assert l2_norm([]) == 0.0


def test_statistics_are_judged_by_themselves():
    """The tokenizer measures its latents; that moves with other laws than its weights do."""
    learned = learned_names(ModelConfig(), ["tokenizer", "ecg_encoder"])
    assert not learned["tokenizer"] & {"latent_mean", "latent_square"}
    arrays = {"latent_mean": np.full(4, 3.0), next(iter(learned["tokenizer"])): np.full(1, 2.0)}
    groups = {"tokenizer": arrays, "ecg_encoder": {}}
    norms = norms_of(groups, learned)
    assert norms == {"ecg_encoder": 0.0, "tokenizer": 2.0, "tokenizer" + STATISTICS: 6.0}
    assert norms_of(groups, {})["tokenizer"] == pytest.approx(math.sqrt(40))


def test_statistics_that_are_measured_in_the_last_round_only_are_taken():
    """As in a private run: rounds before say nothing of how far they go."""
    weights = {"tokenizer": {"w": np.ones(3, np.float32), "latent_mean": np.zeros(3, np.float32)}}
    learned = {"tokenizer": frozenset({"w"})}
    asked = Asked("run-1", "tokenizer", 4, weights, 3, learned=learned)
    norms = {"tokenizer": 0.01, "tokenizer" + STATISTICS: 0.0}
    before = [
        {
            "stage": "tokenizer",
            "round": number,
            "num_examples": dict.fromkeys("abc", 10),
            "screening": {"lifted": False, "norms": dict.fromkeys("abc", norms), "sha256": {}},
            "refused": {},
            "accepted": list("abc"),
        }
        for number in (1, 2, 3)
    ]
    stage = StageConfig(rounds=4, batch_size=8, lr_floor=1.0)
    wall = Firewall(asked, config=ScreeningConfig(), settings=stage, records=before)
    wall.start_try()
    assert wall.bound("tokenizer", 10) < math.inf == wall.bound("tokenizer" + STATISTICS, 10)


def test_travel_grows_with_the_rate_and_the_root_of_the_steps():
    stage = StageConfig(rounds=4, batch_size=8, lr=0.5, lr_floor=0.0)
    far = travel("p", 32, settings=stage, number=1)
    assert far == pytest.approx(0.5 * 2)
    assert travel("p", 3, settings=stage, number=1) == pytest.approx(0.5)
    assert travel("p", 32, settings=stage, number=3) == pytest.approx(far / 2)  # half-cosine
    assert travel("p" + STATISTICS, 32, settings=stage, number=3) == 1.0


def test_the_fixed_bound_speaks_from_the_first_round_on():
    wall = firewall(max_norm=1.0)
    assert judged(wall, an_update(w=np.full((2, 3), 0.41, dtype=np.float32))) == "max_norm"
    assert judged(wall, an_update(w=np.full((2, 3), 0.40, dtype=np.float32))) is None


def test_the_median_bound_waits_until_it_has_seen_enough():
    flipped = an_update(number=2, w=noise([2, 0]) * np.float32(-10))
    assert judged(firewall(2, [clean_round(1)], norm_after=6), flipped) is None
    assert judged(firewall(2, [clean_round(1)], norm_after=5), flipped) == "norm"
    assert judged(firewall(2, [clean_round(1)], norm_factor=0), flipped) is None
    assert judged(firewall(1, [], norm_after=1), replace(flipped, round=1)) is None


@pytest.mark.parametrize("seed", range(20))
def test_sign_flip_times_ten_is_refused(seed):
    records = [clean_round(1), clean_round(2)]
    wall = firewall(3, records)
    honest = noise([3, seed])
    assert judged(wall, an_update(number=3, w=honest * np.float32(-10))) == "norm"
    assert judged(wall, an_update(number=3, w=honest)) is None


def test_a_poisoned_first_round_does_not_move_the_median_far():
    """Before the bound speaks one of five may send anything; the other four keep the median."""
    updates = [an_update(site=s, w=noise([1, i])) for i, s in enumerate(SITES)]
    updates[0] = an_update(site="a", w=noise([1, 0], 10.0))
    wall = firewall(2, [round_of(1, updates)])
    assert judged(wall, an_update(number=2, w=noise([2, 0], 10.0))) == "norm"
    assert judged(wall, an_update(site="b", number=2, w=noise([2, 1]))) is None


def test_one_round_does_not_judge_itself():
    """So a decision does not depend on the order of arrival."""
    wall = firewall(2, [clean_round(1)])
    before = wall.bound("ecg_encoder", 10)
    judged(wall, an_update(number=2, w=noise([2, 0], 0.02)))
    assert wall.bound("ecg_encoder", 10) == before < math.inf


def test_a_site_with_more_steps_may_go_further():
    wall = firewall(2, [clean_round(1)])  # batches of 8: 10 studies are two steps
    assert wall.bound("ecg_encoder", 800) == pytest.approx(
        wall.bound("ecg_encoder", 10) * math.sqrt(50)
    )


def test_the_floor_lets_converged_models_through():
    plain = StageConfig(rounds=20, batch_size=8, lr_floor=1.0, weight_decay=0.0)
    records = [clean_round(1, scale=1e-7)]
    larger = an_update(number=2, w=np.full((2, 3), 1e-5, dtype=np.float32))
    assert judged(firewall(2, records, settings_=plain), larger) is None
    assert judged(firewall(2, records, settings_=plain, norm_floor=0), larger) == "norm"
    zeros = [round_of(1, [an_update(site=s, w=noise(0, 0.0)) for s in SITES])]
    assert judged(firewall(2, zeros, norm_floor=0), larger) is None  # a median of 0 says nothing


def test_where_most_sites_break_the_bound_it_is_the_bound_that_is_wrong():
    records = [clean_round(1)]
    second = clean_round(2, records, scale=1.0)
    assert second["refused"] == dict.fromkeys(SITES, "norm")
    third = clean_round(3, [*records, second], scale=1.0)
    assert third["refused"] == {} and third["screening"]["lifted"]
    fourth = clean_round(4, [*records, second, third], scale=1.0)
    assert fourth["refused"] == {} and not fourth["screening"]["lifted"]
    flipped = an_update(number=5, w=noise([5, 0], 10.0))
    assert judged(firewall(5, [*records, second, third, fourth]), flipped) == "norm"


def test_a_second_try_lifts_it_only_for_a_majority_of_all_who_were_asked():
    for broken, sites, want in ((3, 5, None), (2, 5, "norm"), (2, 4, "norm"), (1, 1, None)):
        wall = firewall(2, [clean_round(1)], sites=sites)
        large = [an_update(site=s, number=2, w=noise([2, i], 1.0)) for i, s in enumerate(SITES)]
        assert [judged(wall, u) for u in large[:broken]] == ["norm"] * broken
        wall.start_try()
        assert judged(wall, large[0]) == want


def test_a_restarted_server_judges_as_the_one_before():
    """All that is remembered went through JSON, as the checkpoint does."""
    records = [clean_round(1), clean_round(2)]
    again = json.loads(json.dumps(records))
    assert again == records
    assert firewall(3, again).bound("ecg_encoder", 10) == firewall(3, records).bound(
        "ecg_encoder", 10
    )
    assert judged(firewall(3, again), an_update(number=3, w=noise([2, 0]))) == "replay"


def test_records_of_older_runs_and_other_stages_say_nothing():
    other = clean_round(1) | {"stage": "tokenizer"}
    old = {k: v for k, v in clean_round(1).items() if k != "screening"}
    handshake = {"stage": "handshake", "round": 1, "accepted": ["a"], "refused": {}}
    wall = firewall(2, [handshake, old, other])
    assert wall.bound("ecg_encoder", 10) == math.inf
    assert judged(wall, an_update(number=2, w=noise([1, 0]))) == "replay"  # in whatever stage
