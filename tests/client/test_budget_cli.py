"""`cardionets-site budget`: what an administrator sees of a ledger, and plans with."""

from __future__ import annotations

import pytest

from cardionets_core.privacy.accounting import Charge
from cardionets_core.privacy.ledger import Ledger
from cardionets_core.site_config import load_site_config
from tests.client.budget_bench import hospital, spend, typed


@pytest.fixture
def site(tmp_path):
    return hospital(tmp_path)


def test_init_makes_the_ledger_of_the_tables_patients(site):
    code, said = typed("init", "--config", site)
    assert code == 0
    assert "30 in the table; 30 declared" in said and "epsilon 4 at delta 1e-05" in said
    assert (site.parent / "cache" / "privacy_ledger.json").exists()
    code, said = typed("init", "--config", site)
    assert code == 2 and "what was spent must not be forgotten" in said


def test_show_tells_what_is_counted_by_run_and_stage(site):
    typed("init", "--config", site)
    for number in (1, 2):
        spend(site, "spring", "ecg_masked", number, Charge(2.0, 0.1, 20))
    spend(site, "summer", "contrastive", 1, Charge(3.0, 0.2, 5))
    code, said = typed("show", "--config", site)
    assert code == 0
    assert "spring ecg_masked train 2 40 2 0.1" in said
    assert "summer contrastive train 1 5 3 0.2" in said
    with Ledger.read(load_site_config(site).privacy) as ledger:
        spent = ledger.epsilon()
    assert f"counted {spent:.3f} of epsilon 4 at delta 1e-05; {4 - spent:.3f} not yet used" in said
    assert "What is promised is the budget" in said
    assert "4 entries" in said


def test_patients_who_outgrow_delta_are_shown(tmp_path):
    """A task goes by the declared number; here 20 are declared, and 30 are in the table."""
    site = hospital(tmp_path, patients=20, delta=1 / 30)
    typed("init", "--config", site)
    assert "publishing one whole" not in typed("show", "--config", site)[1]
    said = typed("show", "--config", site, "privacy.delta=0.034")[1]
    assert "the ledger has come to 30 patients" in said and "Set privacy.delta to 0.0033" in said


def test_an_untouched_ledger_shows_that_nothing_is_spent(site):
    typed("init", "--config", site)
    assert "nothing is charged yet" in typed("show", "--config", site)[1]


def test_show_without_a_ledger_says_what_to_do(site):
    code, said = typed("show", "--config", site)
    assert code == 2 and "budget init" in said


def test_raise_is_recorded_and_the_yaml_still_rules(site):
    typed("init", "--config", site)
    code, said = typed("show", "--config", site, "privacy.epsilon=6")
    assert "privacy.epsilon is 6, but the ledger records 4" in said
    code, said = typed("raise", "--config", site, "--epsilon", 6)
    assert code == 0 and "epsilon 6 (before: 4)" in said and "in force epsilon 4" in said
    code, said = typed("raise", "--config", site, "--epsilon", 5)
    assert code == 2 and "records epsilon 6 already" in said


@pytest.mark.parametrize(
    "words, said",
    [
        (("raise", "--epsilon", "inf"), "epsilon inf is no budget"),
        (("raise", "--epsilon", "nan"), "epsilon nan is no budget"),
        (("raise", "--epsilon", "0"), "records epsilon 4 already"),
        (("init", "privacy.delta=0.5"), "Set privacy.delta to 1e-05 or less"),
        (("init", "privacy.delta=nan"), "privacy.delta is nan"),
        (("init", "privacy.epsilon=inf"), "privacy.epsilon is inf"),
        (("show", "privacy.epsilon=nan"), "privacy.epsilon is nan"),
        (("show", "privacy.patients=0"), "privacy.patients is not set"),
    ],
)  # fmt: skip
def test_a_number_that_is_no_budget_is_told(words, said, site):
    typed("init", "--config", site)
    before = (site.parent / "ledger.jsonl").read_bytes()
    code, printed = typed(words[0], "--config", site, *words[1:])
    assert code == 2 and said in printed
    assert (site.parent / "ledger.jsonl").read_bytes() == before


def test_a_budget_that_hides_nobody_says_so(site):
    said = typed("init", "--config", site)[1]
    assert "WARNING" not in said
    said = typed("raise", "--config", site, "--epsilon", 50)[1]
    assert "epsilon 50 says nothing of who took part" in said
    shown = typed("show", "--config", site, "privacy.epsilon=50")[1]
    assert "From epsilon 30 on nothing is said of who took part" in shown


def test_show_says_why_there_is_no_prv(site):
    typed("init", "--config", site)
    assert typed("raise", "--config", site, "--epsilon", 90)[0] == 0
    config = load_site_config(site, ["privacy.epsilon=90"])
    patients = [f"p{n}" for n in range(30)]
    with Ledger.opened(config.privacy, patients=patients, salt=config.data.salt) as ledger:
        ledger.reserve("a", Charge(0.35, 0.1, 60))
    shown = typed("show", "--config", site, "privacy.epsilon=90")[1]
    assert "No figure by PRV: epsilon is 50 or more" in shown


def test_accept_clock_is_an_entry(site):
    typed("init", "--config", site)
    code, said = typed("accept-clock", "--config", site)
    assert code == 0 and "2 entries" in said
