"""What the tests of a server have in common."""

from __future__ import annotations

import pytest

from cardionets_core.flower_compat import task_identity
from server import mail, rounds
from tests.narrow_hospital import narrowed


@pytest.fixture
def a_server(monkeypatch):
    """Be a server, with a task of Flower to send messages in, that looks for replies at once."""
    monkeypatch.setattr(mail, "POLL_S", 0.002)
    monkeypatch.setattr(rounds, "AGAIN_S", 0.002)
    with task_identity(run_id=1, node_id=1):
        yield


@pytest.fixture(scope="session")
def ecg_hospitals(tmp_path_factory, write_hospital):
    """Site name -> YAML of three hospitals with ECGs of 16 patients, for runs of one stage."""
    folder = tmp_path_factory.mktemp("ecg_hospitals")
    return {
        name: narrowed(write_hospital(folder, name, preset, patients=16, ecg_only=True))
        for name, preset in (("hill", "C"), ("north", "A"), ("river", "B"))
    }
