"""What `cardionets-site start` starts, and what it says about the coordinator before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cardionets_core.warm import socket_below
from client import warm
from client.checks.machine import Machine
from client.checks.reach import check_connection
from client.launch import HOSPITAL_POLL_S, supernode

if TYPE_CHECKING:
    from pathlib import Path

    from cardionets_core.flower_command import Command
    from client.checks.connection import Connection


def commands(
    config: Path, connection: Connection, *, home: Path, port: int, supervise: bool
) -> tuple[Command, Command]:
    """Return how the warm starter and the SuperNode are started; make the node's home.

    Args:
        config: the site's YAML.
        connection: where the coordinator is, and how the site shows who it is.
        home: folder of the node's own files.
        port: loopback port of the node's own API.
        supervise: whether the warm starter will be there for the node's apps.
    """
    home.mkdir(parents=True, exist_ok=True)
    home = home.resolve()
    socket_path = socket_below(home)
    node = supernode(
        config.resolve(),
        superlink=connection.superlink,
        port=port,
        home=home,
        root_certificates=connection.root_certificates,
        node_key=connection.node_key,
        poll_s=HOSPITAL_POLL_S,
        env={warm.SOCKET_ENV: str(socket_path)} if supervise else None,
        programs=warm.install(home / "programs") if supervise else None,
    )
    return warm.starter(socket_path, home=home), node


def trouble(connection: Connection) -> list[str]:
    """Return what stands between this machine and the coordinator, in the words of `check`.

    It keeps nobody from starting: a coordinator that is down now may be up in a minute.
    """
    found = check_connection(connection, Machine())
    return [f"{f.sentence()} The node keeps trying" for f in found if f.level == "error"]
