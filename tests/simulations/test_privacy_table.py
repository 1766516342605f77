"""The privacy table: how sections end, what is said of each row, and what is written of it."""

from __future__ import annotations

import importlib
import json
from base64 import b64encode
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from cardionets_core.errors import ConfigError
from simulations.privacy import cli, table
from simulations.privacy.page import words
from simulations.privacy.row import Row, repeated, within
from simulations.privacy.section import ROWS, main

MADE_UP = """
import os, time
from simulations.privacy.pictures import Drawn, keep
from simulations.privacy.row import NotMeasuredError, Row

def good(work):
    keep(work, b"<svg>drawn</svg>", Drawn("a.svg", "a curve", "below it"))
    yield Row("clipped [sum]", "<= 1 C", "0.99 C", True, seeds="0-9")
    yield Row("a figure", "", "3 <b>", None)
    yield Row("noise / 4", "is found", "ratio 0.25", True, control=True)

def bad(work):
    yield Row("noise", "1.0", "0.5", False)
    yield Row("noise / 4", "is found", "ratio 1.0", False, control=True)

def broken(work):
    yield Row("first", "1", "1", True)
    raise ZeroDivisionError("nothing to divide")

def impossible(work):
    raise NotMeasuredError("dp-accounting is not installed; run make privacy")
    yield

def hangs(work):
    yield Row("first", "1", "1", True)
    time.sleep(600)

def dies(work):
    yield Row("first", "1", "1", True)
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def sections(tmp_path, monkeypatch):
    """Let the table hold six sections, one of every kind of ending."""
    (tmp_path / "made_up.py").write_text(MADE_UP)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    names = ("good", "bad", "broken", "impossible", "hangs", "dies")
    made_up = {n: table.Section(n.title(), f"made_up:{n}", 500) for n in names}
    monkeypatch.setattr(table, "SECTIONS", made_up)
    monkeypatch.setattr(cli, "SECTIONS", made_up)
    monkeypatch.setattr("simulations.privacy.page.SECTIONS", made_up)
    return made_up


def run(*options):
    return CliRunner().invoke(cli.app, list(options))


def test_a_section_that_ends_early_keeps_its_rows_and_says_why(sections, tmp_path):
    outcomes = table.measure(["broken", "impossible", "dies"], tmp_path)
    found = {
        o.section: ([e.state for e in o.entries], o.entries[-1].row.measured) for o in outcomes
    }
    states, reasons = zip(*found.values(), strict=True)
    assert states == (["met", "failed"], ["not measured"], ["met", "failed"])
    assert reasons[0] == "ZeroDivisionError: nothing to divide"
    assert reasons[1] == "dp-accounting is not installed; run make privacy"
    assert "ended with code -9" in reasons[2]


def test_a_section_that_hangs_is_ended_at_its_limit(sections, tmp_path):
    sections["hangs"] = replace(sections["hangs"], limit_s=1.5)
    (outcome,) = table.measure(["hangs"], tmp_path)
    assert outcome.entries[-1].state == "failed"
    assert "limit of 1.5 s" in outcome.entries[-1].row.measured
    assert outcome.seconds < 500


def test_everything_that_was_measured_is_on_screen_in_the_json_and_on_the_page(sections, tmp_path):
    done = run("--only", "good,bad", "--output", str(tmp_path))
    assert done.exit_code == 1
    verdict = "2 of 4 targets met (1 of them controls that failed); not met: 2 (bad)"
    for word in (verdict, "clipped [sum]", "failed, as it must", "NOT FOUND", "0-9", "command"):
        assert word in done.output
    content = json.loads((tmp_path / "privacy.json").read_text())
    assert content["verdict"] == verdict and content["versions"]["torch"]
    rows = content["sections"][0]["entries"]
    assert [r["state"] for r in rows] == ["met", "told", "met"]
    page = (tmp_path / "privacy.html").read_text()
    assert 'alt="a curve"' in page and b64encode(b"<svg>drawn</svg>").decode() in page
    assert "3 &lt;b&gt;" in page and "NOT FOUND" in page and "Control: noise / 4" in page


def test_the_exit_code_says_whether_a_target_was_missed():
    def ended(state):
        return [table.Outcome("s", (table.Entry("s", state, Row("", "", "", None)),), 1.0)]

    states = ("met", "told", "not measured", "not met", "failed")
    assert [table.exit_code(ended(s)) for s in states] == [0, 0, 0, 1, 1]


def test_a_table_that_was_stopped_does_not_look_whole():
    assert table.verdict([], ["noise", "audit"]).endswith("still to do: noise, audit")


def test_a_row_is_on_disk_as_soon_as_it_is_measured(sections, tmp_path):
    main("made_up:broken", tmp_path)
    assert json.loads((tmp_path / ROWS).read_text())["what"] == "first"


def test_a_control_that_is_not_found_is_never_called_a_success():
    row = Row("x", "is found", "", False, control=True)
    assert words(table.Entry("s", "not met", row)) == "NOT FOUND"
    assert words(table.Entry("s", "failed", row)) == "NO (broke)"


def test_sections_are_chosen_in_the_order_of_the_table():
    assert table.chosen("audit noise") == ["noise", "audit"]
    assert table.chosen("") == list(table.SECTIONS)
    with pytest.raises(ConfigError, match="'nois' is no section"):
        table.chosen("nois")


def test_the_whole_table_ends_within_25_minutes():
    assert sum(s.limit_s for s in table.SECTIONS.values()) <= 25 * 60


@pytest.mark.parametrize("section", table.SECTIONS.values(), ids=lambda s: s.address)
def test_every_section_has_its_function(section):
    module, _, name = section.address.partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_words_of_rows():
    assert within(0.5, 0, 1) and not within(float("nan"), 0, 1)
    assert repeated(0, 1, 2, 3) == "0-3" and repeated(1, 5) == "1, 5"
