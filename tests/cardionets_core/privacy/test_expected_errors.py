"""Errors that are told before anybody is looked at are those that many releases have."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import ndtr

from cardionets_core.evaluation.metrics import auroc, r_squared
from cardionets_core.evaluation.options import EvaluationOptions
from cardionets_core.privacy import evaluation
from cardionets_core.privacy.evaluation import private_options, score_bounds
from cardionets_core.privacy.expected_errors import (
    ILL,
    SCORE_GAP,
    errors_of_plan,
    errors_of_site,
    expected_errors,
    patients_for,
    scored_outputs,
    spread_error,
)
from cardionets_core.privacy.metrics import Part, Prior, moment_parts, moments, noise_of, released
from cardionets_core.privacy.rng import PrivacyRandom
from cardionets_core.run_config import CONF, compose, run_config_from
from cardionets_core.start_config import StartConfig
from server.evaluation import evaluation_options
from server.quotes import warnings_of
from server.state import SiteRecord

BOTH = EvaluationOptions(sections=("phenotypes", "diseases"))
NOISE, PATIENTS, PHENOTYPES, DISEASES, RELEASES = 2.0, 3000, 40, 20, 24


def plan(*overrides):
    words = ["name=x", "plan=private", "privacy.mode=patient", *overrides]
    return run_config_from(compose("run", words, package=CONF))


def made_up():
    """Return z-scores [N, P] with predictions that explain half of them, and diseases [N, D]."""
    source = np.random.default_rng(1)
    truth = source.normal(0.0, 1.0, (PATIENTS, PHENOTYPES))
    told = 0.5 * truth + source.normal(0.0, 0.5, truth.shape)
    ill = source.random((PATIENTS, DISEASES)) < ILL
    return truth, told, ill, source.normal(SCORE_GAP * ill, 1.0)


def release(truth, told, ill, score):
    """Return R2 [P] and AUROC [D] of one release through the code of a site."""
    known = np.ones_like(truth, dtype=bool)
    labels = evaluation.Labels(
        np.zeros((PATIENTS, 0)), np.zeros((PATIENTS, 0), bool), truth, known, ill, known[:, :20]
    )
    heard = evaluation._Heard(told, np.full(ill.shape, 0.5), labels)
    parts = evaluation._under("phenotypes", evaluation._phenotype_parts(heard))
    share = ndtr((score - score.mean(axis=0)) / score.std(axis=0))
    place = np.clip((share * evaluation.BINS).astype(int), 0, evaluation.BINS - 1)
    classes = np.stack([~ill, ill], axis=1).astype(float)
    bins = classes[..., None] * (place[:, None, :, None] == np.arange(evaluation.BINS))
    root = math.sqrt(DISEASES)
    diseases = {"classes": Part(classes, root), "histogram": Part(bins, root)}
    diseases["brier"] = Part(np.zeros_like(score), 0.5 * root)
    parts |= evaluation._under("diseases", diseases)
    sums = released(parts, NOISE, PrivacyRandom())
    found = evaluation._phenotype_sums(evaluation.section(sums, "phenotypes"))
    counts = evaluation._disease_sums(evaluation.section(sums, "diseases"), private_options(BOTH))
    return r_squared(found, "ecg")[0], auroc(counts["histogram"])[0].ravel()


def test_they_are_those_of_real_releases():
    truth, told, ill, score = made_up()
    right = 1 - ((truth - told) ** 2).sum(0) / ((truth - truth.mean(0)) ** 2).sum(0)
    several = [release(truth, told, ill, score) for _ in range(RELEASES)]
    r2 = np.sqrt(np.mean([(found - right) ** 2 for found, _ in several]))
    area = np.sqrt(np.mean([(found - ndtr(SCORE_GAP / math.sqrt(2))) ** 2 for _, found in several]))
    expected = expected_errors(
        BOTH, noise=NOISE, patients=PATIENTS, phenotypes=PHENOTYPES, diseases=DISEASES
    )
    assert expected.r2 == pytest.approx(r2, rel=0.2)
    assert expected.auroc == pytest.approx(area, rel=0.3)


def test_the_spread_of_the_handshake_is_that_of_real_releases():
    source, prior = np.random.default_rng(2), Prior(np.zeros(9), np.ones(9))
    values = source.normal(0.5, 0.8, (2000, 9))
    parts = moment_parts(values, prior)
    std = noise_of({name: part.bound for name, part in parts.items()}, 2.0)["known"]
    errors = [
        np.sqrt(moments(released(parts, 2.0, PrivacyRandom()), prior, noise_std=std).variance)
        / values.std(axis=0)
        - 1
        for _ in range(60)
    ]
    found = spread_error(noise=2.0, patients=2000, phenotypes=9)
    assert found == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=0.3)


def test_r2_by_hand():
    """9 groups, sqrt(82) / 2 of each squared error, 3 sd of reach, R2 of a half."""
    std = noise_of(score_bounds(BOTH, phenotypes=82, diseases=12), 1.0)
    assert std["phenotypes/ecg/squared_error"] == pytest.approx(3 * math.sqrt(82) / 2)
    found = expected_errors(BOTH, noise=3.0, patients=2000, phenotypes=82, diseases=12)
    by_hand = 3 * 9 * (3 * math.sqrt(82) / 2) * math.sqrt(1 + 0.25 + 0.25) / 2000
    assert found.measured == pytest.approx(3 * 3 * math.sqrt(82))
    assert found.diagnosed == pytest.approx(3 * 3 * math.sqrt(12))
    assert found.r2 == pytest.approx(by_hand) and found.r2 == pytest.approx(0.225, abs=0.001)


def test_equal_sites_together_have_less():
    one = errors_of_site(noise=1.0, declared=10_000, phenotypes=82, diseases=12)
    four = expected_errors(BOTH, noise=1.0, patients=8000, phenotypes=82, diseases=12, sites=4)
    assert one.patients == 2000
    assert four.r2 == pytest.approx(one.r2 / 2)
    assert four.auroc < one.auroc


def test_only_what_is_asked_has_an_error():
    only = EvaluationOptions(sections=("diseases",))
    found = expected_errors(only, noise=1.0, patients=50, phenotypes=82, diseases=12)
    assert math.isnan(found.r2) and found.unusable == ("AUROC",) and found.leaves_nothing
    assert found.words().endswith("in AUROC over 50 test patients")
    assert (
        expected_errors(only, noise=1.0, patients=10**5, phenotypes=82, diseases=12).unusable == ()
    )


def test_a_plan_says_how_many_test_patients_it_needs():
    config = plan()
    needed = patients_for(config)
    assert 2000 < needed < 4000
    assert not errors_of_plan(config, 5 * needed).unusable
    assert errors_of_plan(config, 3 * needed).unusable
    assert patients_for(plan("phenotypes=[lv_ef]", "diseases=[atrial_fibrillation]")) < needed / 3
    assert patients_for(plan("stages=[handshake,diseases]")) == 0
    assert errors_of_plan(plan("privacy.mode=none"), 1000) is None


def test_a_head_that_no_stage_trains_takes_no_share_of_the_noise():
    """Neither at the sites, which are asked by the server's options, nor in what is expected."""
    config = plan("stages=[handshake,diseases,evaluate]")
    options = evaluation_options(config)
    assert options.sections == errors_of_plan(config, 1000).asked == ("diseases",)
    asked = plan("stages=[handshake,diseases,evaluate]", "evaluation.sections=[diseases]")
    assert errors_of_plan(config, 1000).auroc == errors_of_plan(asked, 1000).auroc
    assert patients_for(config) == patients_for(asked) < patients_for(plan())
    assert scored_outputs(config) == "12 diseases"
    assert scored_outputs(plan()) == "82 phenotypes and 12 diseases"
    noise = {
        len(found.sections): noise_of(score_bounds(found, phenotypes=82, diseases=12), 1.0)
        for found in (options, evaluation_options(plan()))
    }
    ratio = noise[2]["diseases/histogram"] / noise[1]["diseases/histogram"]
    assert ratio == pytest.approx(math.sqrt(9 / 3))  # groups of a release


def test_heads_of_an_earlier_run_are_scored():
    config = plan("stages=[handshake,diseases,evaluate]")
    begun = replace(config, start=StartConfig(checkpoint="x", stages=("phenotypes",)))
    assert errors_of_plan(begun, 1000).asked == ("phenotypes", "diseases")


def test_an_evaluation_of_nothing_is_warned_of():
    config = plan("stages=[handshake,ecg_masked,evaluate]")
    site = SiteRecord(("ecg",), {"patients": 1000}, {})
    assert errors_of_plan(config, 1000).asked == () and patients_for(config) == 0
    assert any("has nothing to score" in text for text in warnings_of(config, [site]))
    (text,) = warnings_of(plan("stages=[handshake,diseases,evaluate]"), [site])
    assert "fewer than 12 diseases (the plan's `diseases`)" in text and "phenotypes" not in text
