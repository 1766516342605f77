"""Who holds a TCP port of this machine's loopback, asked before anything is started on it."""

from __future__ import annotations

import socket

import psutil

from cardionets_core.flower_command import LOOPBACK

_NOBODY_KNOWN = "another process"


def held_by(port: int) -> str:
    """Return who keeps a loopback port from being listened on; "" where it is free."""
    with socket.socket() as probe:
        # As servers do: a connection that has just ended is no reason to wait.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except PermissionError:
            return "the system, which gives it to administrators only"
        except (OSError, OverflowError):
            return _listener(port)
    return ""


def _listener(port: int) -> str:
    """Return name and id of the process that listens on a port, as far as we may know it."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:2] == (port,):
                if connection.pid is not None:
                    return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        return _NOBODY_KNOWN
    return _NOBODY_KNOWN
