"""What a coordinator is told of the cost of a private run: before it starts, per site, after."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from rich.console import Console

from cardionets_core.messages import Update, update_from_records, update_to_records
from cardionets_core.privacy.accounting import Charge, epsilon_at, epsilon_rdp
from cardionets_core.privacy.plan import EVERYTHING, LATENTS, planned, planned_charges
from cardionets_core.privacy.schedule import quoted
from cardionets_core.privacy_config import PrivacyReport
from cardionets_core.run_config import CONF, compose, run_config_from
from server.following import lines_of, quote_lines
from server.privacy import card_lines, raised_words, spent_by_site
from server.quotes import beyond_plan, charges_left, quotes_of, schedule_of, warnings_of
from server.schedule_table import schedule_table
from server.state import RunState, SiteRecord

HEAD = "a" * 64
ORDER = 3.1
OFFERS = ("ecg", "phenotypes", "diseases")


def plan(*overrides):
    words = ["name=x", "plan=private", "privacy.mode=patient", *overrides]
    return run_config_from(compose("run", words, package=CONF))


def report(epsilon=0.8, entries=2, delta=1e-5, budget=8.0, promised=8.0, raises=0):
    return PrivacyReport(epsilon, delta, HEAD, entries, budget, ORDER, promised, raises)


def described(site, patients=5000, **changes):
    counts = {"patients": patients, "train_studies": patients}
    told = {"modalities": OFFERS, "counts": counts, "privacy": report(**changes)}
    return Update(site, "x", "handshake", 1, **told)


def shown(config):
    console = Console(width=200)
    with console.capture() as captured:
        console.print(schedule_table(config))
    return " ".join(captured.get().split())


def test_the_table_has_a_row_for_each_stage_and_both_accountants():
    config = plan("privacy.stages.diseases.noise=3")
    said, charges = shown(config), planned_charges(config, EVERYTHING)
    alone = epsilon_rdp([Charge(1.0, 0.05, 40)], 1e-5)
    assert f"phenotypes training 1 0.05 50 40 4 {alone:.2f}" in said
    assert "diseases training 3 0.05 50 40 4" in said
    assert "handshake phenotype sums 5 1 1,000 1 1" in said
    assert "evaluate sums of metrics 3 1 1,000 2 2" in said
    whole = quoted(charges, 1e-5)
    assert f"epsilon {whole.rdp:.2f} by RDP, {whole.prv:.2f} by PRV, at delta 1e-05" in said
    assert "from about 2,200 test patients on" in said and "WARNING" not in said


def test_a_schedule_is_told_in_numbers_too():
    schedule = schedule_of(plan())
    assert schedule["stages"][0]["stage"] == "handshake"
    assert schedule["whole"]["epsilon_prv"] < schedule["whole"]["epsilon_rdp"]
    assert schedule_of(plan("privacy.mode=none")) == {}


def test_each_site_is_quoted_at_its_own_delta():
    config = plan()
    told = quotes_of(config, {n: described(n, delta=d) for n, d in (("a", 1e-5), ("b", 1e-7))})
    charges = planned_charges(config, OFFERS)
    for site, delta in (("a", 1e-5), ("b", 1e-7)):
        quote = told["quotes"][site]
        assert quote["epsilon_rdp"] == epsilon_at(charges, delta, ORDER) > quote["epsilon_prv"]
        assert quote["epsilon_rdp"] > epsilon_rdp(charges, delta) and quote["order"] == ORDER
    assert quotes_of(plan("privacy.mode=none"), {"a": described("a")}) == {}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"epsilon": 4.9}, "4.90 counted of 8, 3.10 not yet used. It fits: "),
        ({"epsilon": 7.4}, "0.60 not yet used. It does not fit ("),
        ({"budget": 5.0}, "It costs more than the site's whole budget: rounds will be refused"),
        ({"budget": 0.0}, "at delta 1e-05; 0.80 counted"),
    ],
)
def test_a_site_that_the_schedule_does_not_fit_is_pointed_out(changes, says):
    (line, *_) = quote_lines(quotes_of(plan(), {"north": described("north", **changes)}))
    assert line.startswith("privacy north: 5,000 patients declared; the schedule costs epsilon ")
    assert says in line and ("fit" in says or line.endswith(says))


@pytest.mark.parametrize("others", [(), (Charge(1.0, 0.05, 200),)])
@pytest.mark.parametrize("room, fits", [(1e-6, True), (-1e-6, False)])
def test_a_quote_says_that_it_fits_just_where_the_ledgers_gate_lets_all_of_it_in(
    others, room, fits
):
    """To the last bit of the budget, whatever else is charged; the handshake counts once."""
    charges = planned_charges(plan(), OFFERS)
    greeted = [p.charge for p in planned(plan(), OFFERS) if p.stage == "handshake"]
    whole = epsilon_at((*others, *charges), 1e-5, ORDER)
    spent = epsilon_at((*others, *greeted), 1e-5, ORDER)
    told = described("north", epsilon=spent, budget=whole + room)
    (line, *_) = quote_lines(quotes_of(plan(), {"north": told}))
    assert ("It fits: " in line) == fits
    assert fits or "does not fit" in line or "rounds will be refused" in line


@pytest.mark.parametrize(("room", "says"), [(1e-6, "fits: at most"), (-1e-6, "may not fit (up")])
def test_of_a_run_that_goes_on_the_rounds_that_are_done_are_not_counted_again(room, says):
    config = plan()
    paid = [p.charge for p in planned(config, OFFERS) if p.stage in ("handshake", "phenotypes")]
    paid.append(Charge(1.0, 0.05, 30))  # three of the four rounds of diseases
    whole = epsilon_at(planned_charges(config, OFFERS), 1e-5, ORDER)
    told = described("north", epsilon=epsilon_at(paid, 1e-5, ORDER), budget=whole + room)
    quotes = quotes_of(config, {"north": told}, {"phenotypes": 4, "diseases": 3})
    assert quotes["quotes"]["north"]["after"] == pytest.approx(whole, rel=1e-9)
    (line, *_) = quote_lines(quotes)
    assert f"What is left of it {says}" in line and f"{whole:.2f}" in line.partition("What")[2]


@pytest.mark.parametrize(("played", "releases"), [(0, 2), (1, 1), (2, 0)])
def test_the_latents_are_charged_in_the_last_round_of_their_stage(played, releases):
    words = ("stage.tokenizer.rounds=2", "stage.tokenizer.max_steps=5")
    config = plan("stages=[handshake,tokenizer]", *words)
    rows = {p.stage: p.charge for p in planned(config, ("cine",))}
    steps, latents = rows["tokenizer"].steps // 2, rows[LATENTS]
    training = [replace(rows["tokenizer"], steps=steps * releases)] if releases else []
    expected = [*training, latents] if releases else []
    assert charges_left(config, ("cine",), {"tokenizer": played}) == expected


def test_whoever_follows_a_run_sees_it():
    record = {"stage": "handshake", "round": 1, "rounds": 1, "seconds": 2.0, "accepted": ["north"]}
    entry = {"event": "round", **record, **quotes_of(plan(), {"north": described("north", 300)})}
    _, quote, warning = lines_of(entry)
    assert "300 patients declared" in quote
    assert warning.startswith("WARNING privacy.evaluation_noise=3 leaves no usable metric")
    assert "in AUROC" in warning and "in R2 over 60 test patients" in warning


def test_enough_patients_are_not_warned_of():
    config = plan("phenotypes=[lv_ef]", "diseases=[atrial_fibrillation]")
    sites = [described(n, patients=4000) for n in ("a", "b", "c")]
    assert warnings_of(config, sites) == []
    assert warnings_of(config, [replace(s, modalities=("cine",)) for s in sites]) == []


def test_a_plan_that_hides_nobody_says_so_wherever_it_is_shown():
    words = ["name=x", "plan=anti_reconstruction_only", "stages=[handshake,diseases]"]
    config = run_config_from(compose("run", words, package=CONF))
    assert "is NOT membership privacy" in shown(config)
    assert "is NOT membership privacy" in warnings_of(config, [])[0]
    state = RunState(weights={}, sites={"a": SiteRecord(OFFERS, {"patients": 300}, {})})
    history = ({"stage": "handshake", "privacy": {"a": asdict(report(41.0, budget=50.0))}},)
    card = card_lines(config, spent_by_site(config, replace(state, history=history)))
    assert "is NOT membership privacy" in card
    assert "So large an epsilon says nothing of who took part" in card


# ---------------------------------------------------------------------------------- after the run


def history_of(*entries):
    """Return rounds in which a site's ledger had so many entries, the handshake first."""
    stages = ("handshake", *("diseases" for _ in entries[1:]))
    return tuple(
        {"stage": stage, "privacy": {"a": asdict(report(0.5 * n, n))}}
        for stage, n in zip(stages, entries, strict=True)
    )


@pytest.mark.parametrize(("last", "more"), [(3, 0), (6, 0), (8, 0), (9, 1), (14, 6)])
def test_entries_that_the_schedule_does_not_hold_are_counted(last, more):
    """Four rounds and two sums of the evaluation come after the handshake."""
    config = plan("stages=[handshake,diseases,evaluate]")
    record = SiteRecord(OFFERS, {"patients": 300}, {})
    told = [(r["stage"], PrivacyReport(**r["privacy"]["a"])) for r in history_of(2, last)]
    assert beyond_plan(config, record, told) == more
    state = RunState(weights={}, sites={"a": record}, history=history_of(2, last))
    spent = spent_by_site(config, state)
    assert spent["a"]["beyond_plan"] == more and spent["a"]["patients"] == 300
    assert spent["a"]["planned_prv"] == spent["a"]["planned_epsilon"] < spent["a"]["planned_rdp"]
    card = card_lines(config, spent)
    assert ("that the schedule does not" in card) == bool(more)
    assert more != 1 or "It holds 1 entry that the schedule does not" in card
    assert "was raised" not in card
    assert ("(PRV)" in card) == (not more)  # it is of the schedule alone


def test_a_card_quotes_no_prv_where_a_round_was_charged_twice():
    """The site died before it kept its answer to round 2 of 4: five entries after the handshake."""
    config = plan("stages=[handshake,diseases]")
    record = SiteRecord(OFFERS, {"patients": 300}, {})
    cards = {}
    for name, entries in {"once": (2, 3, 4, 5, 6), "twice": (2, 3, 5, 6, 7)}.items():
        state = RunState(weights={}, sites={"a": record}, history=history_of(*entries))
        cards[name] = card_lines(config, spent_by_site(config, state))
    assert "(PRV), " in cards["once"] and "quote the site's budget" not in cards["once"]
    assert "PRV" not in cards["twice"] and "It holds 1 entry that" in cards["twice"]
    assert "quote the site's budget" in cards["twice"] and "(Renyi); the site's" in cards["twice"]


def test_what_a_ledger_has_left_crosses_the_wire():
    update = replace(described("north"), num_examples=5)
    assert update_from_records(update_to_records(update)).privacy == report()
    assert report().left == pytest.approx(7.2)
    assert report(budget=0.0).left != report(budget=0.0).left  # it does not tell: NaN


@pytest.mark.parametrize(
    ("first", "last", "says"),
    [
        ((8.0, 8.0, 0), (12.0, 8.0, 1), "raised from 8 to 12 after its first charge, during this"),
        ((12.0, 8.0, 1), (12.0, 8.0, 1), "raised from 8 to 12 after its first charge, before this"),
        ((12.0, 12.0, 1), (12.0, 12.0, 1), ""),  # before anything was charged
        ((5.0, 8.0, 0), (8.0, 8.0, 0), ""),  # in the YAML, up to what was recorded
        ((8.0, 0.0, 0), (12.0, 0.0, 0), ""),  # by a version that did not tell
    ],
)
def test_a_card_says_what_was_promised_before_a_budget_was_raised(first, last, says):
    """The raise is an entry, and none that was charged beyond the schedule."""
    config = plan("stages=[handshake,diseases]")
    record = SiteRecord(OFFERS, {"patients": 300}, {})
    told = zip(("handshake", "diseases"), (2, 6 + last[2] - first[2]), (first, last), strict=True)
    history = tuple(
        {"stage": stage, "privacy": {"a": asdict(report(1.0, n, 1e-5, *values))}}
        for stage, n, values in told
    )
    spent = spent_by_site(config, RunState(weights={}, sites={"a": record}, history=history))
    card = card_lines(config, spent)
    assert spent["a"]["beyond_plan"] == 0 and "that the schedule does not" not in card
    assert ("was raised" in card) == bool(says) and says in card
    assert not says or "what was promised beforehand is 8, and more may be quoted only" in card


def test_a_budget_that_was_raised_and_lowered_again_is_not_said_to_have_been_raised_to_less():
    spent = {"promised": 8.0, "budget": 5.0, "epsilon": 15.0, "raised_in_run": 0}
    words = raised_words(spent)
    assert "raised above 8 (now 5; 15.00 is counted) after its first charge" in words
    assert raised_words(spent | {"epsilon": 4.0}) == ""
