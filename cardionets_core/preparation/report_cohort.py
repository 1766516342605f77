"""Persons, phenotypes and diseases of a prepared site, from its manifest, a column at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cardionets_core.data.manifest import CINE_COLUMNS, SPLITS
from cardionets_core.preparation.manifest_write import PARQUET
from cardionets_core.preparation.report_facts import Histogram, Json, Scale, steps
from cardionets_core.vocabulary import DISEASES, PHENOTYPE_BY_NAME, PHENOTYPE_NAMES

STAGE_NEEDS: dict[str, tuple[str, ...]] = {
    "ecg_masked": ("ecg",),
    "cmr_masked": ("cine",),
    "tokenizer": ("cine",),
    "contrastive": ("ecg", "cine"),
    "distill": ("ecg", "cine"),
    "generative": ("ecg", "cine"),
    "phenotypes": ("ecg", "phenotypes"),
    "diseases": ("ecg", "diseases"),
}
"""What a study must have for a stage: training/objectives.py has the same, and a test compares."""

_BELIEVED: dict[str, tuple[float, float]] = {
    "lv_edv": (40, 450), "lv_esv": (10, 400), "lv_sv": (15, 220), "lv_ef": (8, 85),
    "lv_co": (1.5, 16), "lv_mass": (30, 350),
    "rv_edv": (40, 450), "rv_esv": (10, 400), "rv_sv": (15, 220), "rv_ef": (8, 85),
    "la_max": (10, 300), "la_min": (3, 250), "la_sv": (3, 150), "la_ef": (3, 85),
    "ra_max": (10, 300), "ra_min": (3, 250), "ra_sv": (3, 150), "ra_ef": (3, 85),
    "aao_max_area": (200, 2500), "aao_min_area": (150, 2300), "aao_distensibility": (0, 15),
    "dao_max_area": (100, 1500), "dao_min_area": (80, 1400), "dao_distensibility": (0, 15),
    "wt": (2, 25), "ecc": (-45, 5), "err": (-15, 130), "ell": (-45, 10),
}  # fmt: skip
"""Values of adults, ill ones included, about twice as wide as the ranges of Petersen et al. (J
Cardiovasc Magn Reson 2017;19:18): outside of them a unit or a column is likelier wrong."""

_AGES = Scale("Age", "years", steps(0, 90, 10))
Flags = NDArray[np.bool_]


def believed(name: str) -> tuple[float, float]:
    """Return the range in which the values of a phenotype are believed."""
    return _BELIEVED.get(name) or _BELIEVED[name.split("_")[0]]


def cohort_facts(out: Path, split: Callable[[str], str] | None = None) -> Json:
    """Return counts of persons and studies, age and sex, diseases and phenotypes.

    Age and sex are a person's first known; a person has a disease that any study states.

    Args:
        out: the prepared folder. Without a manifest in it nobody is counted.
        split: gives the split of a patient key; None where persons are not counted per split.
    """
    table = _Columns(out / PARQUET)
    keys, person = table.persons()
    has = {
        "ecg": table.has_text(("ecg",)),
        "cine": table.has_text(CINE_COLUMNS),
        "phenotypes": table.has_number(PHENOTYPE_NAMES),
        "diseases": table.has_number(tuple(DISEASES)),
    }
    of_split = np.array([split(key) for key in keys] if split else [], dtype=object)
    return {
        "persons": len(keys),
        "studies": len(person),
        "pairs": int((has["ecg"] & has["cine"]).sum()),
        "persons_by_split": {s: int((of_split == s).sum()) for s in SPLITS} if split else {},
        "modalities": {name: len(np.unique(person[flags])) for name, flags in has.items()},
        "stages": {
            stage: _stage(needs, has, person, of_split) for stage, needs in STAGE_NEEDS.items()
        },
        "people": _people(table, person, len(keys)),
        "diseases": _diseases(table, person, len(keys)),
        "phenotypes": _phenotypes(table),
    }


class _Columns:
    """A manifest that gives one column at a time; empty where the file is not there."""

    def __init__(self, path: Path) -> None:
        from pyarrow import parquet

        self._file: Any = parquet.ParquetFile(path) if path.is_file() else None
        self.names = frozenset(self._file.schema_arrow.names) if self._file else frozenset()
        self.rows = self._file.metadata.num_rows if self._file else 0

    def persons(self) -> tuple[list[str], NDArray[np.int64]]:
        """Return the patient keys, and for each row the index of its patient."""
        keys, person = np.unique(np.array(self._read("patient_id"), dtype=str), return_inverse=True)
        return [str(key) for key in keys], person.astype(np.int64)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return float64 [rows]; NaN where nothing is known."""
        if name not in self.names:
            return np.full(self.rows, np.nan)
        return np.array([np.nan if v is None else v for v in self._read(name)], dtype=np.float64)

    def has_text(self, names: tuple[str, ...]) -> Flags:
        """Return in which rows any of these columns is not empty."""
        found = np.zeros(self.rows, bool)
        for name in self.names.intersection(names):
            found |= np.array([bool(cell) for cell in self._read(name)], dtype=bool)
        return found

    def has_number(self, names: tuple[str, ...]) -> Flags:
        """Return in which rows any of these columns is known."""
        found = np.zeros(self.rows, bool)
        for name in self.names.intersection(names):
            found |= ~np.isnan(self.numbers(name))
        return found

    def _read(self, name: str) -> list[Any]:
        if self._file is None:
            return []
        column: list[Any] = self._file.read(columns=[name]).column(0).to_pylist()
        return column


def _stage(
    needs: tuple[str, ...],
    has: Mapping[str, Flags],
    person: NDArray[np.int64],
    of_split: NDArray[Any],
) -> Json:
    able = np.unique(person[np.logical_and.reduce([has[need] for need in needs])])
    splits = {s: int((of_split[able] == s).sum()) for s in SPLITS} if len(of_split) else {}
    return {"needs": list(needs), "persons": len(able), "persons_by_split": splits}


def _first_known(
    values: NDArray[np.float64], person: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    known = np.flatnonzero(~np.isnan(values))[::-1]  # the first is written last, and stays
    first = np.full(count, np.nan)
    first[person[known]] = values[known]
    return first


def _people(table: _Columns, person: NDArray[np.int64], count: int) -> Json:
    age, sex = (_first_known(table.numbers(name), person, count) for name in ("age", "sex"))
    groups = {"female": sex == 0, "male": sex == 1, "unknown": np.isnan(sex)}
    facts: Json = {"sex": {name: int(flags.sum()) for name, flags in groups.items()}}
    ages = {name: Histogram(_AGES) for name in groups}
    for name, flags in groups.items():
        for value in age[flags]:
            ages[name].add(float(value))
    facts["age"] = {name: histogram.as_json() for name, histogram in ages.items()}
    facts["age_unknown"] = int(np.isnan(age).sum())
    for name in ("height_cm", "weight_kg"):
        known = ~np.isnan(_first_known(table.numbers(name), person, count))
        facts[f"{name}_known"] = int(known.sum())
    return facts


def _diseases(table: _Columns, person: NDArray[np.int64], count: int) -> Json:
    """Return disease -> persons of whom it is known, and who have it."""
    found: Json = {}
    for name in DISEASES:
        values = table.numbers(name)
        known, present = (
            int(np.count_nonzero(np.bincount(person[flags], minlength=count)))
            for flags in (~np.isnan(values), values == 1)
        )
        if known:
            found[name] = {"known": known, "present": present}
    return found


def _phenotypes(table: _Columns) -> Json:
    found: Json = {}
    for name in PHENOTYPE_NAMES:
        values = table.numbers(name)
        values = values[~np.isnan(values)]
        if not len(values):
            continue
        low, high = believed(name)
        phenotype = PHENOTYPE_BY_NAME[name]
        edges = steps(low, high, (high - low) / 16)
        histogram = Histogram(Scale(phenotype.title, phenotype.unit, edges, (low, high)))
        for value in values:
            histogram.add(float(value))
        found[name] = histogram.as_json()
    return found
