"""A plan's noise, put into the run that it was planned for, costs what was asked and no more."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from cardionets_core.errors import ConfigError
from cardionets_core.privacy.accounting import Charge, epsilon_rdp
from cardionets_core.privacy.noise_plan import NoisePlan, StageNeed, usual_delta
from cardionets_core.privacy.plan import EVERYTHING, planned_charges
from cardionets_core.privacy.planning import (
    Allowance,
    plan_of,
    run_to_plan,
    run_words,
    with_noise,
    with_stages,
)

ALLOWED = Allowance(patients=500, epsilon=8.0, delta=1e-5)

MASKED = (
    "stages=[handshake,masked,contrastive,evaluate]",
    "stage.masked.rounds=6",
    "stage.masked.max_steps=13",
)
"""A run whose first stage has two members at a site with both kinds of records."""


def costs(config, noise, allowed):
    """Return epsilon of what a site's ledger is charged for the run with that noise."""
    charges = planned_charges(with_noise(config, noise), allowed.modalities)
    return epsilon_rdp((*allowed.spent, *charges), allowed.delta)


@pytest.mark.parametrize(
    ("words", "epsilon"),
    [
        ((*MASKED, "privacy.rate=0.128"), 8.0),
        (("plan=private", "privacy.sums_noise=3", "privacy.contrastive=public_negatives"), 4.0),
        (("privacy.stages.diseases.noise=2", "privacy.stages.ecg_masked.rate=0.2"), 8.0),
        (("stages=[handshake,tokenizer]", "stage.tokenizer.max_steps=20"), 3.0),
    ],
)
def test_the_noise_that_is_planned_is_what_the_run_costs(words, epsilon):
    allowed = replace(ALLOWED, epsilon=epsilon)
    config = run_to_plan(words)
    noise = plan_of(config, allowed).noise()
    assert 0.97 * epsilon < costs(config, noise, allowed) <= epsilon


@pytest.mark.parametrize("offers", [("ecg", "phenotypes", "diseases"), ("cine",), ("ecg", "cine")])
def test_a_site_with_fewer_records_is_planned_for_what_it_serves(offers):
    allowed = replace(ALLOWED, modalities=offers, spent=(Charge(2.0, 0.1, 30),))
    config = run_to_plan((*MASKED[1:], "stages=[handshake,masked,evaluate]"))
    noise = plan_of(config, allowed).noise()
    assert 0.97 * 8 < costs(config, noise, allowed) <= 8


def test_stages_by_hand_cost_what_a_run_of_them_costs():
    """Of the review: 78 steps for each of two members, 156 in all, and the sums."""
    words = ("masked=10,batch=64", "contrastive=5,batch=64,bucket=6")
    config = with_stages(run_to_plan(()), words, patients=500, batch=256)
    made = plan_of(config, ALLOWED)
    assert made.stages == (
        StageNeed("masked", 0.128, 78, members=2),
        StageNeed("contrastive", 0.128, 39, bucket=6),
    )
    assert list(made.kept) == [
        ("handshake", Charge(5.0, 1.0, 1)),
        ("evaluate", Charge(3.0, 1.0, 2)),
    ]
    noise = made.noise()
    charges = [
        Charge(noise, 0.128, 156), Charge(noise, 0.128, 39),
        Charge(5.0, 1.0, 1), Charge(3.0, 1.0, 2),
    ]  # fmt: skip
    assert planned_charges(with_noise(config, noise), EVERYTHING) == (
        charges[2], charges[0], charges[1], charges[3]
    )  # fmt: skip
    assert 0.97 * 8 < epsilon_rdp(charges, 1e-5) <= 8


def test_the_tokenizers_statistics_are_planned_for():
    config = with_stages(run_to_plan(()), ("tokenizer=4",), patients=500, batch=50)
    assert ("latents", Charge(10.0, 1.0, 1)) in plan_of(config, ALLOWED).kept


def test_buckets_are_the_default_of_the_contrastive_stage_and_have_two_c():
    config = with_stages(run_to_plan(()), ("contrastive=5",), patients=500, batch=50)
    (stage,) = plan_of(config, ALLOWED).stages
    assert (stage.bucket, stage.sensitivity) == (4, 2)
    public = run_to_plan(("privacy.contrastive=public_negatives",))
    config = with_stages(public, ("contrastive=5",), patients=500, batch=50)
    assert plan_of(config, ALLOWED).stages[0].sensitivity == 1


def test_without_releases_the_training_stands_alone():
    config = run_to_plan(("privacy.stages.diseases.noise=2",))
    assert [name for name, _ in plan_of(config, ALLOWED, releases=False).kept] == ["diseases"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("constrastive=10",), "did you mean 'contrastive'"),
        (("contrastive",), "cannot be read; write NAME=EPOCHS"),
        (("contrastive=5,buckets=4",), "cannot be read"),
        (("contrastive=5,batch=nan",), "cannot be read"),
        (("contrastive=5,bucket=1",), "a bucket needs at least 2"),
        (("diseases=5,bucket=4",), "only contrastive has buckets"),
        (("contrastive=-5",), "epochs is -5"),
        (("contrastive=nan",), "epochs is nan"),
        (("contrastive=inf",), "epochs is inf"),
        (("contrastive=0",), "epochs is 0"),
        (("contrastive=1e300",), "fewer epochs, or a larger batch"),
        (("contrastive=5,batch=0",), "a batch of 0 of 500 patients is not possible"),
        (("contrastive=5,batch=501",), "choose 1 to 500"),
        (("diseases=5", "diseases=6"), "stands twice"),
    ],
)
def test_a_word_that_names_no_stage_is_refused(words, says):
    with pytest.raises(ConfigError, match=says):
        with_stages(run_to_plan(()), words, patients=500, batch=256)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("plan=privat",), "did you mean 'private'"),
        (("plan=all",), "max_steps is 0"),
        (("privacy.noise=2",), "what is looked for"),
        (("privacy.mode=none",), "has no noise"),
        (("stages=[handshake,disease]",), "run.stages"),
        (("privacy.rate=2",), "a sampling rate is above 0 and at most 1"),
    ],
)
def test_a_run_that_cannot_be_planned_is_refused(words, says):
    with pytest.raises(ConfigError, match=says):
        run_to_plan(words)


def test_a_run_without_open_noise_has_nothing_to_plan():
    config = run_to_plan(("stages=[handshake,evaluate]",))
    with pytest.raises(ConfigError, match="no stage at this site whose noise is open"):
        plan_of(config, ALLOWED)


def test_a_run_that_names_no_plan_is_the_private_one():
    assert run_words(("seed=3",)) == ("plan=private", "seed=3")
    assert run_words(("plan=paper",)) == ("plan=paper",)


# ----------------------------------------------------------------------------- the site's limits


@pytest.mark.parametrize(
    ("words", "limits", "says"),
    [
        (("privacy.rate=0.9",), {"max_rate": 0.5}, r"rate 0.9 .*max_rate 0.5, .*250 patients"),
        (("privacy.stages.diseases={rate: 0.6, noise: 2}",), {"max_rate": 0.5}, "diseases: rate"),
        (("privacy.evaluation_noise=0.5",), {"min_noise": 1.0}, "evaluate: noise 0.5 is below"),
        (("privacy.stages.diseases.noise=0.5",), {"min_noise": 1.0}, "diseases: noise 0.5"),
    ],
)
def test_what_the_site_would_refuse_is_not_planned(words, limits, says):
    with pytest.raises(ConfigError, match=says):
        plan_of(run_to_plan(words), replace(ALLOWED, **limits))


def test_the_noise_is_never_below_what_the_site_lets_in():
    config = run_to_plan(())
    free = plan_of(config, ALLOWED).noise()
    assert free < 2
    assert plan_of(config, replace(ALLOWED, min_noise=2.0)).noise() == 2.0


# ------------------------------------------------------------------------------------- by hand


def test_steps_rate_and_signal_are_those_of_the_table():
    """5,000 patients, batch 256, 50 epochs, noise 1.20, 5 M weights: 0.34, and 2.7 by fours."""
    need = StageNeed.of_epochs("x", 50, batch=256, patients=5000)
    assert (need.rate, need.steps, need.charged, need.sensitivity) == (0.0512, 977, 977, 1)
    assert need.epochs == pytest.approx(50, rel=1e-3) and need.batch(5000) == 256
    assert need.noise_to_signal(1.20, 5000, 5_000_000) == pytest.approx(0.34, abs=0.006)
    bucket = replace(need, bucket=4)
    assert bucket.sensitivity == 2
    assert bucket.noise_to_signal(1.20, 5000, 5_000_000) == pytest.approx(2.7, abs=0.06)
    assert replace(need, members=2).charged == 1954


def test_larger_batches_take_the_same_epochs():
    made = NoisePlan(500, 8.0, 1e-5, (StageNeed("x", 0.1, 100),)).with_batches(2)
    assert made.stages == (StageNeed("x", 0.2, 50),)


def test_delta_is_never_above_a_tenth_of_one_in_n():
    assert usual_delta(500) == 1e-5
    assert usual_delta(40_000) == pytest.approx(2.5e-6)


STAGE = (StageNeed("x", 0.1, 10),)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.inf, math.nan, 1e9])
def test_an_epsilon_that_is_no_budget_is_refused(epsilon):
    with pytest.raises(ConfigError, match=r"epsilon is .* above 0 and at most 1000"):
        NoisePlan(100, epsilon, 1e-5, STAGE)


@pytest.mark.parametrize("delta", [0.0, -1.0, math.inf, math.nan, 0.02])
def test_a_delta_that_publishes_a_record_is_refused(delta):
    with pytest.raises(ConfigError, match=r"at most 1 / patients \(0.01\)"):
        NoisePlan(100, 1.0, delta, STAGE)


def test_a_plan_without_stages_or_patients_is_refused():
    for patients, stages in ((100, ()), (0, STAGE)):
        with pytest.raises(ConfigError, match="needs patients and a stage"):
            NoisePlan(patients, 1.0, 1e-5, stages)


@pytest.mark.parametrize("rate", [0.0, -1.0, 1.1, math.nan, math.inf])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ConfigError, match="choose above 0 and at most 1"):
        StageNeed("x", rate, 10)


def test_what_is_spent_already_can_be_too_much():
    with pytest.raises(ConfigError, match=r"is spent already or goes to sums .* larger epsilon"):
        NoisePlan(100, 1.0, 1e-5, STAGE, spent=(Charge(1.0, 1.0, 3),)).noise()


@pytest.mark.parametrize("epsilon", [0.01, 1000.0])
def test_the_ends_of_what_can_be_planned(epsilon):
    made = NoisePlan(100, epsilon, 1e-5, STAGE)
    assert epsilon_rdp(made.charges(made.noise()), 1e-5) <= epsilon * (1 + 1e-9)
