"""The tables of codes: one CSV per system in `tables/`, versioned together.

Columns: `code`; `title` in our own words; `diseases` that it states; diseases that it leaves
`unknown`, so that nobody takes the code for their absence (a pacemaker hides a bundle branch
block); `kind`:

    diagnosis   a statement about the shape of the ECG (infarction, block, hypertrophy, normal)
    rhythm      a statement about its rhythm
    finding     something seen that settles no diagnosis
    technical   something about the recording
    disorder    a disease of the patient, whatever the ECG looks like
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cardionets_core.labels.code import System
from cardionets_core.labels.code_syntax import normal_form
from cardionets_core.vocabulary import DISEASES

TABLES = Path(__file__).parent / "tables"
FILES: dict[System, str] = {
    "snomed": "snomed_ct.csv",
    "scp": "scp.csv",
    "icd10": "icd10.csv",
    "icd9": "icd9.csv",
}
KINDS = ("diagnosis", "rhythm", "finding", "technical", "disorder")

IMPLIES: dict[str, str] = {
    "dilated_cardiomyopathy": "cardiomyopathy",
    "hypertrophic_cardiomyopathy": "cardiomyopathy",
    "restrictive_cardiomyopathy": "cardiomyopathy",
    "left_bundle_branch_block": "conduction_disturbance",
    "right_bundle_branch_block": "conduction_disturbance",
    "left_ventricular_hypertrophy": "hypertrophy",
}
"""Disease -> the wider one that it is a case of.

Infarction is not made a case of coronary artery disease here: an ECG that looks like an infarction,
or one of supply and demand, says nothing about the arteries. The ICD rows that do say it name both.
"""


@dataclass(frozen=True)
class Entry:
    """One row of a table: diseases that the code states, and those that it leaves unknown."""

    code: str
    title: str
    diseases: tuple[str, ...]
    unknown: tuple[str, ...]
    kind: str


@cache
def entries(system: System) -> dict[str, Entry]:
    """Return the table of a system: normal form of a code -> its entry."""
    return {normal_form(system, entry.code): entry for entry in _read(system)}


def digest() -> str:
    """Return the SHA-256 of all tables, as `VERSION` states it for its version."""
    everything = hashlib.sha256()
    for path in sorted(TABLES.glob("*.csv")):
        everything.update(path.name.encode() + b"\0" + path.read_bytes())
    return everything.hexdigest()


def version() -> tuple[str, str]:
    """Return the version that `VERSION` states, and the digest of the tables it stands for."""
    words = (TABLES / "VERSION").read_text(encoding="utf-8").split()
    return words[0], words[1]


def check_tables() -> list[str]:
    """Return what is wrong with the tables, one sentence each; nothing if they are sound.

    Every disease and kind exists, no code stands twice, no row states what it leaves unknown, every
    wider disease is named with its case, and the version was raised when a table changed.
    """
    wrong = [problem for system in FILES for problem in _check(system)]
    if version()[1] != digest():
        wrong.append(f"the tables changed: raise the version in VERSION, with digest {digest()}")
    return wrong


def _read(system: System) -> Iterator[Entry]:
    with (TABLES / FILES[system]).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield Entry(
                code=row["code"],
                title=row["title"],
                diseases=tuple(row["diseases"].split()),
                unknown=tuple(row["unknown"].split()),
                kind=row["kind"],
            )


def _check(system: System) -> Iterator[str]:
    seen: set[str] = set()
    for entry in _read(system):
        place = f"{system} {entry.code}"
        code = normal_form(system, entry.code)
        if not code:
            yield f"{place}: not a code of this system"
        if code in seen:
            yield f"{place}: stands twice"
        seen.add(code)
        if strange := {*entry.diseases, *entry.unknown} - set(DISEASES):
            yield f"{place}: no such disease: {', '.join(sorted(strange))}"
        if both := set(entry.diseases) & set(entry.unknown):
            yield f"{place}: states and leaves unknown: {', '.join(sorted(both))}"
        if entry.kind not in KINDS:
            yield f"{place}: no such kind: {entry.kind}"
        for disease in entry.diseases:
            if IMPLIES.get(disease, disease) not in entry.diseases:
                yield f"{place}: {disease} without {IMPLIES[disease]}"
        if "normal_ecg" in entry.diseases and len(entry.diseases) > 1:
            yield f"{place}: a normal ECG with a disease"
