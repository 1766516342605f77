"""Codes -> diseases: 1 present, 0 absent, not named unknown.

When a disease that nobody coded counts as absent is a decision for each kind of list:

- **Lists of ECG statements** (SCP, and SNOMED CT as PhysioNet/CinC writes it). Any statement
  settles the rhythm: no atrial fibrillation stated is none. A statement about the shape of the ECG
  (kind `diagnosis`) settles the others that an ECG shows: infarction, ST/T change, conduction,
  hypertrophy, normal. A list that has only rhythms and findings leaves those unknown. Diseases that
  an ECG cannot show (heart failure, cardiomyopathy, ...) stay unknown unless a code states them.
  For SCP these are the superclass rules of PTB-XL: a likelihood of 0 (`Code.present` False) states
  nothing.
- **CinC's normal ECG.** Its lists have no code for it: PTB-XL's `NORM` and `SR` both became sinus
  rhythm (426783006). A list of sinus rhythms only, that one among them, counts as normal. In
  `shared/data/ptbxl`, 205 of 205 such records are NORM.
- **A hospital's ICD list of one encounter**, if it names at least one code: what is treated and
  billed when it is known (`BILLED`) is absent where it is not coded. Its false 0s are at most the
  patients with the disease whom nobody coded: few per cent of a cohort for these. Conduction
  disturbance and hypertrophy as a whole are common and seldom coded, so ICD may state them, but
  never denies them; left ventricular hypertrophy, ST/T change and the normal ECG have no ICD code.
  An empty list is no list: the encounter may not be coded yet.

Where codes disagree: stated beats left unknown, and left unknown beats absent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from cardionets_core.labels.code import Code, System
from cardionets_core.labels.code_syntax import normal_form, shown
from cardionets_core.labels.code_tables import IMPLIES, Entry, check_tables, entries, version
from cardionets_core.vocabulary import DISEASES

__all__ = [
    "BILLED",
    "LABELS_VERSION",
    "RHYTHMS",
    "SHAPES",
    "check_tables",
    "diseases_of",
    "entry_of",
    "unmapped",
    "with_implied",
]

LABELS_VERSION = version()[0]
"""Rises with every change of a table; part of what makes a prepared site stale."""

RHYTHMS = frozenset({"atrial_fibrillation"})
"""Settled by any ECG statement."""

SHAPES = frozenset(
    {
        "myocardial_infarction",
        "left_ventricular_hypertrophy",
        "left_bundle_branch_block",
        "right_bundle_branch_block",
        "conduction_disturbance",
        "hypertrophy",
        "st_t_change",
        "normal_ecg",
    }
)
"""Settled by an ECG statement of kind `diagnosis`."""

BILLED = frozenset(
    {
        "coronary_artery_disease",
        "heart_failure",
        "cardiomyopathy",
        "dilated_cardiomyopathy",
        "hypertrophic_cardiomyopathy",
        "restrictive_cardiomyopathy",
        "pericarditis",
        "pulmonary_hypertension",
        "myocardial_infarction",
        "atrial_fibrillation",
        "left_bundle_branch_block",
        "right_bundle_branch_block",
    }
)
"""Settled by the ICD list of an encounter."""

_SINUS = "426783006"
_SINUS_RHYTHMS = frozenset({_SINUS, "426177001", "427084000", "427393009"})
"""SNOMED CT: sinus rhythm; and sinus bradycardia, tachycardia and arrhythmia."""

_HEART: dict[System, tuple[tuple[str, str], ...]] = {
    "icd10": (("I00", "I52"),),
    "icd9": (("390", "398"), ("401", "405"), ("410", "429")),
}
"""ICD categories of the heart and of hypertension. Codes outside them are known to be about
something else, and are not counted as unmapped."""


def diseases_of(codes: Iterable[Code]) -> dict[str, float]:
    """Return disease -> 1.0 or 0.0 for all that the codes of one recording say; see above.

    Args:
        codes: of one recording, of any systems. Codes that are not in the tables say nothing.

    Returns:
        Keys in the order of `vocabulary.DISEASES`; a disease that is absent from it is unknown.
    """
    by_system: dict[System, list[Code]] = {}
    for code in codes:
        by_system.setdefault(code.system, []).append(code)
    stated: set[str] = set()
    unsettled: set[str] = set()
    settled: set[str] = set()
    for system, of_system in by_system.items():
        known = [entry for c in of_system if c.present and (entry := entry_of(system, c.code))]
        stated.update(name for entry in known for name in entry.diseases)
        unsettled.update(name for entry in known for name in entry.unknown)
        if system in ("icd10", "icd9"):
            settled |= _settled_by_encounter(system, of_system)
        else:
            settled |= _settled_by_statements(system, of_system, known)
        if system == "snomed" and _is_sinus_only(of_system):
            stated.add("normal_ecg")
    absent = settled - stated - unsettled
    return {name: float(name in stated) for name in DISEASES if name in stated or name in absent}


def with_implied(values: Mapping[str, float]) -> dict[str, float]:
    """Return diseases with what follows from them; what `values` states is left as it is.

    A case brings the wider disease along, and the absence of the wider one that of its cases.
    """
    full = dict(values)
    for case, wider in IMPLIES.items():
        if values.get(case) == 1.0:
            full.setdefault(wider, 1.0)
        if values.get(wider) == 0.0:
            full.setdefault(case, 0.0)
    return full


@lru_cache(maxsize=65536)
def entry_of(system: System, code: str) -> Entry | None:
    """Return the entry of a code; for ICD that of its longest listed beginning."""
    table, wanted = entries(system), normal_form(system, code)
    if system in ("snomed", "scp"):
        return table.get(wanted)
    beginnings = (wanted[:length] for length in range(len(wanted), 2, -1))
    return next((table[b] for b in beginnings if b in table), None)


def unmapped(codes: Iterable[Code]) -> dict[str, int]:
    """Count the codes that the tables do not hold, by "system:code" as a report may show it.

    Text that is not a code counts under "system:malformed" and is never returned: it may be a name.
    Of ICD only the heart's categories are counted, and only the category is shown.
    """
    counts: Counter[str] = Counter()
    for code in codes:
        if entry_of(code.system, code.code) is not None:
            continue
        wanted = normal_form(code.system, code.code)
        if not wanted or code.system == "scp":
            counts[f"{code.system}:malformed"] += 1
        elif _is_of_the_heart(code.system, wanted):
            counts[f"{code.system}:{shown(code.system, wanted)}"] += 1
    return dict(counts)


def _settled_by_statements(
    system: System, codes: Sequence[Code], known: Sequence[Entry]
) -> frozenset[str]:
    """Return what a list of ECG statements settles; `codes` may hold some without likelihood."""
    listed = [entry for code in codes if (entry := entry_of(system, code.code))]
    settled: frozenset[str] = frozenset()
    if any(entry.kind != "disorder" for entry in listed):
        settled |= RHYTHMS
    is_normal = system == "snomed" and _is_sinus_only(codes)
    if is_normal or any(entry.kind == "diagnosis" for entry in known):
        settled |= SHAPES
    return settled


def _settled_by_encounter(system: System, codes: Sequence[Code]) -> frozenset[str]:
    is_list = any(code.present and normal_form(system, code.code) for code in codes)
    return BILLED if is_list else frozenset()


def _is_sinus_only(codes: Sequence[Code]) -> bool:
    named = {normal_form("snomed", code.code) for code in codes if code.present}
    return _SINUS in named and named <= _SINUS_RHYTHMS


def _is_of_the_heart(system: System, code: str) -> bool:
    if system not in _HEART:
        return True
    return any(low <= code[:3] <= high for low, high in _HEART[system])
