"""`cardionets-site budget`: what an administrator sees of a ledger, and plans with."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from cardionets_core.privacy import population
from cardionets_core.privacy.accounting import Charge
from cardionets_core.privacy.ledger import Ledger
from cardionets_core.privacy.order import added, first_charge, usual_order
from cardionets_core.privacy.planning import plan_of, run_to_plan
from cardionets_core.site_config import load_site_config
from client.budget_allowance import stated
from client.budget_shown import shown
from tests.client.budget_bench import hospital, spend, typed


@pytest.fixture
def site(tmp_path):
    return hospital(tmp_path)


def test_init_makes_the_ledger_of_the_tables_patients(site):
    code, said = typed("init", "--config", site)
    assert code == 0
    assert "30 in the table; 30 declared" in said and "epsilon 4 at delta 1e-05" in said
    assert "order 4.8, of Renyi DP, for all that will be charged: the usual one; --run " in said
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
    with Ledger.read(load_site_config(site).privacy) as ledger:
        spent, order = ledger.epsilon(), ledger.order
    spring, summer = (added([c], order) for c in (Charge(2.0, 0.1, 40), Charge(3.0, 0.2, 5)))
    assert f"spring ecg_masked train 2 40 2 0.1 {spring:.3f}" in said
    assert f"summer contrastive train 1 5 3 0.2 {summer:.3f}" in said
    first = first_charge(1e-5, order)
    assert spent == pytest.approx(first + spring + summer)  # what is shown adds up
    assert f"at order 4.8, which is fixed since the ledger was made: {first:.3f} with" in said
    assert f"counted {spent:.3f} of epsilon 4 at delta 1e-05; {4 - spent:.3f} not yet used" in said
    assert "What is promised is the budget, however its charges were chosen" in said
    assert "All of it, if it stood before round 1, costs epsilon " in said and " by PRV; " in said
    assert "4 entries" in said and "raised" not in said


def test_a_budget_below_what_the_first_charge_counts_is_told(site):
    typed("init", "--config", site)
    said = typed("show", "--config", site, "privacy.epsilon=2")[1]
    assert "The budget is not above that, so no charge fits" in said
    assert "so no charge fits" not in typed("show", "--config", site)[1]


def test_patients_who_outgrow_delta_are_shown(tmp_path):
    """A task goes by the declared number; here 20 are declared, and 30 are in the table."""
    site = hospital(tmp_path, patients=20, delta=1 / 30)
    typed("init", "--config", site)
    assert "publishing one whole" not in typed("show", "--config", site)[1]
    ledger = site.parent / "ledger.jsonl"
    there = population.read(ledger.with_name("ledger.jsonl.patients"))
    population.write(ledger, replace(there, digests=there.digests | {"0" * 32}))
    said = typed("show", "--config", site)[1]
    assert "the ledger has come to 31 patients" in said and "Set privacy.delta to 0.0032" in said


def test_an_untouched_ledger_shows_that_nothing_is_spent(site):
    typed("init", "--config", site)
    assert "nothing is charged yet" in typed("show", "--config", site)[1]


def test_show_without_a_ledger_says_what_to_do(site):
    code, said = typed("show", "--config", site)
    assert code == 2 and "budget init" in said


def test_raise_is_recorded_and_the_yaml_still_rules(site):
    typed("init", "--config", site)
    code, said = typed("show", "--config", site, "privacy.epsilon=6")
    assert said.startswith("Every private task is refused: privacy.epsilon is 6, but ")
    assert "allows 4. Lower privacy.epsilon, or record it" in said
    assert "counted 0.000 of epsilon 4 at delta 1e-05; 4.000 not yet used" in said
    code, said = typed("raise", "--config", site, "--epsilon", 6)
    assert code == 0 and "epsilon 4 -> 6" in said and "in force epsilon 4" in said
    shown = typed("show", "--config", site)[1]
    assert shown.startswith("counted 0.000 of epsilon 4 ")
    assert "The ledger allows up to epsilon 6, for good; privacy.epsilon 4" in shown
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


@pytest.mark.parametrize("answer", ["", "\n", "n\n"], ids=["nobody", "return", "no"])
def test_a_large_budget_is_recorded_only_when_a_person_says_yes(site, answer):
    typed("init", "--config", site)
    before = (site.parent / "ledger.jsonl").read_bytes()
    code, said = typed("raise", "--config", site, "--epsilon", 100, answers=answer)
    assert code == 1 and "epsilon 4 -> 100" in said and "It cannot be taken back [y/N]" in said
    assert "nothing was recorded; --yes records epsilon 100 without a question" in said
    assert (site.parent / "ledger.jsonl").read_bytes() == before


def test_a_large_budget_that_is_meant_is_recorded(site):
    typed("init", "--config", site)
    code, said = typed("raise", "--config", site, "--epsilon", 30, answers="y\n")
    assert code == 0 and "Record epsilon 30?" in said and "recorded epsilon 30" in said
    code, said = typed("raise", "--config", site, "--epsilon", 1e9, "--yes")
    assert code == 0 and "Record epsilon" not in said and "30 -> 1e+09" in said
    assert "The ledger allows up to epsilon 1e+09" in typed("show", "--config", site)[1]


def test_nobody_is_asked_for_a_budget_that_would_be_refused(site):
    typed("init", "--config", site)
    typed("raise", "--config", site, "--epsilon", 60, "--yes")
    code, said = typed("raise", "--config", site, "--epsilon", 50, answers="y\n")
    assert code == 2 and "records epsilon 60 already" in said and "Record epsilon" not in said


def test_a_ledger_is_free_while_a_person_thinks(site, monkeypatch):
    """A task that comes meanwhile is charged, and not refused for want of the lock."""
    typed("init", "--config", site)

    def thinks(*_, **__):
        spend(site, "spring", "ecg_masked", 1, Charge(2.0, 0.1, 20))
        return True

    monkeypatch.setattr("client.budget_cli.typer.confirm", thinks)
    assert typed("raise", "--config", site, "--epsilon", 40)[0] == 0
    with Ledger.read(load_site_config(site).privacy) as ledger:
        assert (len(ledger.charges), ledger.recorded) == (1, 40.0)


def test_show_holds_the_declared_patients_against_the_ledgers(site):
    typed("init", "--config", site)
    said = typed("show", "--config", site)[1]
    assert "patients: 30 declared, 30 known to the ledger" in said and "slip" not in said
    assert "when it was made" not in said
    said = typed("show", "--config", site, "privacy.patients=40")[1]
    assert "30 were declared when it was made" in said and "slip" not in said
    said = typed("show", "--config", site, "privacy.patients=5000")[1]
    assert "patients: 5,000 declared, 30 known to the ledger; 30 were declared when" in said
    assert "correct privacy.patients if it is a slip" in said
    (site.parent / "ledger.jsonl.patients").unlink()
    code, said = typed("show", "--config", site)
    assert code == 2 and ".patients is missing: whose privacy the ledger pays for" in said
    assert said.startswith("Every private task is refused: ") and "counted 0.000" in said


def test_a_delta_above_the_recorded_one_is_shown_first(site):
    typed("init", "--config", site)
    spend(site, "spring", "ecg_masked", 1, Charge(2.0, 0.1, 20))
    right = re.search(r"counted .* at delta 1e-05; ", typed("show", "--config", site)[1])[0]
    code, said = typed("show", "--config", site, "privacy.delta=1e-4")
    assert said.startswith("Every private task is refused: privacy.delta is 0.0001, but ")
    assert code == 2 and right in said  # and not what would count at the larger delta


@pytest.mark.parametrize(
    "change", [(), ("privacy.ledger={}/other.jsonl",), ("data.salt=new",), ("data.cache={}/new",)]
)
def test_a_ledger_that_is_lost_cannot_be_made_anew(site, change):
    """Not with other settings either: what was spent would be forgotten."""
    typed("init", "--config", site)
    for name in ("ledger.jsonl", "ledger.jsonl.head", "ledger.jsonl.patients"):
        (site.parent / name).unlink()
    code, said = typed("init", "--config", site, *(word.format(site.parent) for word in change))
    assert (
        code == 2 and f"charged to the ledger {site.parent}/ledger.jsonl, which cannot be" in said
    )
    for step in ("mounted", "moved", "newest backup of its three files", "no further private run"):
        assert step in said
    assert "another ledger," not in said and not list(site.parent.glob("*.jsonl*"))


def test_a_budget_that_hides_nobody_says_so(site):
    said = typed("init", "--config", site)[1]
    assert "WARNING" not in said
    said = typed("raise", "--config", site, "--epsilon", 50, "--yes")[1]
    assert "epsilon 50 says nothing of who took part" in said
    shown = typed("show", "--config", site)[1]  # where 4 is in force
    assert "From 30 on nothing would be said" in shown and "From epsilon 30 on" not in shown
    shown = typed("show", "--config", site, "privacy.epsilon=50")[1]
    assert "From epsilon 30 on nothing is said of who took part" in shown


def test_raise_tells_what_the_order_of_the_smaller_budget_costs(site):
    """Of what is charged so far; of sums over all patients where nothing is."""
    typed("init", "--config", site)
    said = typed("raise", "--config", site, "--epsilon", 12)[1]
    told = r"order 4.8 stays, as it was fixed for epsilon 4: of (.*?), (\d+)% of what order (\S+) "
    what, share, best = re.search(told, said).groups()
    assert (what, best) == ("sums over all patients", "3.1") and 80 < int(share) < 95
    spend(site, "spring", "ecg_masked", 1, Charge(1.2, 0.1, 5))
    said = typed("raise", "--config", site, "--epsilon", 60, "--yes")[1]
    what, fewer, best = re.search(told, said).groups()
    assert what == "what is charged so far" and float(best) < 2 and int(fewer) < int(share)


def test_init_takes_the_order_that_is_best_for_the_run_it_is_made_for(site):
    words = ("--run", "plan=private", "--run", "privacy.evaluation_noise=6")
    code, said = typed("init", "--config", site, *words)
    assert code == 0 and "the best for this run" in said
    allowed = stated(load_site_config(site).privacy)
    plan = plan_of(run_to_plan((words[1], words[3])), allowed)
    with Ledger.read(load_site_config(site).privacy) as ledger:
        assert ledger.order == plan.best_order() != usual_order(4.0, 1e-5)
        assert ledger.terms.epsilon == 4.0


def test_a_run_that_the_budget_cannot_pay_makes_no_ledger(site):
    code, said = typed("init", "--config", site, "privacy.epsilon=0.5", "--run", "plan=private")
    assert code == 2 and "no noise keeps this within epsilon 0.5" in said
    assert not (site.parent / "ledger.jsonl").exists()


def test_show_says_why_there_is_no_prv(tmp_path):
    site = hospital(tmp_path, epsilon=90.0)
    typed("init", "--config", site)
    config = load_site_config(site)
    patients = [f"p{n}" for n in range(30)]
    with Ledger.opened(config.privacy, patients=patients, salt=config.data.salt) as ledger:
        ledger.reserve("a", Charge(0.35, 0.1, 60))
    shown = typed("show", "--config", site)[1]
    assert "(no PRV: epsilon is 50 or more: its mesh grows with epsilon)" in shown


def test_accept_clock_is_an_entry(site):
    typed("init", "--config", site)
    code, said = typed("accept-clock", "--config", site)
    assert code == 0 and "2 entries" in said


@pytest.mark.parametrize("terminal", [False, True], ids=["log", "terminal"])
def test_the_bar_has_a_line_of_its_own(site, terminal):
    typed("init", "--config", site)
    spend(site, "spring", "ecg_masked", 1, Charge(2.0, 0.1, 20))
    screen = Console(file=io.StringIO(), width=140, force_terminal=terminal)
    with Ledger.read(load_site_config(site).privacy) as ledger:
        screen.print(shown(ledger, 30, ()))
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.file.getvalue()).splitlines()
    place = next(n for n, line in enumerate(lines) if "━" in line)
    assert set(lines[place].strip()) <= set("━╸╺ ") and lines[place - 1].startswith("counted ")
    assert lines[place + 1].split()[:3] == ["run", "stage", "for"]


def test_a_raised_budget_is_a_row_and_what_was_promised_beforehand_stays(site):
    typed("init", "--config", site)
    said = typed("raise", "--config", site, "--epsilon", 5)[1]
    assert "promised the new budget: nothing is charged yet" in said
    spend(site, "spring", "ecg_masked", 1, Charge(2.0, 0.1, 20))
    said = typed("raise", "--config", site, "--epsilon", 12)[1]
    assert "promised epsilon 5, which stood before the first charge: what is spent beyond" in said
    said = typed("show", "--config", site, "privacy.epsilon=12")[1]
    assert re.search(r"raised 20\d\d-\d\d-\d\d \d\d:\d\d UTC: epsilon 4 -> 5 \(entry 2\)", said)
    assert "UTC: epsilon 5 -> 12 (entry 4)" in said
    assert "What is promised is epsilon 5, which was fixed before the first charge" in said
    with Ledger.read(load_site_config(site).privacy) as ledger:
        assert (ledger.promised, ledger.recorded) == (5.0, 12.0)
