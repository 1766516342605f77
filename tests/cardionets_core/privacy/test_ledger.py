"""The ledger counts everything at one order, refuses in time, and watches budget and clock."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace

import pytest

from cardionets_core.privacy import ledger as ledger_module
from cardionets_core.privacy import new_ledger
from cardionets_core.privacy.accounting import Charge, epsilon_at, epsilon_prv
from cardionets_core.privacy.ledger import Ledger
from cardionets_core.privacy.order import usual_order
from cardionets_core.privacy.population import outgrown
from tests.cardionets_core.privacy.ledgers import (
    CHARGE,
    PATIENTS,
    hospital,
    key,
    refused,
    with_charges,
)


@pytest.fixture
def north(tmp_path):
    """A hospital with a ledger that holds three charges."""
    return with_charges(tmp_path / "north")


# ----------------------------------------------------------------------------------- what it counts


def test_it_adds_up_over_processes_runs_and_stages(north):
    with north.opened() as ledger:
        ledger.reserve(key(1, run="run-2", stage="contrastive"), Charge(3.0, 0.2, 7))
        charges, report = ledger.charges, ledger.report()
    assert charges == (CHARGE, CHARGE, CHARGE, Charge(3.0, 0.2, 7))
    assert report.epsilon == pytest.approx(epsilon_at(charges, 1e-5, 3.1), rel=1e-12)
    assert report.epsilon >= epsilon_prv(charges, 1e-5)
    assert (report.delta, report.order, report.entries, len(report.head)) == (1e-5, 3.1, 5, 64)


def test_an_entry_tells_run_stage_round_and_what_for(north):
    with Ledger.read(north.settings) as ledger:
        item = ledger.items[1]
    assert (item.run, item.stage, item.round, item.what) == ("run-1", "ecg_masked", 2, "train")
    assert item.charge == CHARGE and abs(item.time - time.time()) < 600


def test_a_key_of_another_form_is_told_whole(north):
    with north.opened() as ledger:
        ledger.reserve("17", CHARGE)
        ledger.reserve("by hand", CHARGE)
        assert [item.run for item in ledger.items[-2:]] == ["17", "by hand"]


def test_the_same_key_again_costs_again(north):
    """A crash before the answer was stored: the noise is drawn afresh, so it is paid afresh."""
    before = north.count()
    heads = {north.charged(9), north.charged(9)}
    assert north.count() == before + 2 and len(heads) == 2
    last = json.loads(north.path.read_text().splitlines()[-1])["body"]
    assert last["attempt"] == 2


def test_the_next_round_is_refused_before_it_starts(tmp_path):
    small = hospital(tmp_path, epsilon=1.5)
    small.init()
    costly = Charge(2.0, 0.1, 30)
    small.charged(1, costly)
    before = small.path.read_bytes()
    with small.opened() as ledger:
        assert ledger.epsilon([costly]) > 1.5 > ledger.epsilon()
        with refused(
            "privacy_spent", match=r"epsilon 1\.\d+ of 1\.5 is spent.*would make it .*show"
        ):
            ledger.reserve(key(2), costly)
    assert small.path.read_bytes() == before
    small.charged(2, Charge(20.0, 0.1, 1))  # something that does fit is still let in


def test_exactly_the_budget_may_be_spent(tmp_path):
    order = usual_order(2.0, 1e-5)
    made = hospital(tmp_path, epsilon=epsilon_at([Charge(2.0, 0.1, 60)], 1e-5, order))
    made.init(order)
    for number in (1, 2, 3):
        made.charged(number, Charge(2.0, 0.1, 20))
    with refused("privacy_spent"):
        made.charged(4, Charge(50.0, 0.01, 1))


def test_the_head_is_of_no_patient(tmp_path, monkeypatch):
    """Two populations, one with a patient more: nothing that leaves tells them apart."""
    monkeypatch.setattr(new_ledger.secrets, "token_hex", lambda n: "ab" * n)
    monkeypatch.setattr(ledger_module.time, "time", lambda: 1.9e9)
    reports = []
    for name, more in (("a", ()), ("b", ("one more",))):
        made = hospital(tmp_path / name)
        made.init()
        made = replace(made, patients=(*made.patients, *more))
        made.charged(1)
        with made.opened() as ledger:
            reports.append(ledger.report())
    assert reports[0] == reports[1]


# -------------------------------------------------------------------------------------- the budget


def test_the_yaml_may_not_allow_more_than_was_recorded(north):
    with refused(match=r"privacy.epsilon is 9, but .* allows 8. Lower .*budget raise"):
        north.having(epsilon=9.0).count()
    with refused(match=r"privacy.delta is 2e-05, but .* allows 1e-05. Lower privacy.delta.$"):
        north.having(delta=2e-5).count()


def test_patients_who_outgrow_delta_are_told_of_and_no_task_shows_it(tmp_path):
    """40 patients at delta 1/50; eleven join, and later all but them leave."""
    north = hospital(tmp_path).having(delta=1 / 50)
    north.init()
    fifty = replace(north, patients=tuple(f"p{n}" for n in range(50)))
    fifty.charged(1)
    assert outgrown(north.path, 1 / 50) == ""
    joined = replace(north, patients=tuple(f"p{n}" for n in range(51)))
    joined.charged(2)  # a coordinator that watched for the refusal would have counted them
    said = r"delta is 0.02, and the ledger has come to 51 patients.*Set .* to 0.002 "
    assert re.search(said, outgrown(north.path, 1 / 50))
    replace(north, patients=PATIENTS[20:]).charged(3)
    assert "51 patients" in outgrown(north.path, 1 / 50)  # it pays for those who left, too
    assert outgrown(north.path, 0.002) == ""


def test_a_declared_number_that_outgrows_delta_is_refused(tmp_path):
    north = hospital(tmp_path).having(delta=1 / 50)
    north.init()
    with pytest.raises(ValueError, match=r"privacy.delta is 0.02; .* at most 1 / patients"):
        north.having(patients=51)


def test_the_yaml_may_allow_less(north):
    with refused("privacy_spent", match="of 1 is spent"):
        north.having(epsilon=1.0).charged(4)
    with north.having(delta=1e-6).opened() as ledger:
        assert ledger.epsilon() > epsilon_at(ledger.charges, 1e-5, ledger.order)


def test_a_larger_budget_is_an_entry(north):
    with Ledger.read(north.settings) as ledger:
        ledger.raise_budget(12.0)
    assert north.having(epsilon=12.0).charged(4)
    body = json.loads(north.path.read_text().splitlines()[-2])["body"]
    assert (body["kind"], body["epsilon"]) == ("raise", 12.0)
    with refused(match="allows 12"):
        north.having(epsilon=12.5).count()
    with Ledger.read(north.settings) as ledger:
        with refused(match="records epsilon 12 already"):
            ledger.raise_budget(12.0)


def test_a_ledger_that_was_only_read_cannot_be_charged(north):
    with Ledger.read(north.settings) as ledger, pytest.raises(ValueError, match="use `opened`"):
        ledger.reserve(key(4), CHARGE)


# --------------------------------------------------------------------------------------- the clock


def test_a_clock_that_went_back_is_noticed(north, monkeypatch):
    now = time.time()
    monkeypatch.setattr(ledger_module.time, "time", lambda: now - 3600)
    with refused(match="the machine was put back to an earlier state.*accept-clock"):
        north.count()
    with Ledger.read(north.settings) as ledger:
        ledger.accept_clock()
    assert north.charged(4) and north.count() == 4


def test_a_clock_may_be_put_right_by_a_minute(north, monkeypatch):
    now = time.time()
    monkeypatch.setattr(ledger_module.time, "time", lambda: now - 60)
    north.charged(4)
    times = [json.loads(line)["body"]["time"] for line in north.path.read_text().splitlines()]
    assert times == sorted(times)
