"""A good site: what `cardionets-site check` has nothing to complain about."""

from __future__ import annotations

import csv

import pytest

GOOD_PATIENTS = 40
KEPT_COLUMNS = (
    "patient_id", "ecg", "age", "sex", "lv_edv", "lv_ef", "atrial_fibrillation",
    "left_bundle_branch_block",
)  # fmt: skip
"""A narrow table is read faster, and there are many checks."""


@pytest.fixture(scope="session")
def good_site(write_hospital, tmp_path_factory):
    """YAML of a hospital `west` with ECGs and a few labels; not to be changed, copy it."""
    path = write_hospital(
        tmp_path_factory.mktemp("good"), "west", "A", patients=GOOD_PATIENTS, ecg_only=True
    )
    path.chmod(0o600)
    table = path.parent / "west" / "data" / "manifest.csv"
    with table.open(newline="") as file:
        rows = [{k: row[k] for k in KEPT_COLUMNS} for row in csv.DictReader(file)]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, KEPT_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="session")
def nano_plan(nano):
    """Overrides of a run's plan for a model of a few thousand weights."""
    return ("model=tiny", *(word for word in nano if word.startswith("model.")))
