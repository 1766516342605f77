"""HL7 annotated ECG (aECG, 2003-12 and later), as trials and several makers' carts export it.

Layout: AnnotatedECG/component/series/component/sequenceSet holds one sequence of times (`head` and
`increment`) and, for each lead, `origin + scale * digits`; codes name the leads
(MDC_ECG_LEAD_V1). A series may hold several such sets: leads that were printed one after the other,
or pieces of a longer recording. They are put where their times say. Source: HL7 aECG
Implementation Guide, 21 March 2005.

The recording is the series with the code RHYTHM. A representative beat, computed by the device, is
taken only where there is nothing else. Statements, comments and names are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import nan
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from cardionets_core.data.ecg import RATES_HZ, EcgRecord, ecg_record
from cardionets_core.data.leads import lead_index, millivolts_per_unit
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.data.wfdb_header import LONGEST_SECONDS, READ_SECONDS
from cardionets_core.sources import safe_xml
from cardionets_core.sources.plausible import age_of, date_of, moment_of, sex_of
from cardionets_core.sources.recording import Facts, Person, SourceEcg
from cardionets_core.vocabulary import LEADS

KIND = "hl7_aecg"
ROOT = "AnnotatedECG"

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_YEARS = {"a": 1.0, "mo": 1 / 12, "wk": 7 / 365.25, "d": 1 / 365.25}
_AGE_CODES = ("21612-7", "30525-0", "29553-5")
"""LOINC: reported age, age, calculated age."""

_POINT_IN_TIME = re.compile(r"(\d{14})(\.\d{1,9})?(?:[-+]\d{4})?", re.ASCII)
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(frozen=True)
class _Set:
    """Leads that were recorded together: when they begin, and place in LEADS -> mV, float64 [n]."""

    clock: str
    start_s: float | None
    rate_hz: float
    leads: dict[int, NDArray[np.float64]]


def recognises(name: str, head: bytes) -> bool:
    """Return whether a file is an annotated ECG, by its root element."""
    return safe_xml.root_tag(head) == ROOT


def read(path: Path, part: str, *, root: Path) -> SourceEcg:
    """Read one annotated ECG; of several recordings in a file, the first.

    Raises:
        RecordRefused: with one of the codes of refusal.REASONS.
    """
    tree = safe_xml.parse_as(ROOT, path, part, root=root, what="annotated ECG")
    for series in _series(tree):
        sets = [_set(element) for element in series.iterfind("component/sequenceSet")]
        if any(s.leads for s in sets):
            return SourceEcg(record=_record([s for s in sets if s.leads]), facts=_facts(tree))
    raise RecordRefused("no_standard_lead")


def _series(tree: Element) -> list[Element]:
    """Return all series, recordings before what was computed from them."""
    recorded = tree.findall(".//series")
    if not recorded:
        raise RecordRefused("header", "no series")
    recorded.sort(key=lambda s: 2 * ("BEAT" in _code(s)) + (_code(s) != "RHYTHM"))
    return [*recorded, *tree.findall(".//derivedSeries")]


def _code(element: Element) -> str:
    code = element.find("code")
    return "" if code is None else code.get("code", "").strip().upper()


def _set(element: Element) -> _Set:
    sequences = element.findall("component/sequence")
    clocks = [s for s in sequences if _code(s).startswith("TIME_")]
    if len(clocks) != 1:
        raise RecordRefused("header", "a set without one sequence of times")
    start, rate = _times(safe_xml.need(clocks[0], "value"))
    leads: dict[int, NDArray[np.float64]] = {}
    for sequence in sequences:
        place = lead_index(_code(sequence))
        if place is None:
            continue
        if place in leads:
            raise RecordRefused("duplicate_lead")
        leads[place] = _millivolts(safe_xml.need(sequence, "value"))
    return _Set(_code(clocks[0]), start, rate, leads)


def _times(value: Element) -> tuple[float | None, float]:
    """Return when a set begins, in seconds (None where it does not say), and its rate in Hz."""
    increment = safe_xml.need(value, "increment")
    step = safe_xml.number(increment.get("value", ""), "increment")
    unit = _SECONDS.get(increment.get("unit", "").strip())
    if unit is None:
        raise RecordRefused("sampling_rate", "the unit of the increment is not one of time")
    rate = round(1 / (step * unit), 9) if step > 0 else 0.0
    if not RATES_HZ[0] <= rate <= RATES_HZ[1]:
        raise RecordRefused("sampling_rate")
    head = value.find("head")
    return (None if head is None else _seconds(head)), rate


def _seconds(head: Element) -> float | None:
    """Return a point in time (since year 1) or a relative time, in seconds."""
    written = head.get("value", "").strip()
    unit = head.get("unit", "").strip()
    if unit:
        return safe_xml.number(written, "head") * _SECONDS.get(unit, nan)
    match = _POINT_IN_TIME.fullmatch(written)
    if match is None:
        return None
    try:
        moment = datetime.strptime(match[1], "%Y%m%d%H%M%S")
    except ValueError:
        return None
    return (moment - datetime.min).total_seconds() + float(match[2] or 0)


def _millivolts(value: Element) -> NDArray[np.float64]:
    """Return the samples of one lead, float64 [n]; NaN where their unit is no voltage."""
    digits = safe_xml.numbers(safe_xml.text(value, "digits"))
    scale, origin = (_voltage(value.find(name)) for name in ("scale", "origin"))
    return digits * scale + (0.0 if value.find("origin") is None else origin)


def _voltage(quantity: Element | None) -> float:
    if quantity is None:
        return nan
    amount = safe_xml.number(quantity.get("value", ""), "scale or origin")
    factor = millivolts_per_unit(quantity.get("unit", ""))
    return amount * (nan if factor is None else factor)


def _record(sets: Sequence[_Set]) -> EcgRecord:
    rate = sets[0].rate_hz
    if any(s.rate_hz != rate for s in sets):
        raise RecordRefused("mixed_rates")
    leads = _joined(sets, rate) if len(sets) > 1 else sets[0].leads
    if any(len(v) for v in leads.values()) and all(np.isnan(v).all() for v in leads.values()):
        raise RecordRefused("units")
    names = [LEADS[place] for place in leads]
    return ecg_record(names, ["mV"] * len(names), list(leads.values()), rate)


def _joined(sets: Sequence[_Set], rate: float) -> dict[int, NDArray[np.float64]]:
    """Put the leads of several sets where their times say; NaN where a lead was not recorded."""
    starts = [s.start_s for s in sets if s.start_s is not None and np.isfinite(s.start_s)]
    if len(starts) < len(sets) or len({s.clock for s in sets}) > 1:
        raise RecordRefused("header", "several sets without comparable times")
    first = min(starts)
    if max(starts) - first > LONGEST_SECONDS:
        raise RecordRefused("too_large", "sets that lie weeks apart")
    offsets = [round((start - first) * rate) for start in starts]
    ends = [k + max(map(len, s.leads.values())) for k, s in zip(offsets, sets, strict=True)]
    length = min(max(ends), int(READ_SECONDS * rate) + 1)
    joined: dict[int, NDArray[np.float64]] = {}
    for offset, one in zip(offsets, sets, strict=True):
        for place, values in one.leads.items():
            if place not in joined:
                joined[place] = np.full(length, np.nan)
            room = joined[place][offset : offset + len(values)]
            if np.isfinite(room).any():
                raise RecordRefused("duplicate_lead", "sets that overlap")
            room[:] = values[: len(room)]
    return joined


def _facts(tree: Element) -> Facts:
    subject = tree.find(".//trialSubject")
    person = Person() if subject is None else _person(subject)
    ages = Person(age=_reported_age(tree))
    moment = next((w for place in ("", ".//series/") if (w := _when(tree, place))), "")
    return Facts(person=person.or_else(ages), recorded=moment_of(moment, moment[8:]))


def _person(subject: Element) -> Person:
    identifier = subject.find("id")
    said = {} if identifier is None else identifier.attrib
    alone = said.get("root", "").strip()
    return Person(
        patient_id=said.get("extension", "").strip() or (alone if _UUID.fullmatch(alone) else ""),
        sex=sex_of(_attribute(subject, ".//administrativeGenderCode", "code")),
        birth_date=date_of(_attribute(subject, ".//birthTime", "value")),
    )


def _reported_age(tree: Element) -> float:
    for observation in tree.iterfind(".//relatedObservation"):
        value = observation.find("value")
        if _code(observation) in _AGE_CODES and value is not None:
            years = _YEARS.get(value.get("unit", "").strip(), nan)
            return age_of(safe_xml.number_or_nan(value.get("value", "")) * years)
    return nan


def _when(tree: Element, place: str) -> str:
    times = [f"{place}effectiveTime/{name}" for name in ("center", "low")]
    written = [_attribute(tree, path, "value") for path in (*times, f"{place}effectiveTime")]
    return next((w for w in written if w), "")


def _attribute(element: Element, path: str, name: str) -> str:
    found = element.find(path)
    return "" if found is None else found.get(name, "").strip()
