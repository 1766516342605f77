"""What the `flwr` command prints becomes an answer, or an error that quotes the reason."""

from __future__ import annotations

import subprocess

import pytest

from cardionets_core.errors import EngineError
from cardionets_core.flower_command import Command
from server.flower_cli import answer_of

COMMAND = Command(("flwr", "run", "bundle"))


def done(stdout: str, stderr: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess(COMMAND.argv, 0, stdout, stderr)


def test_the_answer_is_the_object_behind_whatever_is_printed_before_it():
    answer = answer_of(COMMAND, done('Loading...\n{"success": true, "run-id": "7"}\n'))
    assert answer == {"success": True, "run-id": "7"}


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (done('{"success": false, "error-message": "no such run"}', "trace"), "no such run"),
        (done('{"success": false}', "Traceback: it is away"), "Traceback: it is away"),
        (done('{"success": tr', "torn"), "torn"),
        (done("only words"), "only words"),
        (done(""), "it did not answer"),
        (done("", f"{'x' * 5000} the cause"), f"{'x' * 1990} the cause"),
    ],
)
def test_whatever_is_no_success_is_an_error_with_its_reason(ended, words):
    with pytest.raises(EngineError) as refused:
        answer_of(COMMAND, ended)
    assert str(refused.value) == f"`flwr run` failed: {words}"
