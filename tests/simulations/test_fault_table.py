"""The fault table: which figures it measures, how each ends, and what is written of it."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from cardionets_core.errors import ConfigError, EngineError
from simulations.faults import cli, table
from simulations.faults.row import QUICK_ENV, NotMeasuredError, Row, is_quick

HERE = "simulations.faults.made_up"


def good(work):
    (work / "seen.txt").write_text(f"quick={is_quick()}")
    return Row(1, "done [so]", "<= 2", "1", "no such thing", True)


def bad(work):
    return Row(2, "done", "<= 2", "3 <b>", "60 of 120", False)


def broken(work):
    raise ZeroDivisionError("nothing to divide")


def refused(work):
    raise EngineError("the port is in use; choose another")


def impossible(work):
    raise NotMeasuredError("tc netem needs root")


FIGURES = {1: "good", 2: "bad", 4: "broken", 7: "refused", 13: "impossible"}


@pytest.fixture
def figures(monkeypatch):
    """Let the table hold five figures of every kind of ending."""
    module = types.ModuleType(HERE)
    for name in FIGURES.values():
        setattr(module, name, globals()[name])
    monkeypatch.setitem(sys.modules, HERE, module)
    made_up = {number: f"{HERE}:{name}" for number, name in FIGURES.items()}
    monkeypatch.setattr(table, "FIGURES", made_up)
    return made_up


def run(*words):
    return CliRunner().invoke(cli.app, list(words))


def test_each_ending_has_its_state_and_reason(figures, tmp_path):
    outcomes = {o.figure: o for o in table.measure(figures, tmp_path, quick=True)}
    assert {n: o.state for n, o in outcomes.items()} == {
        1: "met",
        2: "missed",
        4: "failed",
        7: "failed",
        13: "not measured",
    }
    assert outcomes[7].reason == "the port is in use; choose another"
    assert outcomes[13].reason == "tc netem needs root"
    assert "ZeroDivisionError: nothing to divide" in outcomes[4].reason
    assert "in broken" in (tmp_path / table.WORK / "figure-4" / "traceback.txt").read_text()
    assert (tmp_path / table.WORK / "figure-1" / "seen.txt").read_text() == "quick=True"
    assert QUICK_ENV not in os.environ


@pytest.mark.parametrize(
    ("only", "code"), [("1", 0), ("13", 0), ("1,13", 0), ("2", 1), ("4", 1), ("1,2", 1), ("", 1)]
)
def test_the_exit_code_says_whether_a_figure_was_missed(figures, tmp_path, only, code):
    done = run("--only", only, "--output", str(tmp_path))
    assert done.exit_code == code, done.output


def test_everything_that_was_measured_is_on_screen_in_the_json_and_on_the_page(figures, tmp_path):
    done = run("--output", str(tmp_path))
    for word in ("command", "machine", "versions", "seeds", "met: no", "done [so]", "tc netem"):
        assert word in done.output
    assert "1 of 5 figures met; missed: 2; failed: 4, 7; not measured: 13" in done.output
    content = json.loads((tmp_path / "faults.json").read_text())
    assert content["versions"]["flwr"] and content["machine"] and not content["quick"]
    rows = {f["figure"]: f for f in content["figures"]}
    assert rows[2]["row"]["ours"] == "3 <b>" and rows[2]["state"] == "missed"
    assert rows[13]["row"] is None and rows[13]["reason"] == "tc netem needs root"
    page = (tmp_path / "faults.html").read_text()
    assert "3 &lt;b&gt;" in page and "tc netem needs root" in page and "60 of 120" in page


def test_a_table_that_was_stopped_does_not_look_whole(figures, tmp_path):
    outcomes = table.measure([1], tmp_path)
    assert table.verdict(outcomes, [1, 2, 4]) == "1 of 3 figures met; still to do: 2, 4"


def test_a_figure_works_in_a_folder_without_old_files(figures, tmp_path):
    own = tmp_path / table.WORK
    for name in ("figure-1", "shared"):
        (own / name).mkdir(parents=True)
        (own / name / "old.txt").touch()
    table.measure([1], tmp_path)
    assert sorted(p.name for p in own.rglob("*")) == ["figure-1", "seen.txt"]


@pytest.mark.parametrize("only", ["77", "1,x", "-1", "1;2"])
def test_a_figure_that_does_not_exist_is_named(only, tmp_path):
    done = run("--only", only, "--output", str(tmp_path / "out"))
    assert done.exit_code == 2 and "is no figure of the table; known: 1, 2, 3" in done.output
    assert not (tmp_path / "out").exists()


def test_figures_are_chosen_once_and_in_the_order_of_the_table():
    assert table.chosen("12, 1,8 1") == [1, 8, 12]
    assert table.chosen("") == list(table.FIGURES)
    with pytest.raises(ConfigError):
        table.chosen("15")


def test_the_goals_figures_are_all_there_with_a_title():
    assert list(table.FIGURES) == [*range(1, 15), 24] == list(table.TITLES)


@pytest.mark.parametrize("number", table.FIGURES)
def test_every_figure_has_its_function(number):
    module, _, name = table.FIGURES[number].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


PATIENCE_S = 300.0
MEASURES = """
import subprocess, sys

from simulations.faults import cli, table


def figure(work):
    child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL)
    try:
        print(child.pid, file=sys.__stdout__, flush=True)
        child.wait()
    finally:
        child.kill()
        child.wait()


sys.modules["made_up"] = sys.modules[__name__]
table.FIGURES[24] = "made_up:figure"
cli.app(["--only", "24", "--output", sys.argv[1]])
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_what_a_figure_has_started_ends_with_the_table(tmp_path, number, code):
    table_of_one = subprocess.Popen(
        [sys.executable, "-c", MEASURES, str(tmp_path)],
        cwd=Path(__file__).resolve().parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        line = table_of_one.stdout.readline()
        while not line.strip().isdecimal():
            assert line, "the figure did not begin"
            line = table_of_one.stdout.readline()
        table_of_one.send_signal(number)
        table_of_one.communicate(timeout=PATIENCE_S)
    finally:
        table_of_one.kill()
        table_of_one.communicate()
    assert table_of_one.returncode == code
    assert not psutil.pid_exists(int(line))
