"""What a hospital writes beside an array of ECGs, so that nothing about it has to be guessed.

A JSON file named like the array's file with `.schema.json` behind it (`ecgs.h5.schema.json`), or
one `schema.json` for all files of a folder:

    {
      "sampling_rate_hz": 500,
      "unit": "uV",
      "leads": ["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"],
      "layout": "samples, leads",
      "signal": "tracings",
      "patient_id": "patient", "age": "age", "sex": "sex", "recorded": "date"
    }

sampling_rate_hz  samples per second
unit              of the values: mV, uV or V
leads             names in the order of the array; of a CSV with a header, the columns to read
layout            "leads, samples" or "samples, leads": order of the axes of one recording in HDF5,
                  or in one list column of Parquet; tables with a column for each lead need none
signal            HDF5: the data set, [recordings, ...] or one recording; Parquet: the list column
                  that holds all leads, where there is not one column for each
scale             optional: what a stored number is multiplied with to get the unit (default 1)
padding           optional: samples where all leads have this value are no recording (CODE-15%
                  pads with 0)
patient_id, age, sex, recorded
                  optional: column (Parquet) or data set (HDF5) with one value for each recording;
                  sex is 1 or male, 0 or female; recorded is a date and time, year first
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from math import isfinite, nan
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cardionets_core.data.ecg import RATES_HZ, EcgRecord, ecg_record
from cardionets_core.data.leads import lead_index, millivolts_per_unit
from cardionets_core.data.paths import sibling
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.sources.guard import refusing
from cardionets_core.sources.plausible import age_of, moment_of, sex_of
from cardionets_core.sources.recording import Facts, Person

LARGEST_SCHEMA = 65_536
MOST_LEADS = 128
LARGEST_RECORDING = 50_000_000
"""Values of one recording."""

FACTS = ("patient_id", "age", "sex", "recorded")
LAYOUTS = ("leads, samples", "samples, leads")
_NEEDED = ("sampling_rate_hz", "unit", "leads")
_KNOWN = (*_NEEDED, "layout", "signal", "scale", "padding", *FACTS)
_DAY_AND_TIME = re.compile(r"(\d{4}-?\d{2}-?\d{2})[T ]?(.*)", re.ASCII)
_SEXES = {"1": 1.0, "0": 0.0, "true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class ArraySchema:
    """A schema that was read; see the module.

    Attributes:
        facts: which of `FACTS` -> its column or data set.
        padding: NaN where there is none.
    """

    rate_hz: float
    unit: str
    leads: tuple[str, ...]
    layout: str = ""
    signal: str = ""
    scale: float = 1.0
    padding: float = nan
    facts: Mapping[str, str] = field(default_factory=dict)

    def leads_first(self, values: NDArray[np.generic]) -> NDArray[np.float64]:
        """Return one recording of two axes as float64 [leads, n].

        Raises:
            RecordRefused: `schema_layout`, or `schema_leads` for another number of leads.
        """
        if self.layout not in LAYOUTS:
            raise RecordRefused("schema_layout")
        turned = values if self.layout == LAYOUTS[0] else values.T
        if turned.ndim != 2 or len(turned) != len(self.leads):
            found = " x ".join(str(n) for n in values.shape)
            raise RecordRefused(
                "schema_leads", f"{len(self.leads)} leads named, values are {found}"
            )
        return turned.astype(np.float64)

    def record_of(self, values: NDArray[np.float64]) -> EcgRecord:
        """Return the record of float64 [leads, n] as stored.

        Raises:
            RecordRefused: as of `data.leads.standard_leads`.
        """
        if not values.size:
            raise RecordRefused("no_usable_lead")
        stored = np.where(np.abs(values) < np.finfo(np.float32).max, values, np.nan)
        stored[:, (stored == self.padding).all(axis=0)] = np.nan
        return ecg_record(
            self.leads, [self.unit] * len(stored), list(stored * self.scale), self.rate_hz
        )

    def facts_of(self, values: Mapping[str, object]) -> Facts:
        """Return what the values of one recording say; keys are of `FACTS`."""
        sex = _text(values.get("sex")).lower()
        person = Person(
            patient_id=_text(values.get("patient_id")),
            age=age_of(_number(values.get("age"))),
            sex=_SEXES.get(sex, sex_of(sex)),
        )
        recorded = _DAY_AND_TIME.match(_text(values.get("recorded")))
        day, time = recorded.groups() if recorded else ("", "")
        return Facts(person=person, recorded=moment_of(day, time))


def read_schema(path: Path, *, root: Path) -> ArraySchema:
    """Read the schema of an array's file.

    Args:
        path: the array's file.
        root: folder that neither may lie outside of.

    Raises:
        RecordRefused: `no_schema`, `schema`, `schema_` and the key that is wrong, `path_escape`.
    """
    file = _find(path, root)
    with refusing("schema"):
        if file.stat().st_size > LARGEST_SCHEMA:
            raise RecordRefused("schema", "too long")
        stated = json.loads(file.read_bytes())
    if not isinstance(stated, dict) or not set(stated) <= set(_KNOWN):
        raise RecordRefused("schema", f"keys are {', '.join(_KNOWN)}")
    return ArraySchema(
        rate_hz=_rate(stated.get("sampling_rate_hz")),
        unit=_unit(stated.get("unit")),
        leads=_leads(stated.get("leads")),
        layout=_word(stated, "layout", LAYOUTS),
        signal=_word(stated, "signal"),
        scale=_factor(stated.get("scale", 1.0), "scale"),
        padding=_factor(stated["padding"], "padding") if "padding" in stated else nan,
        facts={name: _word(stated, name) for name in FACTS if name in stated},
    )


def _find(path: Path, root: Path) -> Path:
    for name in (f"{path.name}.schema.json", "schema.json"):
        try:
            return sibling(path, name, root)
        except RecordRefused as refused:
            if refused.code != "missing_file":
                raise
    raise RecordRefused("no_schema")


def _rate(value: object) -> float:
    rate = _factor(value, "sampling_rate_hz")
    if not RATES_HZ[0] <= rate <= RATES_HZ[1]:
        raise RecordRefused("sampling_rate", f"{rate:g} Hz")
    return rate


def _unit(value: object) -> str:
    if not isinstance(value, str) or millivolts_per_unit(value) is None:
        raise RecordRefused("schema_unit")
    return value


def _leads(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_LEADS:
        raise RecordRefused("schema_leads")
    names = tuple(name for name in value if isinstance(name, str) and name)
    if len(set(names)) != len(value):
        raise RecordRefused("schema_leads")
    if not any(lead_index(name) is not None for name in names):
        raise RecordRefused("no_standard_lead")
    return names


def _word(stated: Mapping[str, object], key: str, choices: tuple[str, ...] = ()) -> str:
    value = stated.get(key, "")
    wrong = not isinstance(value, str) or (key in stated and not value)
    if wrong or (choices and value and value not in choices):
        raise RecordRefused(_code(key))
    return str(value)


def _factor(value: object, key: str) -> float:
    """Return a number of the schema that is no more extreme than a gain can be."""
    number = float(value) if isinstance(value, int | float) and abs(value) < 1e12 else nan
    if isinstance(value, bool) or not isfinite(number):
        raise RecordRefused(_code(key))
    return number


def _code(key: str) -> str:
    """Return the reason code for a wrong value of this key."""
    if key in FACTS:
        return "schema_facts"
    return "schema_scale" if key in ("scale", "padding") else f"schema_{key}"


def _text(value: object) -> str:
    """Return an id or a date as text: 123.0 as a table's float column has it is 123."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return "" if not isfinite(value) else f"{value:.0f}" if value.is_integer() else str(value)
    if isinstance(value, date):
        return value.isoformat()
    return str(value).strip(" \0") if isinstance(value, str | int) else ""


def _number(value: object) -> float:
    try:
        return float(_text(value))
    except ValueError:
        return nan
