"""GE CardioSoft XML (root element CardiologyXML), the resting ECGs of UK Biobank (field 20205).

Layout: StripData holds SampleRate (Hz), Resolution (`uVperLsb`, usually 5), the number of samples
and one WaveformData for each lead, whole numbers between commas, tabs and line ends. MedianSamples
is a computed beat and is not read; an exercise test (field 6025) has strips of another shape and is
refused. Source: the layout as users of field 20205 describe it; no real file could be tested here.

The patient of a file of UK Biobank is the participant that its name begins with, which is what its
images and tables have, too. Statements, names and comments are dropped.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from math import nan
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from cardionets_core.data.ecg import EcgRecord, ecg_record
from cardionets_core.data.leads import lead_index
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.sources import safe_xml
from cardionets_core.sources.plausible import (
    age_of,
    date_of,
    height_of,
    moment_of,
    sex_of,
    weight_of,
)
from cardionets_core.sources.recording import Facts, Person, SourceEcg
from cardionets_core.sources.safe_xml import need, number, number_or_nan, numbers, text

KIND = "cardiosoft"
ROOT = "CardiologyXML"

_PER_BIT = re.compile(r"([munµ\u03bc]?V)\s*per\s*lsb", re.IGNORECASE)
_YEARS = {"years": 1.0, "year": 1.0, "": 1.0, "months": 1 / 12, "days": 1 / 365.25}
_CENTIMETRES = {"cm": 1.0, "m": 100.0, "in": 2.54, "inch": 2.54, "": nan}
_KILOGRAMS = {"kg": 1.0, "lb": 0.45359237, "lbs": 0.45359237, "": nan}
_PARTICIPANT = re.compile(r"(\d{7})_20205_\d+_\d+", re.ASCII)


def recognises(name: str, head: bytes) -> bool:
    """Return whether a file is of CardioSoft, by its root element."""
    return safe_xml.root_tag(head) == ROOT


def read(path: Path, part: str, *, root: Path) -> SourceEcg:
    """Read the strip of one resting ECG.

    Raises:
        RecordRefused: with one of the codes of refusal.REASONS.
    """
    tree = safe_xml.parse_as(ROOT, path, part, root=root, what="document of CardioSoft")
    return SourceEcg(record=_record(need(tree, "StripData")), facts=_facts(tree, path))


def _record(strip: Element) -> EcgRecord:
    waves = [w for w in strip.iterfind("WaveformData") if lead_index(w.get("lead", "")) is not None]
    if not waves:
        raise RecordRefused("no_standard_lead")
    resolution = need(strip, "Resolution")
    step = number(text(resolution), "Resolution")
    per_bit = _PER_BIT.fullmatch(resolution.get("units", "").strip())
    count = number(text(strip, "ChannelSampleCountTotal"), "ChannelSampleCountTotal")
    return ecg_record(
        [wave.get("lead", "") for wave in waves],
        [per_bit[1] if per_bit else ""] * len(waves),
        [_samples(wave, count) * step for wave in waves],
        _rate(need(strip, "SampleRate")),
    )


def _rate(element: Element) -> float:
    if element.get("units", "Hz").strip().lower() != "hz":
        raise RecordRefused("sampling_rate", "its unit is not Hz")
    return number(text(element), "SampleRate")


def _samples(wave: Element, count: float) -> NDArray[np.float64]:
    """Return the stored numbers of one lead, float64 [n]."""
    stored = numbers(text(wave))
    if len(stored) != count:
        code = "truncated" if len(stored) < count else "header"
        raise RecordRefused(code, "number of samples")
    return stored


def _facts(tree: Element, path: Path) -> Facts:
    info = tree.find("PatientInfo")
    person = Person() if info is None else _person(info)
    participant = _PARTICIPANT.fullmatch(path.stem)
    known = Person(patient_id=participant[1] if participant else "")
    time = tree.find("ObservationDateTime")
    recorded = None if time is None else _moment(time)
    return Facts(person=known.or_else(person), recorded=recorded)


def _person(info: Element) -> Person:
    def amount(name: str, units: dict[str, float]) -> float:
        element = info.find(name)
        if element is None:
            return nan
        unit = element.get("units", "").strip().lower()
        return number_or_nan(text(element)) * units.get(unit, nan)

    height, weight = amount("Height", _CENTIMETRES), amount("Weight", _KILOGRAMS)
    born = info.find("BirthDateTime")
    return Person(
        patient_id=text(info, "PID"),
        sex=sex_of(text(info, "Gender")),
        age=age_of(amount("Age", _YEARS)),
        height_cm=height_of(height),
        weight_kg=weight_of(weight),
        birth_date=None if born is None else _day(born),
    )


def _day(element: Element) -> date | None:
    year, month, day = (text(element, name) for name in ("Year", "Month", "Day"))
    return date_of(f"{year}-{month:0>2}-{day:0>2}")


def _moment(element: Element) -> datetime | None:
    day = _day(element)
    hour, minute, second = (text(element, name) for name in ("Hour", "Minute", "Second"))
    time = f"{hour:0>2}:{minute:0>2}:{second:0>2}"
    return None if day is None else moment_of(day.isoformat(), time)
