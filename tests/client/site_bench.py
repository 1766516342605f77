"""A site for faults to be put into, one at a time, and its check."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import yaml

from cardionets_core.site_config import write_yaml
from client.checks.connection import Connection
from client.checks.findings import CheckResult
from client.checks.machine import Machine
from client.checks.run import CheckRequest, run_checks

version_of = lru_cache(Machine().version_of)
"""What is installed does not change from check to check, and asking takes a tenth of a second."""


@dataclass
class Bench:
    """A good site in a folder of its own, for one fault to be put into."""

    file: Path
    plan: tuple[str, ...]
    machine: Machine = field(default_factory=lambda: Machine(version_of=version_of))
    overrides: tuple[str, ...] = ()
    connection: Connection = field(default_factory=Connection)
    trial_seconds: float = 0.0

    @property
    def data(self) -> Path:
        return self.file.parent / "west" / "data"

    def check(self) -> CheckResult:
        request = CheckRequest(
            self.file, self.overrides, self.plan, self.connection, self.trial_seconds
        )
        return run_checks(request, machine=self.machine)

    def edit(self, section: str = "", /, **values) -> None:
        """Set keys of the YAML; None takes one away."""
        plain = yaml.safe_load(self.file.read_text())
        keys = plain.setdefault(section, {}) if section else plain
        keys.update(values)
        for name in [n for n, v in values.items() if v is None]:
            del keys[name]
        write_yaml(self.file, plain)

    def edit_table(self, change: Callable[[list[dict[str, str]]], None]) -> None:
        path = self.data / "manifest.csv"
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        change(rows)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def set_cells(self, **values: str) -> None:
        self.edit_table(lambda rows: [row.update(values) for row in rows])

    def edit_headers(self, change: Callable[[str], str], share: float = 1.0) -> None:
        headers = sorted(self.data.glob("ecg/*.hea"))
        for path in headers[: round(share * len(headers))]:
            path.write_text(change(path.read_text()))

    def keep_patients(self, count: int) -> None:
        self.edit_table(lambda rows: rows.__delitem__(slice(count, None)))


def codes(result: CheckResult) -> set[str]:
    return {f.code for f in result.findings if f.level != "ok"}
