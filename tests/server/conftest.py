"""What the tests of a server have in common."""

from __future__ import annotations

import pytest

from cardionets_core.flower_compat import task_identity
from server import mail, rounds


@pytest.fixture
def a_server(monkeypatch):
    """Be a server, with a task of Flower to send messages in, that looks for replies at once."""
    monkeypatch.setattr(mail, "POLL_S", 0.002)
    monkeypatch.setattr(rounds, "AGAIN_S", 0.002)
    with task_identity(run_id=1, node_id=1):
        yield
