"""What `cardionets-simulate` says when a signal ends it, and into a file."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import simulations.cli
from simulations.cli import app


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("has_checkpoint", [True, False])
def test_a_signal_leaves_a_word_and_how_to_go_on(tmp_path, monkeypatch, number, has_checkpoint):
    def ended(simulation, overrides, screen):
        screen.hospital("West", 40)
        screen.run = "trial"
        if has_checkpoint:
            (tmp_path / "trial" / "checkpoint").mkdir(parents=True)
        os.kill(os.getpid(), number)
        raise AssertionError("the signal did not end it")

    monkeypatch.setattr(simulations.cli, "simulate", ended)
    simulation = SimpleNamespace(resume="", output=str(tmp_path))
    monkeypatch.setattr(simulations.cli, "compose_simulation", lambda words: (simulation, words))
    before = signal.getsignal(number)
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 128 + number
    assert "stopped; no process was left behind" in result.stderr
    assert (f"resume={tmp_path / 'trial'}" in result.stderr) == has_checkpoint
    assert signal.getsignal(number) == before
