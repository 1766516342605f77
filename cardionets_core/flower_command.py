"""Command lines for Flower's processes, and the environment that keeps them quiet and local.

Flower is started as plain commands (`flower-superlink`, `flower-supernode`, `flwr run`), so that an
operator can read, print and repeat every one of them. This module knows no Flower code.
"""

from __future__ import annotations

import shlex
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

LOOPBACK = "127.0.0.1"

SILENCE: Mapping[str, str] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "PYTHONUNBUFFERED": "1",
}
"""No telemetry, no update check, no `uv sync` of a bundle's dependencies, no lost log lines."""

DEFAULT_TASK_POLL_S = 0.25
"""How often a SuperExec asks for work. Each question costs 5 ms of CPU on both sides, Flower's
default of 1 s costs up to 2 s in every round."""


@dataclass(frozen=True)
class Command:
    """One command line and the environment variables that it needs on top of the caller's.

    Args:
        argv: program (found on `PATH` of `env`) and its arguments.
        env: variables to set; everything else is inherited.
        first_on_path: folder whose programs go before all others of the same name.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    first_on_path: Path | None = None

    def shell(self) -> str:
        """Return the line as one would type it in a POSIX shell (for `--print-command`)."""
        settings = [f"{name}={shlex.quote(value)}" for name, value in sorted(self.env.items())]
        if self.first_on_path is not None:
            settings.append(f"PATH={shlex.quote(str(self.first_on_path))}:$PATH")
        return " ".join([*settings, shlex.join(self.argv)])

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """Return the full environment of the process: `inherited`, then `env`.

        The folder of this interpreter's scripts goes first on `PATH` (Flower starts its own
        children by name) and loopback never goes through a proxy.
        """
        merged = {**inherited, **self.env}
        scripts = sysconfig.get_path("scripts")
        merged["PATH"] = _prepend(scripts, merged.get("PATH", ""), ":")
        if self.first_on_path is not None:
            merged["PATH"] = _prepend(str(self.first_on_path), merged["PATH"], ":")
        for name in ("NO_PROXY", "no_proxy"):
            merged[name] = _prepend(f"{LOOPBACK},localhost", merged.get(name, ""), ",")
        return merged


@dataclass(frozen=True)
class ServerTls:
    """The SuperLink's certificate, its key and the authority that signed it (PEM files)."""

    certificate: Path
    key: Path
    authority: Path


def quiet_environment(home: Path, task_poll_s: float = DEFAULT_TASK_POLL_S) -> dict[str, str]:
    """Return the variables that every Flower process of ours gets.

    Args:
        home: FLWR_HOME, private to one process; Flower unpacks bundles there without a lock.
        task_poll_s: seconds between two questions for work by a SuperExec, 0.01 to 60.
    """
    return {
        **SILENCE,
        "FLWR_HOME": str(home),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": f"{task_poll_s:g}",
    }


def client_tls(root_certificates: Path | None) -> tuple[str, ...]:
    """Return how a Flower client connects: verified by an authority, or insecure (loopback)."""
    if root_certificates is None:
        return ("--insecure",)
    return ("--root-certificates", str(root_certificates))


def _prepend(first: str, rest: str, separator: str) -> str:
    return first if not rest else f"{first}{separator}{rest}"
