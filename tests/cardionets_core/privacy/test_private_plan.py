"""What a private run cannot be, and what it will cost, before anything is started."""

from __future__ import annotations

import pytest

from cardionets_core.errors import ConfigError
from cardionets_core.privacy.accounting import Charge
from cardionets_core.privacy.plan import check_private_plan, planned_charges
from cardionets_core.run_config import CONF, compose, run_config_from
from cardionets_core.training.stages import check_plan

PRIVATE = ("name=x", "plan=private", "privacy.mode=patient")
EVERYTHING = ("cine", "diseases", "ecg", "pairs", "phenotypes")


def plan(*overrides):
    return run_config_from(compose("run", [*PRIVATE, *overrides], package=CONF))


def test_the_private_plan_is_one():
    config = plan()
    check_plan(config)
    check_private_plan(config)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("stage.contrastive.max_steps=0", "stage.contrastive.max_steps is 0"),
        ("stage.diseases.budget_s=60", "stage.diseases.budget_s"),
        ("strategy.name=scaffold", "strategy.name=scaffold"),
        ("privacy.stages.phenotype.noise=2", "did you mean 'phenotypes'"),
        ("privacy.stages.generative.noise=2", "trains no such stage"),
        ("evaluation.sections=[phenotypes,retrieval]", "retrieval is not available"),
        ("evaluation.sections=[generation]", "generation is not available"),
    ],
)
def test_a_plan_that_cannot_be_private_is_refused_with_what_to_set(override, says):
    with pytest.raises(ConfigError, match=says):
        check_private_plan(plan(override))
    check_private_plan(plan(override, "privacy.mode=none"))


def test_without_an_evaluation_its_sections_do_not_matter():
    check_private_plan(plan("stages=[handshake,diseases]", "evaluation.sections=[retrieval]"))


@pytest.mark.parametrize(
    ("offers", "stages"),
    [(EVERYTHING, 4), (("ecg", "phenotypes", "diseases"), 3), (("ecg", "diseases"), 2)],
)
def test_a_plan_costs_a_site_what_it_serves(offers, stages):
    charges = planned_charges(plan("privacy.stages.diseases.noise=3"), offers)
    trained = [c for c in charges if c.rate < 1]
    assert len(trained) == stages
    assert trained[-1] == Charge(3.0, 0.05, 40)  # four rounds of ten steps
    once = 1 if "phenotypes" in offers else 0
    assert sum(c.steps for c in charges if c.rate == 1) == once + 2


def test_a_stage_of_two_members_costs_a_site_with_both_twice():
    words = ("stages=[handshake,masked]", "stage.masked.max_steps=5", "stage.masked.rounds=3")
    assert planned_charges(plan(*words), ("ecg", "cine"))[-1].steps == 30
    assert planned_charges(plan(*words), ("ecg",))[-1].steps == 15
