"""The server's side of privacy: what it asks, what it takes, and the heads that it mirrors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cardionets_core.errors import WireError
from cardionets_core.messages import Update, update_from_records, update_to_records
from cardionets_core.privacy_config import PrivacyReport, PrivateTask
from cardionets_core.run_config import CONF, compose, run_config_from
from server.norms import travel
from server.privacy import (
    judged_alike,
    keeps_to,
    knowing,
    ledgers_of,
    note_report,
    passes_of,
    private_task,
    told_of,
)
from server.state import SiteRecord
from tests.task_header import task_header

HEADS = ["0" * 64, "a" * 64, "f" * 64]
ASKED = PrivateTask(noise=1.0, rate=0.05, clip=1.0, steps=10)
RECORD = SiteRecord(("ecg",), {"patients": 500, "train_studies": 500}, {})
DELTA = {"ecg_encoder": {"w": np.ones(3, dtype=np.float32)}}


def report(entries=2, head=HEADS[1], epsilon=0.5):
    return PrivacyReport(epsilon, 1e-5, head, entries)


def update(**changes):
    fields = {"num_examples": 500, "steps": 10, "planned_steps": 10, "delta": DELTA}
    return Update("north", "run-1", "ecg_masked", 1, **fields | {"privacy": report()} | changes)


def plan(*overrides):
    words = ["name=x", "plan=private", "privacy.mode=patient", *overrides]
    return run_config_from(compose("run", words, package=CONF))


def test_each_kind_of_task_asks_for_its_own_noise():
    config = plan("privacy.stages.contrastive.noise=2", "privacy.sums_noise=7")
    assert private_task(config, "handshake", "describe") == PrivateTask(7.0, 1.0, 1.0, 1)
    assert private_task(config, "evaluate", "score") == PrivateTask(10.0, 1.0, 1.0, 1)
    assert private_task(config, "contrastive", "train") == PrivateTask(2.0, 0.05, 1.0, 10)
    assert private_task(config, "diseases", "train").noise == 1.0
    assert private_task(plan("privacy.mode=none"), "diseases", "train") is None


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


def test_a_restarted_server_knows_the_heads_of_the_rounds_that_were_saved():
    rounds = [told_of({"north": report(n, HEADS[n])}, ["north", "hill"]) for n in (1, 2)]
    assert ledgers_of([*rounds, {}]) == {"north": report(2, HEADS[2])}
    assert told_of({}, ["north"]) == {}


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
