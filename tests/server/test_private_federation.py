"""A federation whose sites demand privacy, from the handshake to the evaluation."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cardionets_core.messages import (
    Update,
)
from cardionets_core.packing import fingerprint
from cardionets_core.privacy.ledger import Ledger
from cardionets_core.site_config import load_site_config
from server.cli import app
from server.norms import learned_names
from server.privacy import NOT_PROTECTED
from simulations.faults.small import write_hospital
from tests.drawn_page import read_page
from tests.narrow_hospital import NARROW_RUN, narrowed
from tests.private_site import PRIVATE_RUN, make_private
from tests.server.overheard import overheard

STAGES = ("ecg_masked", "tokenizer", "contrastive", "phenotypes", "diseases")
PLAN = (
    *PRIVATE_RUN,
    *NARROW_RUN,
    f"stages=[handshake,{','.join(STAGES)},evaluate]",
    "evaluation.sections=[phenotypes,diseases]",
    *(f"stage.{name}.max_steps=1" for name in STAGES),
    "privacy.noise=2.0",
)
SITES = ("hill", "north")
REPORTED = [
    "federation", "privacy", "phenotypes", "diseases", "retrieval", "generation", "training",
    "facts",
]  # fmt: skip


@pytest.fixture(scope="module")
def private_hospitals(tmp_path_factory):
    """Site name -> YAML; north has pairs and hill ECGs only, both demand privacy."""
    folder = tmp_path_factory.mktemp("private")
    north = narrowed(write_hospital(folder, "north", "A", patients=14))
    hill = narrowed(write_hospital(folder, "hill", "C", patients=14, ecg_only=True))
    declared = ["ecg", "phenotypes", "diseases"]
    return {"hill": make_private(hill, modalities=declared), "north": make_private(north)}


@pytest.fixture(scope="module")
def run(federate, private_hospitals, nano, tmp_path_factory):
    """A private run that was stopped in its first stage and resumed: its folder and the wire."""
    folder = tmp_path_factory.mktemp("runs") / "private"
    wire = overheard(federate, folder, private_hospitals, (*nano, *PLAN), stop_at="ecg_masked/1")
    more = overheard(federate, folder, private_hospitals, ())
    wire.answers += more.answers
    wire.refused += more.refused
    wire.trained += more.trained
    return folder, wire


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def ledger_of(site):
    return Ledger.read(load_site_config(site).privacy)


def updates_of(wire, site, action="train"):
    return [(h, u) for h, u in wire.answers if u.site == site and h.action == action]


def test_it_completes_and_nobody_refuses(run):
    folder, wire = run
    assert summary(folder)["status"] == "COMPLETED" and wire.refused == []
    metrics = summary(folder)["metrics"]
    assert metrics["pooled"]["phenotypes"] and "noise" in metrics["notes"]


def test_each_release_is_one_entry_and_a_repeated_round_none(run, private_hospitals):
    """The first round was asked twice: before the server was stopped, and after."""
    _, wire = run
    stages = [h.stage for h, _ in updates_of(wire, "north")]
    assert stages.count("ecg_masked") == 2
    assert wire.trained == 8  # tokenizer and contrastive at one site only
    # Of the tokenizer's last round there are two: its steps, and its latent statistics.
    for name, charges in (("north", 1 + 5 + 1 + 2), ("hill", 1 + 3 + 2)):
        with ledger_of(private_hospitals[name]) as ledger:
            assert len(ledger.charges) == charges == len(ledger.items)
    marks = [fingerprint(u.delta["ecg_encoder"]) for _, u in updates_of(wire, "north")[:2]]
    assert marks[0] == marks[1]


def test_no_answer_tells_what_the_records_hold(run):
    _, wire = run
    for header, update in wire.answers:
        assert update.privacy is not None and header.privacy is not None
        assert not (update.metrics or update.examples) and update.seconds_before == 0
        assert set(update.counts.values()) <= {100} and update.num_examples in (0, 100)
        assert update.steps == update.planned_steps == (1 if header.action == "train" else 0)


def test_a_task_bears_the_newest_head_that_its_site_has_told(run):
    """As far as the server has saved it: the first round was stopped before that."""
    _, wire = run
    for name in SITES:
        newest = ""
        for header, update in (a for a in wire.answers if a[1].site == name):
            if header.action == "describe":
                assert header.privacy.head == ""  # whose node it is, is not known yet
            else:
                assert header.privacy.head == newest
            newest = update.privacy.head


def test_the_summary_says_what_each_site_has_spent(run, private_hospitals):
    folder, _ = run
    told = summary(folder)["privacy"]["sites"]
    for name in SITES:
        with ledger_of(private_hospitals[name]) as ledger:
            assert told[name]["epsilon"] == ledger.epsilon()
            assert told[name]["head"] == ledger.head
        assert 0 < told[name]["planned_epsilon"] <= told[name]["epsilon"] + 0.02
    rounds = [r["privacy"]["north"] for r in summary(folder)["rounds"] if "north" in r["accepted"]]
    spent = [r["epsilon"] for r in rounds]
    assert spent == sorted(spent) and spent[-1] == told["north"]["epsilon"]
    card = (folder / "model_card.md").read_text()
    assert "north: this run's schedule epsilon" in card and "Not covered" in card


def test_its_report_is_drawn_from_what_the_coordinator_has(run, tmp_path):
    """It says what privacy cost, and neither a patient nor a place of this machine."""
    shutil.copytree(run[0], tmp_path / "private")
    shutil.rmtree(tmp_path / "private" / "engine", ignore_errors=True)
    done = CliRunner().invoke(app, ["report", str(tmp_path / "private")])
    assert done.exit_code == 0, done.output
    page = read_page(tmp_path / "private" / "report.html")
    assert page.anchors == REPORTED and "article" not in page.tags
    told = summary(run[0])["privacy"]["sites"]["north"]
    rows = {r[0]: r for r in page.rows if len(r) == 9}
    assert rows["north"][1:3] == ["100", f"{told['epsilon']:.2f}"]
    assert NOT_PROTECTED in page.words and "Sites tell no losses" in page.words
    assert "A simulation" not in page.words and "no patient to show" in page.words
    assert str(tmp_path.parent) not in page.words and str(run[0].parent) not in page.words


def test_the_weight_of_a_site_is_what_it_declares(run):
    folder, _ = run
    for record in summary(folder)["rounds"]:
        if record["stage"] in STAGES:
            assert set(record["num_examples"].values()) == {100}
            assert record["metrics"] == {} and record["site_metrics"][record["accepted"][0]] == {}


def listed():
    """Return (action, field) of every row of the table in docs/privacy.md."""
    page = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text("utf-8")
    part = page.split("\n## What leaves\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1:3] for line in part.splitlines() if line.startswith("| `")]
    pairs = {
        (action.strip(), item)
        for items, actions in rows
        for item in re.findall(r"`([^`]+)`", items)
        for action in actions.split(",")
    }
    return {(action, item) for action, item in pairs if item != "code"}


def test_what_crossed_the_wire_is_what_the_page_lists(run):
    """Both ways: nothing else came, and nothing is listed that never comes.

    Of `delta`, what no optimizer moves is listed by itself: it is measured on patients.
    """
    _, wire = run
    empty, crossed = Update("", "", "", 0), set()
    for header, update in wire.answers:
        held = {f.name for f in fields(Update) if getattr(update, f.name) != getattr(empty, f.name)}
        crossed |= {(header.action, name) for name in held}
        learned = learned_names(header.model, update.delta)
        crossed |= {
            (header.action, name)
            for part, arrays in update.delta.items()
            for name, moved in arrays.items()
            if name not in learned[part] and moved.any()
        }
    assert crossed == listed()


def test_the_sums_of_the_handshake_are_the_same_for_a_restarted_server(run):
    _, wire = run
    for name in SITES:
        told = [u.sums for _, u in updates_of(wire, name, "describe")]
        assert len(told) == 2 and set(told[0]) == set(told[1])
        assert all(np.array_equal(told[0][key], told[1][key]) for key in told[0])
