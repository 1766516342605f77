"""How long a round may take, and how work counts that was not finished."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest

import server.gathering
from cardionets_core.errors import IncompleteError
from cardionets_core.messages import TrainPlan, Update
from cardionets_core.model_config import ModelConfig
from cardionets_core.run_config import RunConfig, StageConfig
from cardionets_core.strategy_config import StrategyConfig
from server.exchange import Run, within
from server.gathering import deadline_of, gather
from server.partial import counted, usable_steps
from server.screening import Asked, Firewall
from server.state import RunState, SiteRecord
from server.training import mark_of_parts
from tests.server.played_round import answering
from tests.task_header import task_header

SETTINGS = StageConfig(rounds=9, deadline_s=1000.0, patience=3.0)
PLAN = TrainPlan(1, 8, 1e-3, 0.0, 0.0, 0, 0.0)
HEADER = task_header(trains=("ecg_encoder",), train=PLAN)


def record(seconds, stage="ecg_masked"):
    return {"stage": stage, "seconds_by_site": seconds}


@pytest.mark.parametrize(
    ("history", "attempt", "seconds"),
    [
        ([], 1, 1000.0),  # nothing measured yet
        ([record({"a": 30.0, "b": 100.0})], 1, 360.0),  # a minute, as Flower misses nodes late
        ([record({"a": 30.0, "b": 100.0})], 2, 1000.0),  # too few answered: no hurry any more
        ([record({"a": 1.0})], 1, 63.0),
        ([record({"a": 900.0})], 1, 1000.0),  # never more than planned
        ([record({"a": 900.0}), *[record({"a": 50.0})] * 5], 1, 210.0),  # the last five rounds
        ([record({"a": 50.0}), record({"a": 300.0}, "contrastive")], 1, 210.0),  # of this stage
        ([record({})], 1, 1000.0),
    ],
)
def test_the_deadline_follows_the_slowest_site_that_was_used(history, attempt, seconds):
    assert deadline_of(SETTINGS, "ecg_masked", history, attempt=attempt) == seconds


def late(given_s, *sites, code="late"):
    return record({"fast": 5.0}) | {"refused": dict.fromkeys(sites, code), "deadline_s": given_s}


@pytest.mark.parametrize(
    ("history", "seconds"),
    [
        ([late(75.0, "slow")], 285.0),  # it needs more than it was given
        ([late(75.0, "slow", code="budget")], 285.0),  # and may say so itself
        ([late(75.0, "slow"), late(285.0, "slow")], 915.0),
        ([late(75.0, "slow"), late(1000.0, "slow")], 75.0),  # all that is planned: it hangs
        ([late(75.0, "slow"), late(1000.0, "slow"), late(75.0, "slow")], 75.0),
        ([late(75.0, "slow", "hung"), late(1000.0, "hung")], 285.0),
        ([late(75.0, "slow", code="lost")], 75.0),  # it was away, and not at work
        ([late(75.0, "slow", code="norm")], 75.0),
        ([late(75.0, "slow"), *[late(75.0)] * 5], 75.0),  # it was forgotten
    ],
)
def test_a_slow_site_is_given_more_than_was_too_little_for_it(history, seconds):
    assert deadline_of(SETTINGS, "ecg_masked", history, attempt=1) == seconds


def test_a_slow_site_is_not_shut_out_by_deadlines_that_faster_ones_have_set():
    """The other site alone was used in the first round; this one needs 80 times as long."""
    history, needs = [late(1000.0)], {"fast": 5.0, "slow": 400.0}
    for _ in range(4):
        given_s = deadline_of(SETTINGS, "ecg_masked", history, attempt=1)
        used = {site: s for site, s in needs.items() if s <= given_s}
        history.append(late(given_s, *(needs.keys() - used)) | record(used))
    assert [set(r["refused"]) for r in history[1:]] == [{"slow"}, {"slow"}, set(), set()]


def test_without_patience_the_deadline_is_the_planned_one():
    settings = replace(SETTINGS, patience=0.0)
    assert deadline_of(settings, "ecg_masked", [record({"a": 1.0})], attempt=1) == 1000.0


@pytest.mark.parametrize(
    ("planned", "left", "budget"), [(0.0, 99.7, 99.0), (20.0, 99.7, 20.0), (200.0, 99.7, 99.0)]
)
def test_no_site_trains_longer_than_anybody_would_read_its_update(planned, left, budget):
    head = replace(HEADER, train=replace(PLAN, budget_s=planned))
    assert within(head, left).train.budget_s == budget
    assert within(replace(HEADER, train=None), left).train is None


# ------------------------------------------------------------------------------------ partial work

WEIGHTS = {
    "ecg_encoder": {
        "w": np.zeros(50, dtype=np.float32),
        "running": np.zeros(3, dtype=np.float32),
        "count": np.zeros(1, dtype=np.int64),
    }
}
LEARNED = {"ecg_encoder": frozenset({"w"})}
SITES = {"a": (120, 15, 15), "b": (333, 42, 42), "c": (64, 3, 8), "d": (500, 10, 63)}
"""Site -> training studies, local steps done, local steps planned."""


def delta_of(site):
    draw = np.random.default_rng(ord(site))
    return {
        "ecg_encoder": {
            "w": draw.normal(0, 1e-2, 50).astype(np.float32),
            "running": draw.normal(0, 1, 3).astype(np.float32),
            "count": draw.integers(1, 9, 1),
        }
    }


def update_of(site):
    studies, steps, planned = SITES[site]
    delta = delta_of(site)
    numbers = {"steps": steps, "planned_steps": planned}
    return Update(site, "run-1", "ecg_masked", 1, studies, delta=delta, **numbers)


def gathered(monkeypatch, tmp_path, updates, order=None, **changes):
    """Gather these updates in an order of arrival; returns what came of the round."""
    arrived = {site: updates[site] for site in order or sorted(updates)}
    monkeypatch.setattr(server.gathering, "send_round", answering(lambda state, heads: arrived))
    settings = replace(SETTINGS, budget_s=9.0, **changes)
    config = RunConfig(
        name="run-1",
        seed=1,
        model=ModelConfig(),
        stages=("handshake", "ecg_masked"),
        stage={"ecg_masked": settings},
        phenotypes=(),
    )
    run = Run(None, config, tmp_path, lambda record: None)
    sites = {site: SiteRecord(("ecg",), {"train_studies": 500}, {}) for site in updates}
    state = RunState(weights=WEIGHTS, sites=sites)
    asked = Asked("run-1", "ecg_masked", 1, expected=WEIGHTS, sites=len(sites), learned=LEARNED)
    wall = Firewall(asked, config=config.screening, settings=settings, records=())
    return gather(run, state, HEADER, dict.fromkeys(sites, HEADER), wall)


def test_unfinished_work_weighs_by_its_share_of_the_steps(monkeypatch, tmp_path):
    got = gathered(monkeypatch, tmp_path, {s: update_of(s) for s in SITES})
    weights = {"a": 120, "b": 333, "c": 24, "d": 79}  # 64 x 3 / 8 and 500 x 10 / 63, rounded down
    assert {s: u.examples["ecg_encoder"] for s, u in got.updates.items()} == weights
    total = sum(weights.values())
    for name in ("w", "running", "count"):
        by_hand = sum(np.float64(n) * delta_of(s)["ecg_encoder"][name] for s, n in weights.items())
        np.testing.assert_allclose(got.delta["ecg_encoder"][name], by_hand / total, atol=1e-11)


def test_fednova_is_the_normalised_mean_of_its_paper(monkeypatch, tmp_path):
    """Against exact fractions of the very numbers: p_i, delta_i / tau_i (float32), tau_eff."""
    got = gathered(monkeypatch, tmp_path, {s: update_of(s) for s in SITES}, partial="fednova")
    total = sum(n for n, _, _ in SITES.values())
    tau_eff = Fraction(sum(n * steps for n, steps, _ in SITES.values()), total)
    for i in range(50):
        mean = Fraction(0)
        for site, (n, steps, _) in SITES.items():
            per_step = delta_of(site)["ecg_encoder"]["w"][i] / np.float32(steps)
            mean += Fraction(n, total) * Fraction(float(per_step))
        # A part in 2^37 of a study per site and step is what the exact sum rounds to.
        slack = len(SITES) / total * 2.0**-37 * float(tau_eff) * 1.01
        assert abs(float(tau_eff * mean) - got.delta["ecg_encoder"]["w"][i]) <= slack
    plain = sum(n * delta_of(s)["ecg_encoder"]["w"] for s, (n, _, _) in SITES.items()) / total
    assert np.abs(got.delta["ecg_encoder"]["w"] - plain).max() > 1e-3  # it is not the plain mean


def test_fednova_leaves_measured_statistics_and_counts_to_the_plain_mean(monkeypatch, tmp_path):
    got = gathered(monkeypatch, tmp_path, {s: update_of(s) for s in SITES}, partial="fednova")
    total = sum(n for n, _, _ in SITES.values())
    for name in ("running", "count"):
        by_hand = sum(n * delta_of(s)["ecg_encoder"][name] for s, (n, _, _) in SITES.items())
        np.testing.assert_allclose(got.delta["ecg_encoder"][name], by_hand / total, rtol=1e-6)


def test_fednova_of_equal_steps_is_the_plain_mean(monkeypatch, tmp_path):
    equal = {s: replace(update_of(s), steps=16, planned_steps=16) for s in SITES}
    nova = gathered(monkeypatch, tmp_path, equal, partial="fednova")
    plain = gathered(monkeypatch, tmp_path, equal)
    # A division by 16 and back rounds nothing, so that only the grid of the exact sum is left.
    np.testing.assert_allclose(
        nova.delta["ecg_encoder"]["w"], plain.delta["ecg_encoder"]["w"], atol=1e-11
    )


@pytest.mark.parametrize("partial", ["weight", "fednova"])
def test_partial_work_is_the_same_in_every_order_of_arrival_to_the_bit(
    partial, monkeypatch, tmp_path
):
    updates = {s: update_of(s) for s in SITES}
    marks = {
        mark_of_parts(gathered(monkeypatch, tmp_path, updates, order, partial=partial).delta)
        for order in permutations(SITES)
    }
    assert len(marks) == 1


@pytest.mark.parametrize(
    ("steps", "planned", "weight", "nova"),
    [(5, 8, True, True), (8, 8, True, True), (9, 8, False, False), (0, 8, False, False),
     (3, 0, False, False), (0, 0, True, False)],
)  # fmt: skip
def test_a_site_cannot_claim_more_steps_than_were_planned(steps, planned, weight, nova):
    update = replace(update_of("a"), steps=steps, planned_steps=planned)
    assert usable_steps(update, needed=False) is weight
    assert usable_steps(update, needed=True) is nova


def test_an_update_with_impossible_steps_stays_out_with_a_reason(monkeypatch, tmp_path):
    updates = {"a": update_of("a"), "b": replace(update_of("b"), steps=2**40)}
    got = gathered(monkeypatch, tmp_path, updates)
    assert got.result.accepted == ["a"] and got.result.refused == {"b": "steps"}


def test_a_little_work_still_counts_as_one_study():
    assert counted({"p": 3}, replace(update_of("a"), steps=1, planned_steps=100)) == {"p": 1}


def test_what_a_site_claims_is_judged_not_what_it_counts_in_the_end(monkeypatch, tmp_path):
    """501 studies are more than it has, though half the work would count as 250."""
    lie = replace(update_of("a"), num_examples=501, steps=1, planned_steps=2)
    got = gathered(monkeypatch, tmp_path, {"a": lie, "b": update_of("b")})
    assert got.result.refused == {"a": "num_examples"}


def test_all_replies_errors_end_incomplete_and_name_the_sites(monkeypatch, tmp_path):
    broken = {s: replace(update_of(s), steps=0) for s in "ab"}
    with pytest.raises(IncompleteError) as ended:
        gathered(monkeypatch, tmp_path, broken)
    assert ended.value.sites == ("a", "b")


@pytest.mark.parametrize("name", ["median", "scaffold"])
def test_a_strategy_that_cannot_take_fednova_says_so(name):
    with pytest.raises(ValueError, match=r"stage\.ecg_masked\.partial=fednova .* partial=weight"):
        RunConfig(
            name="run-1",
            seed=1,
            model=ModelConfig(),
            stages=("handshake", "ecg_masked"),
            stage={"ecg_masked": StageConfig(partial="fednova")},
            strategy=StrategyConfig(name=name),
            phenotypes=(),
            min_sites=9,
        )
