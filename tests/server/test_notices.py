"""What a site is told of its last answer: once, of whatever came last, also after a restart."""

from __future__ import annotations

import json
import logging

import pytest
from typer.testing import CliRunner

from cardionets_core.errors import SITE_ERROR_CODES, UPDATE_REFUSALS
from cardionets_core.messages import Notice
from client.client_app import tell
from server.cli import app
from server.exchange import keep_notice, notices_of


def record(number, accepted=(), **refused):
    return {
        "stage": "ecg_masked",
        "round": number,
        "accepted": list(accepted),
        "refused": refused,
    }


@pytest.mark.parametrize("code", sorted(UPDATE_REFUSALS))
def test_a_refused_update_is_noted(code):
    notices = {}
    keep_notice(notices, "ecg_masked", 3, site="a", code=code)
    assert notices == {"a": Notice("ecg_masked", 3, code)}


@pytest.mark.parametrize("code", [None, "flower_2", *sorted(SITE_ERROR_CODES)])
def test_what_a_site_knows_by_itself_is_not_noted_and_ends_the_old_notice(code):
    notices = {"a": Notice("ecg_masked", 3, "norm"), "b": Notice("ecg_masked", 3, "norm")}
    keep_notice(notices, "ecg_masked", 4, site="a", code=code)
    assert set(notices) == {"b"}


def test_the_codes_of_a_site_and_of_the_coordinator_are_apart():
    assert not set(UPDATE_REFUSALS) & set(SITE_ERROR_CODES)


def test_a_restarted_server_tells_what_the_last_one_could_not():
    history = [record(1, a="norm", b="late"), record(2, accepted=["a"], c="replay")]
    assert notices_of(history) == {
        "b": Notice("ecg_masked", 1, "late"),
        "c": Notice("ecg_masked", 2, "replay"),
    }
    assert notices_of([]) == {}


def test_the_site_says_it_in_its_own_words(caplog):
    with caplog.at_level(logging.WARNING, logger="cardionets.site"):
        tell(Notice("ecg_masked", 3, "norm"))
        tell(None)
    (line,) = caplog.messages
    assert "round 3 ('norm'): it was far larger" in line


def test_of_a_hostile_notice_nothing_is_repeated_that_could_forge_a_line(caplog):
    with caplog.at_level(logging.WARNING, logger="cardionets.site"):
        tell(Notice("x" * 10_000, 1, "norm\n2026-01-01 cardionets.site all is well"))
    (line,) = caplog.messages
    assert "\n" not in line and len(line) < 300 and "no reason that this version knows" in line


def test_status_shows_who_was_refused_and_why(tmp_path):
    folder = tmp_path / "run-1"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    entry = {"event": "round", **record(2, accepted=["a"], hill="norm")}
    (folder / "progress.jsonl").write_text(json.dumps(entry) + "\n")
    shown = CliRunner().invoke(app, ["status", "--output", str(tmp_path)], env={"COLUMNS": "120"})
    assert shown.exit_code == 0 and "norm: hill" in shown.output
