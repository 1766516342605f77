"""A hospital with a registered key, over TLS, whose node is killed: refused, then in again.

Flower takes a killed node for alive for a minute and sends away whoever comes with its key.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cardionets_core.errors import EngineError
from cardionets_core.flower_command import Command, quiet_environment
from client.keep_node import STILL_ALIVE
from server.flower_cli import ask
from server.status_file import read_submission
from tests.client.test_check_connection import Authority
from tests.simulations.test_supervised import (
    PATIENCE_S,
    SITES,
    Coordinator,
    plan,
    program,
    rounds_of,
    wait_for,
    weights,
)

ROUNDS = 3

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]


def write_key(folder: Path) -> Path:
    """Write a node's key as `ssh-keygen -t ecdsa -b 384` does; return the private half's file."""
    key, path = ec.generate_private_key(ec.SECP384R1()), folder / "node_key"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    )
    path.chmod(0o600)
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    path.with_suffix(".pub").write_bytes(public)
    return path


def command_home(place: Coordinator) -> Path:
    return place.output / ".engine" / "cli"


def register(place: Coordinator, public: Path, name: str) -> None:
    """Type what docs/operations.md says, as soon as the SuperLink is there to take it."""
    words = ("flwr", "supernode", "register", str(public), "cardionets", "--name", name)
    command = Command((*words, "--format", "json"), quiet_environment(command_home(place)))

    def registered() -> bool:
        try:
            return bool(ask(command))
        except EngineError:
            return False

    wait_for(lambda: command_home(place).exists(), place)
    wait_for(registered, place)


@pytest.fixture
def secured(tmp_path, hospitals, nano):
    """A coordinator with TLS, one site with a registered key, one without, and a begun run."""
    place, authority = Coordinator(tmp_path), Authority.make("hospital authority")
    trusted, served = authority.write(tmp_path / "ca.pem"), authority.issue(tmp_path)
    keyed, other = SITES
    trust = ("--root-certificates", str(trusted))
    key = write_key(tmp_path)
    try:
        tls = ("--certificate", str(served), "--key", str(served), "--authority", str(trusted))
        place.start(*tls)
        register(place, key.with_suffix(".pub"), keyed)
        place.join(keyed, hospitals[keyed], *trust, "--node-key", str(key))
        place.join(other, hospitals[other], *trust)
        place.run("name=trial", "min_sites=2", *plan(nano, ROUNDS))
        wait_for(lambda: rounds_of(place), place)
        yield place
    finally:
        place.end()


def test_a_killed_node_with_a_key_is_refused_and_let_in_again_to_the_same_weights(
    secured, hospitals, federate, nano, tmp_path
):
    keyed = SITES[0]
    node = program(secured, "client.quick_supernode", "--auth-supernode-private-key")
    os.kill(node.pid, signal.SIGKILL)
    killed = time.monotonic()
    wait_for(lambda: STILL_ALIVE in secured.log(f"site-{keyed}"), secured)
    wait_for(lambda: secured.log(f"site-{keyed}").count("SuperNode ID:") == 2, secured)
    print(f"let in again after {time.monotonic() - killed:.0f} s")
    wait_for(lambda: secured.standing() == "COMPLETED", secured)
    assert secured.commands["run"].wait(timeout=PATIENCE_S) == 0, secured.log("run")
    assert rounds_of(secured) == list(range(1, ROUNDS + 1))
    assert read_submission(secured.output / "trial").restarts == 0
    sites = {name: hospitals[name] for name in SITES}
    alone = federate(tmp_path / "alone", sites, *plan(nano, ROUNDS))
    assert weights(secured.output / "trial") == weights(alone)
