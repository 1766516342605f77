"""Server optimizers against Flower's own and the papers' formulas, and without side effects."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower

from cardionets_core.strategy_config import StrategyConfig
from server.strategies.averaging import fedavg
from server.strategies.optimizers import FIRST, SECOND, optimise, start_moments

PATIENTS = (10, 30, 25)
LEARNED = {"ecg_encoder": ["w", "b"]}


class Reply:
    """As much of a Flower message as its strategies look at."""

    def __init__(self, arrays, patients):
        arrays = ArrayRecord({k: Array(v) for k, v in arrays.items()})
        metrics = MetricRecord({"num-examples": patients})
        self.content = RecordDict({"arrays": arrays, "metrics": metrics})

    def has_error(self):
        return False


def start():
    source = np.random.default_rng(1)
    return {"w": source.normal(size=(3, 4)), "b": source.normal(size=4)}


def deltas(round_index):
    """Return the updates of three sites, which agree little and change from round to round."""
    source = np.random.default_rng([2, round_index])
    return [
        {n: source.normal(0.01, 0.02, size=a.shape) for n, a in start().items()} for _ in PATIENTS
    ]


def mean_of(updates):
    names = updates[0]
    return {n: np.average([u[n] for u in updates], axis=0, weights=PATIENTS) for n in names}


def flower_rounds(strategy, rounds):
    """Yield the weights after each round of Flower's strategy."""
    weights = start()
    if isinstance(strategy, flower.FedAvgM):
        strategy.current_arrays = ArrayRecord({k: Array(v) for k, v in weights.items()})
    for index in range(rounds):
        if not isinstance(strategy, flower.FedAvgM):
            strategy.current_arrays = weights
        replies = [
            Reply({n: weights[n] + u[n] for n in weights}, patients)
            for u, patients in zip(deltas(index), PATIENTS, strict=True)
        ]
        arrays, _ = strategy.aggregate_train(index + 1, replies)
        weights = {n: arrays[n].numpy() for n in weights}
        yield weights


def our_rounds(name, options_of, rounds, *, second=None):
    """Yield the weights after each of our rounds.

    Args:
        options_of: round (0-based) -> the options of that round.
        second: start of the second moment; None is our own.
    """
    weights = {"ecg_encoder": start()}
    moments = start_moments(StrategyConfig(name, options_of(0)), weights, LEARNED)
    if second is not None:
        level = {n: np.full_like(a, second) for n, a in weights["ecg_encoder"].items()}
        moments[SECOND] = {"ecg_encoder": level}
    for index in range(rounds):
        mean = {"ecg_encoder": mean_of(deltas(index))}
        weights, moments = optimise(StrategyConfig(name, options_of(index)), weights, mean, moments)
        yield weights["ecg_encoder"]


def same_path(ours, theirs):
    rounds = 0
    for mine, flowers in zip(ours, theirs, strict=True):
        for name in mine:
            np.testing.assert_allclose(mine[name], flowers[name], rtol=1e-9, atol=1e-12)
        rounds += 1
    assert rounds == 6


def test_fedavgm_is_flowers():
    theirs = flower.FedAvgM(server_learning_rate=0.7, server_momentum=0.9)
    ours = our_rounds("fedavgm", lambda i: {"lr": 0.7, "momentum": 0.9}, 6)
    same_path(ours, flower_rounds(theirs, 6))


def test_fedyogi_is_flowers_but_for_the_start_of_the_second_moment():
    """Flower begins at 0 where the paper asks for at least tau^2."""
    options = {"lr": 0.02, "beta_1": 0.8, "beta_2": 0.95, "tau": 1e-2}
    theirs = flower.FedYogi(eta=0.02, beta_1=0.8, beta_2=0.95, tau=1e-2)
    same_path(our_rounds("fedyogi", lambda i: options, 6, second=0.0), flower_rounds(theirs, 6))
    own = next(our_rounds("fedyogi", lambda i: options, 1))
    assert not np.allclose(own["w"], next(flower_rounds(theirs, 1))["w"], rtol=1e-6)


def test_fedadam_is_flowers_but_for_a_bias_correction_that_the_paper_has_not():
    """Flower scales lr as Adam does, with the exponent t + 1 (2 in the first round)."""
    base = {"lr": 0.02, "beta_1": 0.8, "beta_2": 0.95, "tau": 1e-2}

    def corrected(index):
        power = index + 2
        return base | {"lr": 0.02 * np.sqrt(1 - 0.95**power) / (1 - 0.8**power)}

    theirs = flower.FedAdam(eta=0.02, beta_1=0.8, beta_2=0.95, tau=1e-2)
    same_path(our_rounds("fedadam", corrected, 6, second=0.0), flower_rounds(theirs, 6))


def one(name, rounds, **options):
    """Return the weight after rounds of the update 0.1, from 1."""
    weights = {"p": {"w": np.array([1.0])}}
    strategy = StrategyConfig(name, options)
    moments = start_moments(strategy, weights, {"p": ["w"]})
    for _ in range(rounds):
        weights, moments = optimise(strategy, weights, {"p": {"w": np.array([0.1])}}, moments)
    return float(weights["p"]["w"][0])


def test_the_papers_formulas_by_hand():
    assert one("fedavgm", 2, lr=0.5, momentum=0.9) == pytest.approx(1 + 0.5 * (0.1 + 0.19))
    # Reddi et al., Algorithm 2: m = 0.1 x 0.1, v from tau^2 = 0.25, step m / (sqrt v + tau)
    second = 0.99 * 0.25 + 0.01 * 0.01
    adam = one("fedadam", 1, lr=1.0, beta_1=0.9, beta_2=0.99, tau=0.5)
    assert adam == pytest.approx(1 + 0.01 / (second**0.5 + 0.5), rel=1e-12)
    second = 0.25 - 0.01 * 0.01  # v above the square: yogi lowers it by (1 - beta_2) x square
    yogi = one("fedyogi", 1, lr=1.0, beta_1=0.9, beta_2=0.99, tau=0.5)
    assert yogi == pytest.approx(1 + 0.01 / (second**0.5 + 0.5), rel=1e-12)


def test_momentum_without_memory_is_fedavg_bit_for_bit():
    weights = {"p": {"w": np.float32([1.0, -2.0]), "steps": np.array([4])}}
    mean = {"p": {"w": np.array([0.1, 0.3]), "steps": np.array([9.0])}}
    strategy = StrategyConfig("fedavgm", {"momentum": 0.0})
    moments = start_moments(strategy, weights, {"p": ["w"]})
    moved, _ = optimise(strategy, weights, mean, moments)
    plain = fedavg(weights, mean)
    assert all(moved["p"][n].tobytes() == plain["p"][n].tobytes() for n in plain["p"])


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedyogi"])
def test_buffers_take_the_mean_and_dtypes_stay(name):
    """A statistic of the latents is a mean already; momentum would carry it past the truth."""
    weights = {"p": {"w": np.float32([1.0]), "latent_mean": np.float32([1.0]), "n": np.array(3)}}
    mean = {"p": {"w": np.array([0.5]), "latent_mean": np.array([0.5]), "n": np.array(0.0)}}
    strategy = StrategyConfig(name)
    moments = start_moments(strategy, weights, {"p": ["w"]})
    for expected in (1.5, 2.0, 2.5):
        weights, moments = optimise(strategy, weights, mean, moments)
        assert weights["p"]["latent_mean"] == np.float32(expected)
    assert weights["p"]["n"] == 3 and weights["p"]["w"].dtype == np.float32
    assert moments and all(list(g["p"]) == ["w"] for g in moments.values())
    assert all(g["p"]["w"].dtype == np.float32 for g in moments.values())


def test_a_part_that_did_not_come_back_keeps_its_weights_and_moments():
    weights = {p: {"w": np.float32([1.0])} for p in ("a", "b")}
    strategy = StrategyConfig("fedadam")
    moments = start_moments(strategy, weights, {"a": ["w"], "b": ["w"]})
    moved, after = optimise(strategy, weights, {"a": {"w": np.array([0.5])}}, moments)
    assert moved["b"] is weights["b"] and after[FIRST]["b"] is moments[FIRST]["b"]
    assert moved["a"]["w"] != 1.0 and after[FIRST]["a"]["w"] != 0


def test_nothing_is_changed_in_place():
    weights = {"p": {"w": np.float32([1.0])}}
    strategy = StrategyConfig("fedyogi")
    moments = start_moments(strategy, weights, {"p": ["w"]})
    optimise(strategy, weights, {"p": {"w": np.array([0.5])}}, moments)
    assert weights["p"]["w"] == 1 and moments[FIRST]["p"]["w"] == 0
    assert moments[SECOND]["p"]["w"] == np.float32(1e-6)


def test_strategies_without_a_server_optimizer_have_no_moments():
    assert start_moments(StrategyConfig("median"), {"p": start()}, {"p": ["w"]}) == {}
