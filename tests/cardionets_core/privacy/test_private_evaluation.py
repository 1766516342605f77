"""The evaluation of a private run: what it still tells, what a patient moves, what is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from cardionets_core.errors import ConfigError
from cardionets_core.evaluation.evaluate import score_sums
from cardionets_core.evaluation.fit import solve_probes
from cardionets_core.evaluation.metrics import auroc
from cardionets_core.evaluation.options import EvaluationOptions
from cardionets_core.evaluation.summary import summarise
from cardionets_core.evaluation.sums import merge
from cardionets_core.models.cardionet import build_model
from cardionets_core.privacy import evaluation
from cardionets_core.privacy.evaluation import (
    private_fit_sums,
    private_options,
    private_score_sums,
)
from cardionets_core.privacy.metrics import Part, released, to_total
from cardionets_core.privacy.rng import PrivacyRandom
from server.sums import (
    LARGEST_FIT,
    LARGEST_SCORE,
    private_fit_groups,
    score_groups,
    usable_sums,
)
from tests.cardionets_core.privacy.paired_site import (
    DISEASES,
    PHENOTYPES,
    SCALER,
    captured,
    joint_move,
    paired_site,
    patients_of,
    without,
)

OPTIONS = EvaluationOptions(sections=("phenotypes", "diseases"))


@pytest.fixture(scope="module")
def model(micro):
    torch.set_num_threads(1)
    return build_model(micro, seed=1)


@pytest.fixture
def site(micro):
    return paired_site(micro, 60, seed=2, studies=2)


def test_with_little_noise_it_says_what_the_usual_evaluation_says(model, micro):
    site = paired_site(micro, 160, seed=5)
    probes = solve_probes(private_fit_sums(model, site, OPTIONS, noise=1e-6, rng=PrivacyRandom()))
    sums = private_score_sums(model, site, probes, OPTIONS, noise=1e-6, rng=PrivacyRandom())
    usual = score_sums(model, site, probes, private_options(OPTIONS), seed=0)
    private, plain = (
        summarise({}, merge([s]), PHENOTYPES, DISEASES)["pooled"] for s in (sums, usual)
    )
    for name in PHENOTYPES:
        one, other = (r["phenotypes"]["by_phenotype"][name] for r in (private, plain))
        assert one["patients"] == other["patients"]
        assert one["ecg"]["r2"]["value"] == pytest.approx(other["ecg"]["r2"]["value"], abs=0.05)
        assert one["mean"]["mae_sd"]["value"] == pytest.approx(
            other["mean"]["mae_sd"]["value"], abs=0.02
        )
        assert one["ecg"]["r"]["value"] is None
    for name in DISEASES:
        one, other = (r["diseases"]["by_disease"][name] for r in (private, plain))
        assert (one["patients"], one["present"]) == (other["patients"], other["present"])
        for metric in ("auroc", "brier"):
            assert one["ecg"][metric]["value"] == pytest.approx(
                other["ecg"][metric]["value"], abs=1e-3
            )
        assert one["ecg"]["ece"] is None


@pytest.mark.parametrize("noise", [1.0, 30.0])
def test_the_server_takes_and_reads_noised_sums(model, site, micro, noise):
    config = _Run(micro)
    options = private_options(OPTIONS)
    for _ in range(2):
        fitted = private_fit_sums(model, site, OPTIONS, noise=noise, rng=PrivacyRandom())
        assert usable_sums(fitted, private_fit_groups(config, options), largest=LARGEST_FIT)
        probes = solve_probes(fitted, options)
        assert (probes["residual_sd"] > 0).all()
        scored = private_score_sums(model, site, probes, OPTIONS, noise=noise, rng=PrivacyRandom())
        assert usable_sums(scored, score_groups(config, options, probes), largest=LARGEST_SCORE)
        report = summarise({"a": scored}, scored, PHENOTYPES, DISEASES)
        for row in report["pooled"]["diseases"].get("by_disease", {}).values():
            area = row["ecg"]["auroc"]["value"]
            assert area is None or 0 <= area <= 1


class _Run:
    """What server.sums reads of a run's configuration."""

    phenotypes, diseases = PHENOTYPES, DISEASES

    def __init__(self, model):
        self.model = model


@pytest.mark.parametrize(("split", "round_"), [("validation", "fit"), ("test", "score")])
def test_a_patient_moves_a_round_by_no_more_than_is_charged(
    model, site, silent, monkeypatch, split, round_
):
    seen = captured(monkeypatch, evaluation)
    names, rows = patients_of(site, split)
    site.arrays.ecg[rows[names == names[0]]] *= 100  # a strange one
    for dataset in (site, without(site, names[0])):
        if round_ == "fit":
            private_fit_sums(model, dataset, OPTIONS, noise=1.0, rng=silent)
        else:
            private_score_sums(model, dataset, {}, OPTIONS, noise=1.0, rng=silent)
    groups = len(seen[0])
    move = joint_move(*seen, silent)
    assert 0.4 * np.sqrt(groups) < move <= np.sqrt(groups) * (1 + 1e-4)


def test_what_the_model_says_of_one_does_not_move_with_the_others(model, site, silent, monkeypatch):
    """To the last bit: a bin could turn with it, for every patient of a batch."""
    seen = captured(monkeypatch, evaluation)
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(3)
    for weight in model.parameters():  # heads begin at zero and would say the same of everybody
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    names, _ = patients_of(site, "validation")
    first = np.unique(names.astype(str))[0]
    for dataset in (site, without(site, first)):
        for size in (2, 64):  # and what the server asks for is of no account
            options = EvaluationOptions(sections=OPTIONS.sections, batch_size=size)
            private_fit_sums(model, dataset, options, noise=1.0, rng=silent)
    whole, again, fewer, _ = (s["ecg_score/value"].table for s in seen)
    assert np.array_equal(whole, again)
    assert {r.tobytes() for r in fewer} < {r.tobytes() for r in whole}


def test_shapes_tell_nothing_of_the_records(model, site, micro):
    """No ECG, no test patients, no labels: the same names and shapes as ever."""
    poor = paired_site(micro, 3, seed=1, ecg=False)
    for sums in (private_fit_sums, lambda *a, **k: private_score_sums(*a[:2], {}, *a[2:], **k)):
        rich, none = (
            {n: v.shape for n, v in sums(model, s, OPTIONS, noise=1.0, rng=PrivacyRandom()).items()}
            for s in (site, poor)
        )
        assert rich == none


@pytest.mark.parametrize("section", ["retrieval", "generation"])
def test_what_is_not_available_is_refused_with_the_reason(model, site, section):
    asked = EvaluationOptions(sections=("phenotypes", section))
    with pytest.raises(ConfigError, match=f"{section} is not available under privacy: .*Set eval"):
        private_options(asked)
    with pytest.raises(ConfigError, match="not available"):
        private_fit_sums(model, site, asked, noise=1.0, rng=PrivacyRandom())


def test_a_section_that_is_not_asked_is_not_released(model, site):
    asked = EvaluationOptions(sections=("diseases",))
    found = private_score_sums(model, site, {}, asked, noise=1.0, rng=PrivacyRandom())
    assert {name.split("/")[0] for name in found} == {"diseases"}


# --------------------------------------------------------------- whole counts from noised


def test_counts_are_projected_onto_their_total():
    """By hand: 1.5 is taken off each of the three bins that stay above zero."""
    found = to_total(np.array([5.0, 3.5, -2.0, 2.0]), np.array(6.0))
    np.testing.assert_allclose(found, [3.5, 2.0, 0.0, 0.5])


@pytest.mark.parametrize("total", [0.0, 7.0, 500.0])
def test_projected_counts_are_counts(total):
    noised = np.random.default_rng(0).normal(0, 30, (2, 4, 16))
    found = to_total(noised, np.full((2, 4), total))
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(-1), total, atol=1e-9)


def test_auroc_survives_moderate_noise():
    """2,000 patients, a fifth of them ill, one disease, noise 2: within 0.05 of the true area."""
    source = np.random.default_rng(0)
    ill = source.random(2000) < 0.2
    place = np.clip((source.normal(ill * 1.2, 1.0) + 3) * 2.2, 0, 15).astype(int)
    table = np.zeros((2000, 2, 16))
    table[np.arange(2000), ill.astype(int), place] = 1.0
    true = auroc(table.sum(0)[:, None])[0][0]
    for _ in range(5):
        noised = released({"h": Part(table, 1.0)}, 2.0, PrivacyRandom())["h"]
        totals = np.array([(~ill).sum(), ill.sum()], dtype=np.float64)
        assert auroc(to_total(noised, totals)[:, None])[0][0] == pytest.approx(true, abs=0.05)


def test_z_scores_come_from_the_runs_scaler(site):
    """What `ERRORS` clips is in sd of the federation, as the model predicts it."""
    batch = site.batch(np.array([0]), rng=None)
    raw = site.manifest.table.loc[0, list(PHENOTYPES)].to_numpy(dtype=float)
    np.testing.assert_allclose(batch.phenotypes[0].numpy(), SCALER.to_z(raw), rtol=1e-5)
