"""What a measured table says of itself: the command, the machine, the versions, on screen and page.

`make faults`, `make privacy` and the benchmarks print different rows under the same head.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cardionets_core.runtime import versions
from simulations.report_page import Row, Section, Table

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Conditions:
    """What has to stand above any measured number."""

    command: str
    machine: str
    versions: dict[str, str]
    started: str

    def lines(self) -> dict[str, str]:
        """Return what is shown of them, by its name."""
        return {
            "command": self.command,
            "machine": self.machine,
            "versions": ", ".join(f"{k} {v}" for k, v in self.versions.items()),
            "started": self.started,
        }

    def text(self) -> str:
        """Return the same as lines, for a script that prints."""
        return "\n".join(f"{name:<10} {value}" for name, value in self.lines().items())


def conditions(module: str = "") -> Conditions:
    """Return the command, the machine and the versions of this process.

    Args:
        module: what `python -m` was given; empty: a script was started by its path.
    """
    load = os.getloadavg()[0]
    started = ("-m", module) if module else sys.argv[:1]
    return Conditions(
        command=" ".join(("python", *started, *sys.argv[1:])),
        machine=f"{platform.platform()}, {os.cpu_count()} CPUs, load {load:.1f} at the start",
        versions=versions(),
        started=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )


def conditions_section(above: Conditions) -> Section:
    """Return the part of a page that says how it was measured."""
    rows = tuple(Row(key, (value,)) for key, value in above.lines().items())
    table = Table("How this was measured", ("", ""), rows, words=True)
    return Section("conditions", "Conditions", (table,))


def write_table(path: Path, above: Conditions, results: dict[str, Any]) -> None:
    """Write a table for programs, as JSON: what stands above it, then its results by name."""
    content = {**asdict(above), **results}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def plain(text: str) -> str:
    """Return a text that Rich prints as it is: brackets are no markup."""
    return text.replace("[", r"\[")
