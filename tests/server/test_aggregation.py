"""The exact mean: one answer in every order of arrival, and the right one."""

from __future__ import annotations

import hashlib
import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from cardionets_core.errors import RunError
from server.aggregation import EXACT, LIMIT, SCALE, ExactMean, add_steps

FLOATS = st.floats(-100, 100, width=32)
DELTAS = st.lists(
    st.tuples(npst.arrays(np.float32, 7, elements=FLOATS), st.integers(1, 5000)),
    min_size=1,
    max_size=6,
)


def mean_of(updates, name="w"):
    mean = ExactMean()
    for delta, weight in updates:
        mean.fold({"part": {name: delta}}, weight)
    return mean.mean()["part"][name]


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def five_updates(seed=3, size=1000):
    rng = np.random.default_rng(seed)
    sizes = (17, 280, 1033, 4, 96)
    # Spread over eight orders of magnitude, where floating-point sums depend on their order.
    return [
        ((rng.normal(size=size) * 10.0 ** rng.uniform(-8, 1, size)).astype(np.float32), n)
        for n in sizes
    ]


def test_all_120_orders_of_five_updates_give_one_sha256():
    updates = five_updates()
    assert len({digest(mean_of(order)) for order in itertools.permutations(updates)}) == 1


def test_the_test_above_can_fail():
    """Plain float32 sums of the same updates do depend on the order."""
    updates = five_updates()

    def plain(order):
        total = np.zeros(1000, dtype=np.float32)
        for delta, weight in order:
            total += delta * np.float32(weight)
        return total

    assert len({digest(plain(order)) for order in itertools.permutations(updates)}) > 1


@given(DELTAS, st.randoms())
@settings(max_examples=100, deadline=None)
def test_any_order_gives_the_same_bits(updates, random):
    shuffled = list(updates)
    random.shuffle(shuffled)
    assert digest(mean_of(updates)) == digest(mean_of(shuffled))


@given(DELTAS)
@settings(max_examples=100, deadline=None)
def test_the_mean_is_exact_to_the_promised_bound(updates):
    """Against rational arithmetic: within sites / patients x 2^-37, plus float64 rounding."""
    patients = sum(n for _, n in updates)
    got = mean_of(updates)
    for i, value in enumerate(got):
        exact = sum((Fraction(float(d[i])) * n for d, n in updates), Fraction(0)) / patients
        bound = Fraction(len(updates), patients) / 2**37 + abs(exact) / 2**51
        assert abs(Fraction(float(value)) - exact) <= bound


def test_the_mean_is_that_of_numpy_in_float64():
    updates = five_updates()
    weights = np.array([n for _, n in updates], dtype=np.float64)
    want = np.average(np.stack([d.astype(np.float64) for d, _ in updates]), axis=0, weights=weights)
    np.testing.assert_allclose(
        mean_of(updates), want, rtol=0, atol=5 / weights.sum() * 2.0**-37 + 1e-16
    )


def test_the_mean_is_that_of_flowers_own_fedavg():
    from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
    from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

    updates = five_updates()
    records = [
        RecordDict(
            {
                "arrays": ArrayRecord({"w": Array(delta)}),
                "metrics": MetricRecord({"num-examples": weight}),
            }
        )
        for delta, weight in updates
    ]
    flower = aggregate_arrayrecords(records, "num-examples")["w"].numpy()
    np.testing.assert_allclose(mean_of(updates), flower, rtol=1e-5, atol=1e-6)


def test_equal_updates_come_back_as_they_are():
    delta = np.array([0.1, -2.5, 3e-5, 0.0], dtype=np.float32)
    got = mean_of([(delta, n) for n in (3, 10, 87)])
    assert np.array_equal(got.astype(np.float32), delta)


def test_parts_that_only_some_sites_trained_are_not_asked_of_others():
    """Every update of a stage holds the same parts; a part that nobody sent has no mean."""
    mean = ExactMean()
    mean.fold({"ecg_encoder": {"w": np.ones(2, dtype=np.float32)}}, 10)
    assert set(mean.mean()) == {"ecg_encoder"}


def test_each_part_is_the_mean_over_the_sites_that_trained_it():
    def of(part, value):
        return {part: {"w": np.full(2, value, dtype=np.float32)}}

    mean = ExactMean()
    mean.fold(of("ecg_encoder", 1.0), 10)  # ECGs only
    mean.fold(of("cmr_encoder", 8.0), 5)  # CMR only
    mean.fold(of("ecg_encoder", 4.0) | of("cmr_encoder", 2.0), 20)  # pairs
    got = mean.mean()
    assert np.array_equal(got["ecg_encoder"]["w"], np.full(2, 3.0))  # (10 + 80) / 30
    assert np.array_equal(got["cmr_encoder"]["w"], np.full(2, 3.2))  # (40 + 40) / 25
    assert mean.weight == 35


def test_a_scalar_stays_an_array_without_dimensions():
    got = mean_of([(np.array(2.0, dtype=np.float32), 3), (np.array(4.0, dtype=np.float32), 1)])
    assert isinstance(got, np.ndarray) and got.shape == () and got == 2.5


def test_an_update_that_would_overflow_is_refused_and_leaves_no_trace():
    small = {
        "a": {"w": np.full(3, 0.25, dtype=np.float32)},
        "b": {"w": np.ones(2, dtype=np.float32)},
    }
    large = {"a": {"w": np.ones(3, dtype=np.float32)}, "b": {"w": np.full(2, LIMIT, np.float32)}}
    mean, clean = ExactMean(), ExactMean()
    mean.fold(small, 10)
    clean.fold(small, 10)
    with pytest.raises(RunError, match=r"b\.w"):
        mean.fold(large, 2)
    assert mean.weight == clean.weight == 10
    got, want = mean.mean(), clean.mean()
    for part in small:
        assert np.array_equal(got[part]["w"], want[part]["w"])


def test_sums_at_the_limit_do_not_wrap_around():
    """Growing weights are the worst case: each update outweighs all before it together."""
    mean, exact, patients, seen = ExactMean(), Fraction(0), 0, 0
    for i in range(12):
        weight = 10**i
        seen += weight
        value = np.float32(LIMIT / seen)
        try:
            mean.fold({"p": {"w": np.array([value])}}, weight)
        except RunError:
            continue
        exact += Fraction(float(value)) * weight
        patients += weight
    got = Fraction(float(mean.mean()["p"]["w"][0]))
    assert (
        abs(got - exact / patients)
        <= Fraction(12, patients) / 2**37 + abs(exact / patients) / 2**40
    )


def test_64_screened_updates_always_fit():
    largest = np.array([LIMIT / 64], dtype=np.float32)
    mean = ExactMean()
    for _ in range(64):
        mean.fold({"p": {"w": largest}}, 1)
    assert mean.mean()["p"]["w"] == largest
    with pytest.raises(RunError):
        mean.fold({"p": {"w": largest}}, 1)


def test_memory_does_not_grow_with_the_number_of_sites():
    import tracemalloc

    rng = np.random.default_rng(0)
    delta = {"p": {"w": rng.normal(size=50_000).astype(np.float32)}}

    def peak(sites):
        tracemalloc.start()
        mean = ExactMean()
        for _ in range(sites):
            mean.fold(delta, 10)
        _, top = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return top

    peak(1)
    assert peak(32) < 1.1 * peak(2)


def test_both_ways_of_rounding_give_the_same_bits():
    """Halves and their neighbours, both signs, up to the size where the slower way takes over."""
    halves = np.arange(-50_000, 50_000) / 2
    wide = np.random.default_rng(0).uniform(-1, 1, 100_000) * EXACT
    for values in (halves, np.nextafter(halves, np.inf), wide, np.trunc(wide) + 0.5):
        fast, slow = np.zeros(len(values), np.int64), np.zeros(len(values), np.int64)
        add_steps(fast, values, 1.0, small=True)
        add_steps(slow, values, 1.0, small=False)
        assert np.array_equal(fast, slow)
        assert np.array_equal(slow, np.rint(values).astype(np.int64))


@given(DELTAS, st.lists(st.integers(0, 2), min_size=6, max_size=6))
@settings(max_examples=100, deadline=None)
def test_regional_servers_give_the_bits_of_a_single_one(updates, regions):
    """Two levels: each region folds its own sites, the sums of the regions are added."""
    parts = ({"ecg"}, {"cmr"}, {"ecg", "cmr"})
    single, regional = ExactMean(), [ExactMean() for _ in range(3)]
    for i, (delta, weight) in enumerate(updates):
        groups = {part: {"w": delta} for part in parts[i % 3]}
        single.fold(groups, weight)
        regional[regions[i]].fold(groups, weight)
    whole = ExactMean()
    for mean in regional:
        whole.merge(mean)
    assert whole.weight == single.weight
    got, want = whole.mean(), single.mean()
    assert got.keys() == want.keys()
    assert all(digest(got[part]["w"]) == digest(want[part]["w"]) for part in want)


def test_sums_that_do_not_fit_together_are_not_merged():
    mean, other = ExactMean(), ExactMean()
    for one in (mean, other):
        one.fold({"p": {"w": np.array([LIMIT * 0.6])}}, 1)
    with pytest.raises(RunError, match="two servers"):
        mean.merge(other)
    assert mean.weight == 1 and mean.mean()["p"]["w"][0] == LIMIT * 0.6


def test_the_mean_takes_no_memory_beyond_its_sums():
    import tracemalloc

    mean = ExactMean()
    mean.fold({"p": {"w": np.ones((1000, 1000), dtype=np.float32)}}, 3)
    tracemalloc.start()
    got = mean.mean()
    _, top = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert top < 2e6  # the sums are 8 MB
    assert got["p"]["w"].shape == (1000, 1000) and (got["p"]["w"] == 1.0).all()


def test_sums_within_the_limit_fit_an_int64():
    assert SCALE * LIMIT < 2**63
