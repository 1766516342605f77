"""The sums of one site cannot end a run: what passes can be added, solved and summarised."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from cardionets_core.evaluation.evaluate import solve_probes, summarise
from cardionets_core.evaluation.metrics import binary_sums, regression_sums
from cardionets_core.evaluation.options import EvaluationOptions
from cardionets_core.evaluation.probes import covariate_design, fusion_equations, normal_equations
from cardionets_core.evaluation.sums import merge, under
from cardionets_core.model_config import ModelConfig
from cardionets_core.run_config import RunConfig
from server.sums import (
    LARGEST_FIT,
    LARGEST_SCORE,
    POSITIVE,
    STATISTICS,
    fit_groups,
    score_groups,
    usable_statistics,
    usable_sums,
)

PHENOTYPES, DISEASES = ("lv_edv", "lv_ef"), ("heart_failure",)
CONFIG = RunConfig(
    name="run-1",
    seed=3,
    model=ModelConfig(),
    stages=("handshake", "evaluate"),
    stage={},
    phenotypes=PHENOTYPES,
    diseases=DISEASES,
)
OPTIONS = EvaluationOptions()


def drawn(seed=0, patients=40):
    """Return covariate design, truth, mask and a guess of some patients."""
    rng = np.random.default_rng(seed)
    known = rng.random((patients, 4)) < 0.8
    design = covariate_design(rng.normal(60, 20, (patients, 4)), known)
    truth, guess = rng.normal(size=(2, patients, 2))
    return design, truth, rng.random((patients, 2)) < 0.9, guess


def fitted(seed=0):
    """Return what an ECG site sends in round `fit`."""
    design, truth, mask, guess = drawn(seed)
    error = np.where(mask, truth - guess, 0.0)
    labels, positive = np.ones((40, 1), dtype=bool), truth[:, :1] > 0
    return {
        **under("covariates_phenotypes", normal_equations(design, truth, mask)),
        **under("fusion", fusion_equations(design, guess, truth, mask)),
        "residual/n": mask.sum(axis=0).astype(np.float64),
        "residual/sum": error.sum(axis=0),
        "residual/square": (error**2).sum(axis=0),
        **under("covariates_diseases", normal_equations(design, positive * 1.0, labels)),
        "ecg_score/n": np.array([40.0]),
        "ecg_score/sum": guess[:, :1].sum(axis=0),
        "ecg_score/square": (guess[:, :1] ** 2).sum(axis=0),
    }


def scored(seed=0):
    """Return what an ECG site sends in round `score`."""
    _, truth, mask, guess = drawn(seed)
    names = ("mean", "ecg", "covariates", "ecg_covariates")
    share, labels = 1 / (1 + np.exp(-guess[:, :1])), np.ones((40, 1), dtype=bool)
    weights = np.ones((1, 40))
    binary = binary_sums(truth[:, :1] > 0, labels, share, share, weights, bins=(256, 64, 10))
    return {
        **under("phenotypes", regression_sums(truth, mask, dict.fromkeys(names, guess), weights)),
        **under("diseases/ecg", binary),
        **under("diseases/covariates", binary),
    }


def fits(sums, config=CONFIG):
    return usable_sums(sums, fit_groups(config, OPTIONS), largest=LARGEST_FIT)


def scores(sums, config=CONFIG):
    groups = score_groups(config, OPTIONS, solve_probes(fitted(), OPTIONS))
    return usable_sums(sums, groups, largest=LARGEST_SCORE)


def test_honest_sums_pass():
    assert fits(fitted()) and scores(scored())
    assert fits({}) and scores({})  # a site that can serve nothing of it
    labels_only = {k: v for k, v in fitted().items() if k.startswith("covariates_")}
    assert fits(labels_only)


def test_a_phenotype_of_too_few_patients_leaves_as_zeros():
    config = replace(CONFIG, phenotypes=PHENOTYPES[:1])
    design, truth, _, _ = drawn()
    mask = np.zeros((40, 1), dtype=bool)
    assert fits(
        under("covariates_phenotypes", normal_equations(design, truth[:, :1], mask)), config
    )


def plus(key, change):
    """Return the attack that adds something to one of the sums."""
    return lambda sums: sums | {key: sums[key] + change}


FIT_ATTACKS = {
    "one more": lambda s: s | {"covariates_phenotypes/more": np.zeros(2)},
    "another section": lambda s: s | {"cmr_probe/n": np.ones(2)},
    "half a group": lambda s: {k: v for k, v in s.items() if k != "fusion/gram"},
    "only a moment": lambda s: {"covariates_phenotypes/moment": np.ones((2, 9))},
    "another shape": lambda s: s | {"residual/sum": np.zeros(3)},
    "would broadcast": lambda s: s | {"residual/sum": np.zeros(1)},
    "another dtype": lambda s: s | {"residual/n": np.ones(2, dtype=np.int64)},
    "NaN": lambda s: s | {"residual/sum": np.full(2, np.nan)},
    "1e308": lambda s: s | {"residual/square": np.full(2, 1e308)},
    "a square below 0": lambda s: s | {"residual/square": np.array([1.0, -1e9])},
    "n below 0": lambda s: s | {"residual/n": np.full(2, -1.0)},
    "half a patient": lambda s: s | {"ecg_score/n": np.array([0.5])},
    "divided by 0": lambda s: s | {"ecg_score/n": np.zeros(1)},
    "singular": lambda s: s | {"fusion/gram": np.zeros((2, 10, 10))},
    "not symmetric": plus("fusion/gram", np.triu(np.ones((10, 10)), 1)),
    "below zero": plus("covariates_diseases/gram", -81 * np.diag([0.0] + [1.0] * 8)),
}


@pytest.mark.parametrize("name", FIT_ATTACKS)
def test_sums_that_could_end_the_fit_are_refused(name):
    assert not fits(FIT_ATTACKS[name](fitted()))


SCORE_ATTACKS = {
    "replicates": lambda s: s | {"phenotypes/n": np.ones((3, 2))},
    "an unknown predictor": lambda s: s | {"phenotypes/fusion/sum": np.ones((1, 2))},
    "without the truth": lambda s: {k: v for k, v in s.items() if k != "phenotypes/square"},
    "one predictor": lambda s: {k: v for k, v in s.items() if "covariates" not in k},
    "a longer histogram": lambda s: s | {"diseases/ecg/histogram": np.zeros((2, 1, 512))},
    "infinite": lambda s: s | {"diseases/ecg/brier": np.full((1, 1), np.inf)},
    "1e100": lambda s: s | {"phenotypes/ecg/cross": np.full((1, 2), 1e100)},
    "half a patient": lambda s: s | {"phenotypes/n": np.full((1, 2), 0.5)},
}


@pytest.mark.parametrize("name", SCORE_ATTACKS)
def test_sums_that_could_end_the_report_are_refused(name):
    assert not scores(SCORE_ATTACKS[name](scored()))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("seed", range(5))
def test_whatever_passes_can_be_solved_and_summarised(seed):
    """Also the worst that the bounds allow: noise of any size beside two honest sites."""
    rng = np.random.default_rng(seed)
    worst = {}
    for key, value in scored().items():
        least = 0 if key.rpartition("/")[2] in POSITIVE else -1
        noise = LARGEST_SCORE * rng.uniform(least, 1, value.shape)
        is_count = key.endswith(("/n", "/present"))
        worst[key] = np.floor(rng.uniform(0, 50, value.shape)) if is_count else noise
    assert scores(worst)
    lying = fitted() | {"residual/square": np.full(2, LARGEST_FIT)}
    moment = LARGEST_FIT * rng.uniform(-1, 1, (2, 9))
    lying |= {"covariates_phenotypes/moment": moment}
    assert fits(lying)
    with np.errstate(all="ignore"):
        probes = solve_probes(merge([lying, fitted(1), fitted(2)]), OPTIONS)
        sites = {"a": worst, "b": scored(1)}
        report = summarise(sites, merge(sites.values()), PHENOTYPES, DISEASES, probes=probes)
    json.dumps(report, allow_nan=False)
    assert all(np.isfinite(v).all() for v in probes.values())


def test_every_section_has_its_groups():
    """Cines, too: their sums are those of the model's size; a run without names has none."""
    (cine,) = [g for g in fit_groups(CONFIG, OPTIONS) if "mean_cine/sum" in g]
    assert cine["mean_cine/sum"].shape == (8, 64, 64)
    assert cine["cmr_probe/gram"].shape == (2, 65, 65)
    groups = score_groups(CONFIG, OPTIONS, {"mean_cine": np.zeros(1)})
    assert {k.split("/")[0] for g in groups for k in g} == set(OPTIONS.sections)
    nameless = replace(CONFIG, phenotypes=(), diseases=())
    assert len(fit_groups(nameless, OPTIONS)) == 1 and len(score_groups(nameless, OPTIONS, {})) == 1


HONEST = {
    "phenotype_n": np.array([3.0, 0.0]),
    "phenotype_sum": np.array([450.0, 0.0]),
    "phenotype_square": np.array([67_500.0, 0.0]),
}


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("phenotype_sum", [1e308, 0]),
        ("phenotype_sum", [451.0, 0]),  # more than their squares allow
        ("phenotype_sum", [450.0, 1.0]),  # of nobody
        ("phenotype_square", [1e308, 0]),
        ("phenotype_square", [-1.0, 0]),
        ("phenotype_n", [-3.0, 0]),
        ("phenotype_n", [3.5, 0]),
        ("phenotype_n", [2.0**41, 0]),
        ("phenotype_n", [np.inf, 0]),
        ("phenotype_n", [np.nan, 0]),
        ("disease_known", [1.0, 1.0]),
    ],
)
def test_statistics_of_no_patients(key, values):
    assert usable_statistics(HONEST, phenotypes=2)
    assert not usable_statistics(HONEST | {key: np.array(values)}, phenotypes=2)


def test_statistics_of_equal_patients_pass_in_spite_of_rounding():
    values = np.full((1000, 1), 0.1)
    sums = (np.full(1, 1000.0), values.sum(axis=0), (values**2).sum(axis=0))
    assert usable_statistics(dict(zip(STATISTICS, sums, strict=True)), phenotypes=1)
