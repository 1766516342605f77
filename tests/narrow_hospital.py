"""Hospitals whose table has few columns: the 96 of a virtual one are read anew for every task."""

from __future__ import annotations

import csv
from pathlib import Path

import yaml

PHENOTYPES = ("lv_edv", "lv_ef")
DISEASES = ("atrial_fibrillation", "left_bundle_branch_block")
NARROW_RUN = (f"phenotypes=[{','.join(PHENOTYPES)}]", f"diseases=[{','.join(DISEASES)}]")
"""Overrides of a plan for what the tables hold."""

KEPT = ("patient_id", "ecg", "cine_4ch", "cine_sax", "age", "sex", *PHENOTYPES, *DISEASES)


def narrowed(site: Path) -> Path:
    """Take all columns but `KEPT` out of the table of a hospital's YAML; return the YAML."""
    table = Path(yaml.safe_load(site.read_text())["data"]["manifest"])
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in KEPT if any(row.get(name) for row in rows)]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return site
