"""The exact command line of a site's Flower process (one SuperNode per hospital).

Pure functions: they start nothing. `Command.shell()` prints what they give.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from cardionets_core.flower_command import (
    LOOPBACK,
    Command,
    client_tls,
    quiet_environment,
)

HOSPITAL_POLL_S = 1.0
"""Seconds between two questions for messages by a site's SuperNode; Flower's own asks every 3 s.
A round waits twice for such a question. Each is a few milliseconds of work for the SuperLink."""


def supernode(
    site_config: Path,
    *,
    superlink: str,
    port: int,
    home: Path,
    root_certificates: Path | None = None,
    node_key: Path | None = None,
    env: Mapping[str, str] | None = None,
    programs: Path | None = None,
    poll_s: float | None = None,
) -> Command:
    """Return the command of a site's SuperNode.

    The path of the site's YAML travels in `SITE_CONFIG` only: a node config would be readable by
    any code that the coordinator ships, and nothing of the site's settings may leave the site.

    Args:
        site_config: the site's resolved YAML file.
        superlink: `host:port` of the coordinator.
        port: loopback port of the SuperNode's own API, one per SuperNode on a machine.
        home: its private FLWR_HOME.
        root_certificates: authority of the coordinator's certificate; None is plain HTTP,
            for loopback only.
        node_key: the site's private key (PEM); the coordinator registers its public half.
        env: further variables for the ClientApp (threads, device, ...).
        programs: folder with the site's own `flwr-clientapp`, which Flower then starts.
        poll_s: ask for messages at least this often and resume cut uploads
            (client/quick_supernode.py); None is plain `flower-supernode`, which does neither.
    """
    program = ["flower-supernode"]
    if poll_s is not None:
        program = [sys.executable, "-m", "client.quick_supernode", f"{poll_s:g}"]
    argv = [*program, "--superlink", superlink, "--host", LOOPBACK, "--port", str(port)]
    argv += client_tls(root_certificates)
    if node_key is not None:
        argv += ["--auth-supernode-private-key", str(node_key)]
    settings = {**quiet_environment(home), "SITE_CONFIG": str(site_config), **(env or {})}
    return Command(tuple(argv), settings, first_on_path=programs)
