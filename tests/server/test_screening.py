"""The firewall as pure functions: form, identity and replay; what is refused and never is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cardionets_core.errors import ConfigError
from cardionets_core.messages import Update
from cardionets_core.run_config import CONF, compose, run_config_from
from cardionets_core.screening_config import ScreeningConfig
from server.aggregation import LIMIT, ExactMean
from server.screening import mark_of, screen, used_marks
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


def reason(update, max_examples=100, **more):
    return screen(update, expected=WEIGHTS, max_examples=max_examples, **more)


# ------------------------------------------------------------------------------ form and identity


def test_a_clean_update_passes():
    assert reason(an_update()) is None
    assert reason(an_update(num_examples=100)) is None


@pytest.mark.parametrize("num_examples", [0, -9, 101, 10**12])
def test_a_weight_beyond_what_the_site_declared(num_examples):
    assert reason(an_update(num_examples)) == "num_examples"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite(value):
    w = np.zeros((2, 3), dtype=np.float32)
    w[1, 2] = value
    assert reason(an_update(w=w)) == "not_finite"


def test_a_value_that_would_swamp_the_others():
    assert reason(an_update(w=np.full((2, 3), -1e30, dtype=np.float32))) == "too_large"
    assert reason(an_update(w=np.full((2, 3), 5000.0, dtype=np.float32))) is None
    assert reason(an_update(w=np.full((2, 3), 5000.0, dtype=np.float32)), sites=100) == "too_large"
    assert reason(an_update(steps=np.array(np.iinfo(np.int64).min))) == "too_large"


@pytest.mark.parametrize("sites", [5, 64, 300])
def test_what_passes_from_every_site_fits_one_sum(sites):
    largest = np.nextafter(np.float32(LIMIT / max(64, sites) / 100), np.float32(0))
    update = an_update(100, w=np.full((2, 3), largest, dtype=np.float32))
    assert reason(update, sites=sites) is None
    mean = ExactMean()
    for _ in range(sites):
        mean.fold(update.delta, update.num_examples)
    assert np.allclose(mean.mean()["ecg_encoder"]["w"], largest)


@pytest.mark.parametrize(
    "w",
    [
        np.zeros(3, dtype=np.float32),  # would broadcast
        np.zeros((1, 3), dtype=np.float32),
        np.zeros((3, 2), dtype=np.float32),
        np.zeros((2, 3), dtype=np.float64),
        np.zeros((2, 3), dtype=np.int64),
    ],
)
def test_another_shape_or_dtype(w):
    assert reason(an_update(w=w)) == "shape"


def test_keys_and_parts_more_or_less():
    assert reason(an_update(more=np.zeros(2, dtype=np.float32))) == "keys"
    update = an_update()
    del update.delta["ecg_encoder"]["w"]
    assert reason(update) == "keys"
    update.delta["generator"] = {}
    assert reason(update) == "parts"
    assert reason(Update("s", "r", "t", 1, num_examples=3)) == "parts"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"site": "b"}, "wrong_site"),
        ({"run": "run-2"}, "wrong_run"),
        ({"stage": "contrastive"}, "wrong_stage"),
        ({"round": 2}, "wrong_round"),
        ({"round": 0}, "wrong_round"),
    ],
)
def test_an_update_for_something_else(changes, code):
    assert judged(firewall(), replace(an_update(), **changes), site="a") == code


def test_a_site_counts_once():
    wall = firewall()
    assert judged(wall, an_update(w=noise(1))) is None
    assert judged(wall, an_update(w=noise(2))) == "duplicate"
    assert list(wall.record(["a"])["sha256"]) == ["a"]


# ----------------------------------------------------------------------------------------- replay


def test_an_update_of_an_earlier_round_is_known_again_under_any_name():
    first = clean_round(1)
    wall = firewall(2, [first])
    for site in ("a", "b"):
        again = an_update(site=site, number=2, num_examples=33, w=noise([1, 0]))
        assert judged(wall, again) == "replay"
    assert judged(wall, an_update(number=2, w=noise([2, 0]))) is None
    assert judged(wall, an_update(site="b", number=2, w=noise([2, 0]))) == "replay"


def test_a_second_try_of_a_round_may_bring_the_same_updates():
    """The first try's sum was thrown away: refusing its honest updates would end the run."""
    wall = firewall()
    for _ in range(2):
        wall.start_try()
        assert [judged(wall, an_update(site=s, w=noise(i))) for i, s in enumerate("abc")] == [
            None,
            None,
            None,
        ]


def test_the_ledger_forgets_the_oldest_first():
    records = [clean_round(1), clean_round(2)]
    assert len(used_marks(records, 100)) == 10 and used_marks(records, 0) == []
    assert used_marks(records, 5) == list(records[1]["screening"]["sha256"].values())
    wall = firewall(3, records, remembered=5)
    assert judged(wall, an_update(site="a", number=3, w=noise([1, 0]))) is None
    assert judged(wall, an_update(site="b", number=3, w=noise([2, 0]))) == "replay"


def test_zeros_are_no_replay():
    zeros = {"w": np.zeros((2, 3), dtype=np.float32)}
    wall = firewall(2, [round_of(1, [an_update(site=s, **zeros) for s in SITES])])
    assert [judged(wall, an_update(site=s, number=2, **zeros)) for s in SITES] == [None] * 5


def test_the_hash_covers_names_parts_and_numbers():
    base = an_update().delta
    changed = an_update(w=np.full((2, 3), np.nextafter(np.float32(0.1), 1)))
    renamed = {"cmr_encoder": base["ecg_encoder"]}
    assert mark_of(base) == mark_of(an_update(num_examples=3, site="z").delta)
    assert len({mark_of(base), mark_of(changed.delta), mark_of(renamed), mark_of({})}) == 4


# ------------------------------------------------------------------------------------- the config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_norm", -1),
        ("norm_factor", 0.5),
        ("norm_factor", "nan"),
        ("norm_after", 0),
        ("norm_rounds", 0),
        ("norm_floor", -0.1),
        ("remembered", -1),
    ],
)
def test_bounds_that_mean_nothing_are_refused_by_name(key, value):
    words = ["name=x", f"screening.{key}={value}"]
    with pytest.raises(ConfigError, match=key):
        run_config_from(compose("run", words, package=CONF))


def test_the_yaml_holds_the_defaults():
    config = run_config_from(compose("run", ["name=x"], package=CONF))
    assert config.screening == ScreeningConfig()
