"""The utility table of docs/privacy.md is the one that was measured: every number of every row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = json.loads((ROOT / "benchmarks/privacy/utility.json").read_text())
UTILITY = (ROOT / "docs/privacy.md").read_text().split("\n## Utility")[1].split("\n## ")[0]


def numbers(text):
    return [float(cell) for cell in text.split("|")[4:-1]]


def shown():
    """Return (patients, stage, epochs, metric ...) of each line of the page."""
    table = [line for line in UTILITY.splitlines() if line.startswith("| ")][1:]
    return [(line.split("|")[1].split()[0], line.split("|")[2].split(",")[0].strip(),
             *numbers(line)) for line in table]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r['patients']}-{r['stage']}-{r['lever']}")
def test_a_measured_row_stands_on_the_page(row):
    values = (
        row["epochs"],
        row["start"],
        *(row["values"][e] for e in ("inf", "8.0", "3.0", "1.0")),
    )
    rounded = tuple(round(float(v), 3) for v in values)
    assert (row["patients"].split()[0], row["stage"], *rounded) in shown()


def test_the_page_has_no_row_that_was_not_measured():
    assert len(shown()) == len(ROWS) > 20
