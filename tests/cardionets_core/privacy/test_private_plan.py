"""What a private run cannot be, and what it will cost, before anything is started."""

from __future__ import annotations

import pytest

from cardionets_core.errors import ConfigError
from cardionets_core.privacy.accounting import Charge, epsilon_rdp
from cardionets_core.privacy.plan import (
    EVERYTHING,
    Planned,
    check_private_plan,
    planned,
    planned_charges,
)
from cardionets_core.privacy_config import SitePrivacy
from cardionets_core.run_config import CONF, compose, run_config_from
from cardionets_core.training.stages import check_plan

PRIVATE = ("name=x", "plan=private", "privacy.mode=patient")


def plan(*overrides):
    return run_config_from(compose("run", [*PRIVATE, *overrides], package=CONF))


def test_the_private_plan_is_one():
    config = plan()
    check_plan(config)
    check_private_plan(config)


@pytest.mark.parametrize("name", ["private", "private_from_public"])
def test_a_hospital_of_epsilon_8_can_pay_a_preset_and_one_round_of_it_again(name):
    words = ["name=x", f"plan={name}", "start.parts=[]"]
    config = run_config_from(compose("run", words, package=CONF))
    assert config.privacy.mode == "patient"
    once_more = Charge(
        config.privacy.noise, config.privacy.rate, config.stage["diseases"].max_steps
    )
    charges = [*planned_charges(config, EVERYTHING), once_more]
    assert 4.0 < epsilon_rdp(charges, 1e-5) < SitePrivacy().epsilon == 8.0


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


def test_what_a_plan_releases_stage_by_stage():
    rows = planned(plan("privacy.stages.diseases.noise=3"), EVERYTHING)
    assert rows[0] == Planned("handshake", 1, Charge(5.0, 1.0, 1))
    assert rows[-2] == Planned("diseases", 4, Charge(3.0, 0.05, 40))
    assert rows[-1] == Planned("evaluate", 2, Charge(3.0, 1.0, 2))
    assert tuple(r.charge for r in rows) == planned_charges(
        plan("privacy.stages.diseases.noise=3"), EVERYTHING
    )


# ------------------------------------------------------------------ against reconstruction alone


def large(*overrides):
    words = ["name=x", "plan=anti_reconstruction_only", *overrides]
    return run_config_from(compose("run", words, package=CONF))


def test_the_plan_against_reconstruction_says_what_it_is():
    config = large()
    check_plan(config)
    check_private_plan(config)
    assert config.privacy.is_on and config.privacy.profile == "anti_reconstruction_only"
    assert 30 <= epsilon_rdp(planned_charges(config, EVERYTHING), 1e-5) <= 100


def test_an_epsilon_that_hides_nobody_needs_that_name():
    with pytest.raises(ConfigError, match=r"epsilon 41 .* nothing of who took part"):
        check_private_plan(large("privacy.profile=membership"))
    with pytest.raises(ConfigError, match=r"privacy\.profile=anti_reconstruction_only"):
        check_private_plan(plan("privacy.noise=0.4"))
    check_private_plan(plan("privacy.noise=0.4", "privacy.mode=none"))


def test_a_name_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="profile"):
        plan("privacy.profile=strong")


def test_a_stage_of_two_members_costs_a_site_with_both_twice():
    words = ("stages=[handshake,masked]", "stage.masked.max_steps=5", "stage.masked.rounds=3")
    assert planned_charges(plan(*words), ("ecg", "cine"))[-1].steps == 30
    assert planned_charges(plan(*words), ("ecg",))[-1].steps == 15
