"""The warm starter of a site's ClientApps (cardionets_core/warm.py)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cardionets_core import warm
from cardionets_core.flower_command import Command
from cardionets_core.warm import LATE_MODULES

PROGRAM = warm.CLIENT_PROGRAM
SOCKET_ENV = warm.SOCKET_ENV

APP_MODULES = (
    "client.client_app",
    "client.local_training",
    "client.site",
    *LATE_MODULES,
)
"""What the ClientApp needs before it can work on a task."""


def starter(socket_path: Path, *, home: Path, modules: Sequence[str] = APP_MODULES) -> Command:
    """Return the command of the starter, which serves one user's sites on one machine."""
    return warm.starter(PROGRAM, socket_path, home=home, modules=modules)


def install(folder: Path) -> Path:
    """Write the stand-in for `flwr-clientapp` into a folder; return that folder."""
    return warm.install(PROGRAM, folder)
