"""Which sites cannot pay a plan, and whether it can be played without them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cardionets_core.errors import IncompleteError
from cardionets_core.privacy.accounting import Charge, epsilon_at
from cardionets_core.privacy.plan import planned
from cardionets_core.privacy_config import PrivacyReport
from cardionets_core.run_config import CONF, compose, run_config_from
from server.budgets import require_budgets, short_sites, short_words
from server.refusals import SPENT_WAYS
from server.state import SiteRecord

OFFERS = ("ecg", "phenotypes", "diseases")
ALL = ("cine", "diseases", "ecg", "pairs", "phenotypes")
DELTA, ORDER = 1e-5, 4.0


def plan(*overrides):
    words = ["name=x", "plan=private", "privacy.mode=patient", "min_sites=2", *overrides]
    return run_config_from(compose("run", words, package=CONF))


def site(offers=OFFERS, patients=500):
    return SiteRecord(offers, {"patients": patients, "train_studies": patients}, {})


def report(config, offers=OFFERS, *, budget):
    """Return what a ledger says that has paid the handshake and nothing else."""
    spent = epsilon_at([planned(config, offers)[0].charge], DELTA, ORDER)
    return PrivacyReport(spent, DELTA, "a" * 64, 2, budget, ORDER)


def cost_until(config, stage, offers=OFFERS):
    """Return what all costs up to the end of a stage."""
    rows = planned(config, offers)
    last = [row.stage for row in rows].index(stage)
    return epsilon_at([row.charge for row in rows[: last + 1]], DELTA, ORDER)


def judged(config, sites, reports):
    short = short_sites(config, sites, reports)
    require_budgets(config, sites, reports, short)
    return short


def test_a_site_with_budget_enough_is_not_short():
    config = plan()
    whole = cost_until(config, "evaluate")
    sites = {"a": site(), "b": site()}
    assert judged(config, sites, {n: report(config, budget=1.001 * whole) for n in sites}) == {}
    assert judged(config, sites, {}) == {}  # a run without privacy


def test_a_budget_that_is_not_told_is_not_judged():
    config = plan()
    assert judged(config, {"a": site()}, {"a": report(config, budget=0.0)}) == {}


def test_the_stage_is_named_at_which_the_budget_ends():
    config = plan()
    sites = {"a": site(), "b": site()}
    for before, stage in (("ecg_masked", "phenotypes"), ("phenotypes", "diseases")):
        reports = {n: report(config, budget=1.001 * cost_until(config, before)) for n in sites}
        assert short_sites(config, sites, reports) == {"a": stage, "b": stage}
    (words,) = short_words({"a": "diseases"}, reports)
    assert words.startswith("a: epsilon 3.17") and "diseases will be refused" in words


def test_the_tokenizers_statistics_belong_to_its_stage():
    words = ("stages=[handshake,tokenizer,ecg_masked]", "stage.tokenizer.max_steps=4")
    config = plan(*words, "privacy.noise=9", "privacy.latent_noise=1")
    reports = {"a": report(config, ALL, budget=1.01 * cost_until(config, "tokenizer", ALL))}
    assert short_sites(config, {"a": site(ALL)}, reports) == {"a": "tokenizer"}


def test_below_min_sites_the_run_ends_and_says_whose_budget_it_is():
    config = plan()
    sites = {"a": site(), "b": site(), "c": site()}
    enough, few = 8.0, 1.001 * cost_until(config, "phenotypes")
    reports = {n: report(config, budget=enough) for n in sites}
    assert judged(config, sites, reports | {"c": report(config, budget=few)}) == {"c": "diseases"}
    reports |= {n: report(config, budget=few) for n in ("b", "c")}
    with pytest.raises(IncompleteError, match="diseases cannot be played to its end") as ended:
        judged(config, sites, reports)
    said = str(ended.value)
    assert "1 of 2 sites needed can pay it" in said and "b: epsilon" in said and "a:" not in said
    assert SPENT_WAYS in said and ended.value.sites == ("b", "c")
    assert ended.value.refused == dict.fromkeys("bc", "privacy_spent")
    assert not ended.value.resume_helps


def test_an_evaluation_that_nobody_can_pay_ends_the_run_before_it_trains():
    config = plan("privacy.evaluation_noise=1")
    few = 1.001 * cost_until(config, "diseases")
    sites = {"a": site(), "b": site()}
    reports = {n: report(config, budget=few) for n in sites}
    with pytest.raises(IncompleteError, match="stage evaluate cannot"):
        judged(config, sites, reports)
    reports["a"] = report(config, budget=20.0)
    assert judged(replace(config, min_sites=1), sites, reports) == {"b": "evaluate"}


def uneven(evaluation_noise, least=1):
    """Return a plan whose training needs `least` sites, while both have to evaluate.

    With evaluation noise 10, nine rounds and the evaluation cost 5.26 and ten rounds 5.45.
    """
    words = ("stages=[handshake,ecg_masked,evaluate]", "phenotypes=[lv_edv,lv_ef]")
    steps = ("stage.ecg_masked.rounds=10", "stage.ecg_masked.max_steps=20")
    few = ("diseases=[atrial_fibrillation]", f"stage.ecg_masked.min_sites={least}")
    noise = ("privacy.noise=1", f"privacy.evaluation_noise={evaluation_noise}")
    return plan(*words, *steps, *few, *noise)


def test_what_is_left_of_a_refused_round_may_pay_a_later_stage():
    """North answers nine rounds, refuses the tenth and can still evaluate: 5.26 of 5.35."""
    config, sites = uneven(10), {"hill": site(), "north": site()}
    sums, ten, scores = (row.charge for row in planned(config, OFFERS))
    nine = replace(ten, steps=180)
    few, all_of_it = (epsilon_at(c, DELTA, ORDER) for c in ([sums, nine, scores], [sums, ten]))
    assert few < 5.35 < all_of_it
    reports = {"hill": report(config, budget=20.0), "north": report(config, budget=5.35)}
    assert judged(config, sites, reports) == {"north": "ecg_masked"}  # told, and not stopped
    with pytest.raises(IncompleteError, match="stage ecg_masked cannot be played"):
        judged(uneven(10, least=2), sites, reports)


def test_a_later_stage_of_which_one_round_is_above_a_budget_still_ends_the_run():
    """One release of the evaluation costs more than north has, whatever it refuses before."""
    config, sites = uneven(1), {"hill": site(), "north": site()}
    sums = planned(config, OFFERS)[0].charge
    assert epsilon_at([sums, Charge(1.0, 1.0, 1)], DELTA, ORDER) > 4.5
    reports = {"hill": report(config, budget=20.0), "north": report(config, budget=4.0)}
    with pytest.raises(IncompleteError, match="stage evaluate cannot be played to its end: 1 of 2"):
        judged(config, sites, reports)
    assert judged(replace(config, min_sites=1), sites, reports) == {"north": "ecg_masked"}


def test_a_part_needs_owners_who_can_pay():
    """Two sites have ECGs and one has cines; the one with cines cannot pay."""
    words = ("stages=[handshake,masked]", "stage.masked.max_steps=10", "min_sites=1")
    config = plan(*words, "stage.masked.rounds=1")
    sites = {"a": site(), "b": site(), "c": site(("cine", "phenotypes"))}
    reports = {n: report(config, budget=8.0) for n in "ab"}
    reports["c"] = report(config, ("cine", "phenotypes"), budget=3.2)
    with pytest.raises(IncompleteError, match="cmr_encoder would come from 0 of 1 sites needed"):
        judged(config, sites, reports)


def test_a_secure_sum_needs_its_threshold():
    config = plan("min_sites=1", "secure_aggregation.enabled=true")
    few = 1.001 * cost_until(config, "phenotypes")
    sites = {n: site() for n in "abc"}
    reports = {n: report(config, budget=8.0) for n in "abc"}
    assert judged(config, sites, reports) == {}
    reports["c"] = report(config, budget=few)
    with pytest.raises(IncompleteError, match="2 of 3 sites needed can pay it"):
        judged(config, sites, reports)
