"""Versions that must agree between hospitals, and a clock that can be believed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib import metadata
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from client.checks.findings import Finding, error, ok

if TYPE_CHECKING:
    from pathlib import Path

    from client.checks.machine import Machine

RELEASED = datetime(2026, 11, 1, tzinfo=UTC)
"""This software was not there before: a clock that says so is wrong."""

LATEST = timedelta(days=20 * 365)
"""Nor will anybody run it so much later."""

SHOWN = ("cardionets", "flwr", "torch")


def check_versions(machine: Machine) -> list[Finding]:
    """Compare what is installed with what this release was written for."""
    try:
        requirements = [Requirement(r) for r in metadata.requires("cardionets") or ()]
    except metadata.PackageNotFoundError:
        return [
            error(
                "versions",
                "not_installed",
                "cardionets is not installed as a package.",
                cause="Flower starts the site's app by name from what is installed.",
                next_step="Install it: pip install -c constraints.txt .",
            )
        ]
    wanted = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    found = [f for f in (_compare(r, machine.version_of(r.name)) for r in wanted) if f]
    if not found:
        names = ", ".join(f"{name} {machine.version_of(name)}" for name in SHOWN)
        found.append(ok("versions", f"Python {machine.python}, {names}: as this release needs."))
    return found


def _compare(wanted: Requirement, version: str) -> Finding | None:
    if version and wanted.specifier.contains(version, prereleases=True):
        return None
    is_flower = wanted.name == "flwr"
    return error(
        "versions",
        f"version_{wanted.name.replace('-', '_').lower()}",
        f"{wanted.name} {version or 'is not installed'}; this release needs {wanted}.",
        cause="Flower's own flags and messages change with every minor release."
        if is_flower
        else "Another version may fail, or compute something else than the other hospitals.",
        next_step=f'pip install -c constraints.txt "{wanted}"',
    )


def check_clock(machine: Machine, config: Path) -> list[Finding]:
    """Compare this machine's clock with the release and with its own newest file.

    Args:
        machine: tells the time.
        config: the site's YAML, which cannot have been written in the future.
    """
    now = machine.now()
    earliest = RELEASED
    if config.is_file():
        written = datetime.fromtimestamp(config.stat().st_mtime, UTC)
        earliest = max(earliest, written - timedelta(days=1))
    if earliest <= now <= RELEASED + LATEST:
        return [ok("versions", f"The clock says {now:%Y-%m-%d %H:%M} UTC.")]
    return [
        error(
            "versions",
            "clock",
            f"The clock says {now:%Y-%m-%d %H:%M} UTC, which cannot be.",
            cause="Certificates are judged by this clock, and messages between the sites and the "
            "coordinator expire by it.",
            next_step="Set the time and keep it with NTP (timedatectl set-ntp true).",
        )
    ]
