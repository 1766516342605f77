"""The two rounds on sites with known answers: golden numbers, merged equals pooled."""

import json

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.linear_model import LinearRegression

from cardionets_core.evaluation.evaluate import (
    fit_sums,
    merge,
    score_sums,
    solve_probes,
    summarise,
)
from cardionets_core.evaluation.forward import read_ecg, read_labels
from cardionets_core.evaluation.options import EvaluationOptions
from cardionets_core.evaluation.probes import covariate_design
from cardionets_core.evaluation.summary import residual_sd
from cardionets_core.evaluation.sums import section

NAMES = ("lv_edv", "lv_ef", "lv_mass")
DISEASES = ("heart_failure", "normal_ecg")
OPTIONS = EvaluationOptions(replicates=40, generated_patients=60, batch_size=50)
KNOWN = frozenset({"ecg", "phenotypes"})


@pytest.fixture
def run(model, site):
    """Return the evaluation of two paired sites and an ECG-only one."""
    sites = {
        "north": site(400, 1, sha="north"),
        "south": site(300, 2, first=1000, sha="south"),
        "ecg only": site(200, 3, first=2000, sha="ecg", cines=False),
    }
    probes = solve_probes(merge(fit_sums(model, s, OPTIONS) for s in sites.values()), OPTIONS)
    sums = {k: score_sums(model, s, probes, OPTIONS, seed=7) for k, s in sites.items()}
    return sites, probes, sums


def test_phenotype_rows_are_sklearns_on_pooled_predictions(run, model):
    sites, probes, sums = run
    report = summarise(sums, merge(sums.values()), NAMES, DISEASES, phenotype_sd=[30.0, 8.0, 1.0])
    truth, guess, linear = [], [], []
    for dataset in sites.values():
        rows = dataset.indices("test", KNOWN)
        known = read_labels(dataset, rows, size=64)
        keep = known.phenotype_mask[:, 1]
        design = covariate_design(known.covariates, known.covariate_mask)
        truth.append(known.phenotypes[keep, 1])
        guess.append(read_ecg(model, dataset, "test", size=64).of(rows).phenotypes[keep, 1])
        linear.append((design @ probes["covariates_phenotypes"][1])[keep])
    truth, guess, linear = map(np.concatenate, (truth, guess, linear))
    row = report["pooled"]["phenotypes"]["by_phenotype"]["lv_ef"]
    assert row["patients"] == len(truth)
    assert row["ecg"]["r2"]["value"] == pytest.approx(sk.r2_score(truth, guess), rel=1e-5)
    assert row["covariates"]["r2"]["value"] == pytest.approx(sk.r2_score(truth, linear), rel=1e-4)
    expected = 8 * sk.mean_absolute_error(truth, guess)
    assert row["ecg"]["mae"]["value"] == pytest.approx(expected, rel=1e-5)
    zero = sk.r2_score(truth, np.zeros_like(truth))
    assert row["mean"]["r2"]["value"] == pytest.approx(zero, rel=1e-4)
    assert row["ecg"]["r2"]["low"] < row["ecg"]["r2"]["value"] < row["ecg"]["r2"]["high"]
    assert "lv_mass" not in report["pooled"]["phenotypes"]["by_phenotype"]


def test_probes_are_pooled_regression(run):
    sites, probes, _ = run
    designs, targets = [], []
    for dataset in sites.values():
        known = read_labels(dataset, dataset.indices("train", {"phenotypes"}), size=64)
        keep = known.phenotype_mask[:, 0]
        designs.append(covariate_design(known.covariates, known.covariate_mask)[keep])
        targets.append(known.phenotypes[keep, 0])
    design, target = np.concatenate(designs), np.concatenate(targets)
    expected = LinearRegression(fit_intercept=False).fit(design, target).predict(design)
    found = design @ probes["covariates_phenotypes"][0]
    assert np.corrcoef(found, expected)[0, 1] > 0.9999


def test_fusion_beats_both_and_uses_validation_only(run):
    _, probes, sums = run
    average = summarise(sums, merge(sums.values()), NAMES, DISEASES)["pooled"]["phenotypes"]
    row = average["by_phenotype"]["lv_edv"]
    fused = row["ecg_covariates"]["r2"]["value"]
    assert fused > row["ecg"]["r2"]["value"] + 0.003
    assert fused > row["covariates"]["r2"]["value"] + 0.3
    assert probes["residual_n"][0] < 150  # one patient in ten
    assert 0.3 < residual_sd(probes, 3)[0] < 0.6
    assert residual_sd(probes, 3)[2] == 0.0


def test_disease_rows_agree_with_sklearn(run, model):
    sites, _, sums = run
    report = summarise(sums, merge(sums.values()), NAMES, DISEASES)
    truth, score = [], []
    for dataset in sites.values():
        rows = dataset.indices("test", frozenset({"ecg", "diseases"}))
        truth.append(read_labels(dataset, rows, size=64).diseases[:, 0])
        score.append(read_ecg(model, dataset, "test", size=64).of(rows).probability[:, 0])
    truth, score = np.concatenate(truth), np.concatenate(score)
    row = report["pooled"]["diseases"]["by_disease"]["heart_failure"]
    area, precision = row["ecg"]["auroc"], row["ecg"]["auprc"]
    assert row["present"] == truth.sum()
    assert abs(area["value"] - sk.roc_auc_score(truth, score)) <= area["bin_error"] + 1e-6
    exact = sk.average_precision_score(truth, score)
    assert abs(precision["value"] - exact) <= precision["bin_error"] + 1e-6
    assert area["bin_error"] < 0.01
    assert row["ecg"]["brier"]["value"] == pytest.approx(
        sk.brier_score_loss(truth, score), rel=1e-5
    )
    assert 0.6 < row["covariates"]["auroc"]["value"] < 0.95


def test_merged_sites_equal_one_pooled_site(model, site):
    """Two sites that hold half of the patients each give what one site with all of them gives."""
    whole = site(300, 5)
    halves = [site(300, 5, share=np.arange(0, 130)), site(300, 5, share=np.arange(130, 300))]
    keep = EvaluationOptions(replicates=30, minimum_patients=1)
    pooled_fit = fit_sums(model, whole, keep)
    merged_fit = merge(fit_sums(model, h, keep) for h in halves)
    assert pooled_fit.keys() == merged_fit.keys()
    for key, value in pooled_fit.items():
        np.testing.assert_allclose(merged_fit[key], value, rtol=1e-6, atol=1e-6, err_msg=key)
    probes = solve_probes(pooled_fit, keep)
    pooled = score_sums(model, whole, probes, keep, seed=3)
    merged = merge(score_sums(model, h, probes, keep, seed=3) for h in halves)
    for name in ("phenotypes", "diseases"):
        one, other = section(merged, name), section(pooled, name)
        assert one.keys() == other.keys()
        for key, value in other.items():
            np.testing.assert_allclose(one[key], value, rtol=1e-6, atol=1e-5, err_msg=key)


def test_retrieval_beats_chance_and_says_what_chance_is(run):
    _, _, sums = run
    report = summarise(sums, merge(sums.values()), NAMES, DISEASES)
    found = report["pooled"]["retrieval"]["ecg_to_cmr"]
    per_site = [report["sites"][s]["retrieval"]["ecg_to_cmr"] for s in ("north", "south")]
    assert found["queries"] == sum(s["queries"] for s in per_site)
    expected = sum(10.0 for _ in per_site) / found["queries"]
    assert found["recall"]["r_at_10"]["chance"] == pytest.approx(expected, rel=1e-5)
    assert found["recall"]["r_at_10"]["low"] > 1.5 * expected
    assert found["median_rank"] < 0.6 * found["chance_median_rank"]
    assert report["sites"]["ecg only"]["retrieval"] == {}


def test_generation_tells_a_good_sampler_from_a_blind_one(run):
    _, probes, sums = run
    report = summarise(sums, merge(sums.values()), NAMES, DISEASES, probes=probes)
    found = report["pooled"]["generation"]
    r2 = {k: v["r2"]["value"] for k, v in found["fidelity"]["average"].items()}
    assert r2["real"] > 0.95
    assert r2["conditional_mean"] > r2["conditional"] > 0.5 > r2["unconditional"]
    assert r2["mean_image"] < 0.1
    assert found["frechet"]["mean_image"] > 5 * found["frechet"]["unconditional"]
    assert found["frechet"]["real_train"] < found["frechet"]["mean_image"] / 5
    assert found["ssim"]["conditional"]["value"] > found["ssim"]["unconditional"]["value"]
    assert 0.5 < found["memory"]["ratio"]["value"] < 2
    samples, free = (found["diversity"][k]["value"] for k in ("samples", "unconditional"))
    assert 0 < samples < free
    assert report["sites"]["ecg only"]["generation"] == {}


def test_report_is_json_and_repeats_bit_for_bit(run, model):
    sites, probes, sums = run
    report = summarise(sums, merge(sums.values()), NAMES, DISEASES, probes=probes)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    again = score_sums(model, sites["south"], probes, OPTIONS, seed=7)
    for key, value in again.items():
        np.testing.assert_array_equal(value, sums["south"][key], err_msg=key)
    other = score_sums(model, sites["south"], probes, OPTIONS, seed=8)
    assert not np.array_equal(other["phenotypes/n"], sums["south"]["phenotypes/n"])
    assert all(v.dtype == np.float64 for v in again.values())
    assert sum(v.nbytes for v in again.values()) < 2_000_000


def test_small_sites_send_nothing_of_single_patients(model, site):
    tiny = site(12, 4)
    options = EvaluationOptions(replicates=20, minimum_patients=50)
    assert fit_sums(model, tiny, options) == {}
    probes = solve_probes(fit_sums(model, site(200, 1), OPTIONS), OPTIONS)
    assert score_sums(model, tiny, probes, options, seed=0) == {}
    report = summarise({"tiny": {}}, merge([{}]), NAMES, DISEASES)
    assert report["pooled"]["phenotypes"] == {}


def test_sites_without_labels_or_cines_still_serve_the_rest(model, site):
    unlabelled = site(150, 6, labels=False)
    fitted = fit_sums(model, unlabelled, OPTIONS)
    assert "mean_cine/sum" in fitted
    assert not section(fitted, "covariates_phenotypes")
    probes = solve_probes(merge([fitted, fit_sums(model, site(200, 1), OPTIONS)]), OPTIONS)
    sums = score_sums(model, unlabelled, probes, OPTIONS, seed=0)
    assert section(sums, "retrieval")
    assert not section(sums, "phenotypes")
    report = summarise({"u": sums}, sums, NAMES, DISEASES, probes=probes)
    assert report["pooled"]["generation"]["fidelity"]["by_phenotype"] == {}
    json.dumps(report, allow_nan=False)


def test_a_site_without_training_cines_scores_no_generation(model, site):
    """Else its patients would count where it has no neighbour to show."""
    whole = site(200, 1)
    probes = solve_probes(fit_sums(model, whole, OPTIONS), OPTIONS)
    whole.arrays.view_mask[whole.indices("train")] = False
    bare = type(whole)(
        whole.manifest,
        whole.arrays,
        spec=whole.spec,
        phenotypes=NAMES,
        diseases=DISEASES,
        scaler=whole.scaler,
        salt="test",
    )
    sums = score_sums(model, bare, probes, OPTIONS, seed=0)
    assert section(sums, "retrieval")
    assert not section(sums, "generation")


def test_model_mode_is_restored(model, site):
    model.train()
    fit_sums(model, site(60, 1), OPTIONS)
    assert model.training


def test_options_refuse_what_cannot_run():
    with pytest.raises(ValueError, match="replicate_bins"):
        EvaluationOptions(score_bins=100, replicate_bins=64)
    with pytest.raises(ValueError, match="samples is 1"):
        EvaluationOptions(samples=1)
