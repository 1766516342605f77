"""The server's side of privacy: what it asks, what it takes, and the heads that it mirrors."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from cardionets_core.errors import ConfigError, WireError
from cardionets_core.messages import Update, update_from_records, update_to_records
from cardionets_core.privacy.accounting import Charge
from cardionets_core.privacy.plan import planned_charges, private_task
from cardionets_core.privacy_config import PrivacyReport, PrivateTask
from cardionets_core.run_config import CONF, compose, run_config_from
from server.norms import travel
from server.privacy import (
    earlier_ledgers,
    judged_alike,
    keeps_to,
    knowing,
    knowing_all,
    ledgers_of,
    note_report,
    passes_of,
    told_of,
)
from server.state import SiteRecord
from tests.task_header import task_header

HEADS = ["0" * 64, "a" * 64, "f" * 64]
ASKED = PrivateTask(noise=1.0, rate=0.05, clip=1.0, steps=10)
RECORD = SiteRecord(("ecg",), {"patients": 500, "train_studies": 500}, {})
DELTA = {"ecg_encoder": {"w": np.ones(3, dtype=np.float32)}}


def report(entries=2, head=HEADS[1], epsilon=0.5):
    return PrivacyReport(epsilon, 1e-5, head, entries, order=3.1)


def update(**changes):
    fields = {"num_examples": 500, "steps": 10, "planned_steps": 10, "delta": DELTA}
    return Update("north", "run-1", "ecg_masked", 1, **fields | {"privacy": report()} | changes)


def plan(*overrides):
    words = ["name=x", "plan=private", "privacy.mode=patient", *overrides]
    return run_config_from(compose("run", words, package=CONF))


def test_each_kind_of_task_asks_for_its_own_noise():
    config = plan("privacy.stages.contrastive.noise=2", "privacy.sums_noise=7")
    assert private_task(config, "handshake", "describe") == PrivateTask(7.0, 1.0, 1.0, 1)
    assert private_task(config, "evaluate", "score") == PrivateTask(3.0, 1.0, 1.0, 1)
    assert private_task(config, "contrastive", "train") == PrivateTask(2.0, 0.05, 1.0, 10)
    assert private_task(config, "diseases", "train").noise == 1.0
    assert private_task(plan("privacy.mode=none"), "diseases", "train") is None


def test_the_last_round_of_the_tokenizer_asks_for_its_statistics_and_the_schedule_counts_it():
    words = ("stages=[handshake,tokenizer]", "stage.tokenizer.rounds=3")
    config = plan(*words, "stage.tokenizer.max_steps=10", "privacy.latent_noise=6")
    asked = [private_task(config, "tokenizer", "train", n).latent_noise for n in (1, 2, 3)]
    assert asked == [0.0, 0.0, 6.0]
    steps, release = Charge(1.0, 0.05, 30), Charge(6.0, 1.0, 1)
    assert planned_charges(config, ("cine",)) == (steps, release)
    assert planned_charges(config, ("ecg",)) == ()
    off = plan(*words, "stage.tokenizer.max_steps=10", "privacy.latent_noise=0")
    assert private_task(off, "tokenizer", "train", 3).latent_noise == 0.0
    assert planned_charges(off, ("cine",)) == (steps,)


def test_no_other_stage_is_asked_for_latent_statistics():
    config = plan()
    for name in ("ecg_masked", "contrastive", "phenotypes", "diseases"):
        last = config.stage[name].rounds
        assert private_task(config, name, "train", last).latent_noise == 0.0
    assert private_task(config, "handshake", "describe").latent_noise == 0.0


@pytest.mark.parametrize("noise", ["-1", ".inf", ".nan"])
def test_a_latent_noise_that_is_none_is_refused(noise):
    with pytest.raises(ConfigError, match="latent_noise"):
        plan(f"privacy.latent_noise={noise}")


def test_an_update_that_keeps_to_its_task_is_taken():
    assert keeps_to(update(), ASKED, RECORD)
    assert keeps_to(update(metrics={"train_loss": 1.0}, privacy=None), None, RECORD)


@pytest.mark.parametrize(
    "changes",
    [
        {"privacy": None},
        {"metrics": {"train_loss": 0.5}},
        {"examples": {"ecg_encoder": 500}},
        {"seconds_before": 3.0},
        {"num_examples": 487},  # what the records hold, and not what was declared
        {"steps": 9},
        {"planned_steps": 11},
        {"steps": 9, "planned_steps": 9},
    ],
)
def test_an_update_that_tells_more_or_does_other_work_is_not_used(changes):
    assert not keeps_to(update(**changes), ASKED, RECORD)


@pytest.mark.parametrize(
    "changes",
    [
        {"epsilon": float("nan")},
        {"epsilon": float("inf")},
        {"epsilon": -0.1},
        {"promised": float("nan")},
        {"promised": -1.0},
        {"raises": -1},
        {"raises": 2},
        {"order": 0.0},
        {"order": 1.0},
        {"order": -3.1},
        {"order": 513.0},
        {"order": float("nan")},
        {"order": float("inf")},
        {"delta": 0.0},
        {"delta": 1.0},
        {"entries": 0},
        {"entries": 2**41},
        {"head": "A" * 64},
        {"head": "a" * 63},
        {"head": "../" * 21 + "a"},
        {"head": ""},
    ],
)
def test_a_report_that_no_ledger_gives_is_not_read(changes):
    fine = update_from_records(update_to_records(update()))
    assert fine.privacy == report()
    with pytest.raises(WireError, match="ledger"):
        update_from_records(update_to_records(update(privacy=replace(report(), **changes))))


def test_the_newest_head_is_kept_whatever_order_they_come_in():
    ledgers = {}
    for told in (report(3, HEADS[1]), report(2, HEADS[0]), None, report(5, HEADS[2])):
        note_report(ledgers, "north", told)
    assert ledgers == {"north": report(5, HEADS[2])}
    note_report(ledgers, "north", report(4, HEADS[0]))  # an answer that was stored
    assert ledgers["north"].head == HEADS[2]


def test_a_task_bears_the_head_of_its_own_site_and_no_public_task_does():
    head = task_header(privacy=ASKED)
    assert knowing(head, report()).privacy == replace(ASKED, head=HEADS[1])
    assert knowing(head, None) == head
    assert knowing(task_header(), report()) == task_header()


def a_round(stage, told, sites=("north", "hill")):
    return {"stage": stage, **told_of(told, sites)}


def test_a_restarted_server_knows_the_heads_of_the_rounds_that_were_saved():
    rounds = [a_round("diseases", {"north": report(n, HEADS[n])}) for n in (1, 2)]
    assert ledgers_of([*rounds, {"stage": "diseases"}]) == {"north": report(2, HEADS[2])}
    assert told_of({}, ["north"]) == {}


def test_a_ledger_as_long_as_before_with_another_head_does_not_count_as_newer():
    """It was put back by one entry, and charged again: no task that bore the head had that."""
    known = {"north": report(20, HEADS[0])}
    note_report(known, "north", report(20, HEADS[1]))
    assert known["north"].head == HEADS[0]
    assert ledgers_of([a_round("handshake", {"north": report(20, HEADS[2])})], known) == known


def test_a_budget_that_was_raised_without_a_charge_is_known():
    known = {"north": report(20, HEADS[0])}
    note_report(known, "north", replace(report(20, HEADS[0]), budget=9.0))
    assert known["north"].budget == 9.0


def test_a_handshake_bears_all_heads_and_no_name():
    """A site finds its own; it is not told who else is, or was, in a run of this coordinator."""
    known = {"north": report(2, HEADS[1]), "hill": report(3, HEADS[2])}
    asked = knowing_all(task_header(run="run-7", privacy=ASKED), known).privacy
    assert asked.head_of(run="run-7", site="north") == HEADS[1]
    assert asked.head_of(run="run-7", site="hill") == HEADS[2]
    assert asked.head_of(run="run-7", site="west") == ""
    assert not any(name in word for name in known for word in asked.heads)
    other = knowing_all(task_header(run="run-8", privacy=ASKED), known).privacy
    assert not asked.heads.keys() & other.heads.keys()
    assert knowing_all(task_header(), known) == task_header()


def test_the_heads_of_other_runs_are_known(tmp_path):
    for name, told in (("b", report(7, HEADS[2])), ("a", report(9, HEADS[1]))):
        lines = [
            {"event": "round", "rounds": 1, "round": 1, **a_round("diseases", {"north": told})},
            {"event": "completed"},
        ]
        (tmp_path / name).mkdir()
        whole = {"seconds": 1, "accepted": [], "refused": {}, "metrics": {}}
        text = "".join(json.dumps({**whole, **line}) + "\n" for line in lines)
        (tmp_path / name / "progress.jsonl").write_text(text + '{"event": "rou')  # torn
    (tmp_path / "mlflow.db").touch()
    (tmp_path / "hospitals").mkdir()
    assert earlier_ledgers(tmp_path / "c") == {"north": report(9, HEADS[1])}
    assert earlier_ledgers(tmp_path / "a") == {"north": report(7, HEADS[2])}


def test_norms_are_judged_alike_whatever_a_site_declares():
    config = plan()
    settings = config.stage["diseases"]
    own = [travel("disease_head", n, settings=settings, number=1) for n in (100, 10_000)]
    assert own[0] < own[1]
    alike = judged_alike(config, settings)
    assert len({travel("disease_head", n, settings=alike, number=1) for n in (100, 10_000)}) == 1
    assert judged_alike(plan("privacy.mode=none"), settings) == settings


def test_a_moving_average_forgets_by_the_patients_that_steps_sample():
    assert passes_of(plan(), "diseases") == pytest.approx(0.5)  # ten steps of a twentieth
    config = plan("privacy.mode=none", "stage.diseases.local_epochs=3")
    assert passes_of(config, "diseases") == 3
