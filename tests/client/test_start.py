"""`cardionets-site start`: nothing of another site is touched, and trouble is said at once."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

import client.keep_node
from cardionets_core.errors import EngineError
from client import alone
from client.cli import app
from simulations.process_group import reserved_ports

PORT_LINE = "give this one --home and --port of its own"


@contextmanager
def listening():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.fixture
def ports():
    """Three ports on which nobody listens, and that no other program is given."""
    with reserved_ports(3) as three:
        yield three


@pytest.fixture
def kept(monkeypatch):
    """What `start` would keep alive; nothing is started."""
    started = []
    monkeypatch.setattr(client.keep_node, "keep_node", lambda *words, say: started.append(words))
    return started


def start(site, home, port, superlink="127.0.0.1:1"):
    place = ["--home", str(home), "--port", str(port), "--superlink", superlink]
    return CliRunner().invoke(app, ["start", "--config", str(site), *place])


def test_a_port_in_use_is_said_before_anything_is_written(good_site, kept, tmp_path):
    with listening() as port:
        result = start(good_site, tmp_path / "home", port)
    assert result.exit_code == 2 and not kept
    assert f"port {port} is in use by" in result.stderr and f"pid {os.getpid()}" in result.stderr
    assert PORT_LINE in result.stderr and "Traceback" not in result.output
    assert not (tmp_path / "home").exists()


def test_a_second_start_of_a_site_leaves_the_socket_of_the_first_alone(
    good_site, kept, tmp_path, ports
):
    home = tmp_path / "home"
    with alone.held(home, ports[0]):
        (home / "warm.sock").touch()
        before = sorted(home.iterdir())
        result = start(good_site, home, ports[1])
        assert result.exit_code == 2 and not kept
        assert f"pid {os.getpid()}" in result.stderr and PORT_LINE in result.stderr
        assert sorted(home.iterdir()) == before
    assert start(good_site, home, ports[2]).exit_code == 0 and len(kept) == 1


HOLD = """
import os, sys
from pathlib import Path
from client import alone
with alone.held(Path(sys.argv[1]), int(sys.argv[2])):
    os.execvp("sh", ["sh", "-c", "echo ready; exec sleep 600"])
"""


def test_a_node_that_replaced_the_command_goes_on_holding_its_home(tmp_path, ports):
    words = [sys.executable, "-c", HOLD, str(tmp_path), str(ports[0])]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        message = rf"\(pid {process.pid}\)"
        with pytest.raises(EngineError, match=message), alone.held(tmp_path, ports[1]):
            pass
    finally:
        process.kill()
        process.communicate()
    with alone.held(tmp_path, ports[2]):
        pass


def test_a_coordinator_that_is_not_there_is_said_and_waited_for(good_site, kept, tmp_path, ports):
    port, own, _ = ports
    result = start(good_site, tmp_path / "home", own, f"127.0.0.1:{port}")
    assert result.exit_code == 0 and len(kept) == 1
    assert f"127.0.0.1 refuses port {port}. Nothing listens there" in result.stderr
    assert "keeps trying" in result.stderr
