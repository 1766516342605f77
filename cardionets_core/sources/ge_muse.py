"""GE MUSE XML: what a MUSE server exports for a resting ECG (root element RestingECG).

Layout: one `Waveform` of type Rhythm (ten seconds) and one of type Median (a computed beat, which
is not read). Each `LeadData` holds its samples in Base64, little-endian numbers of 16 bits, in
steps of LeadAmplitudeUnitsPerBit, usually 4.88 MICROVOLTS. The rate is SampleBase times ten to the
power of SampleExponent. Devices store eight leads, I II V1-V6; the other four follow from I and II.
Dates are month-day-year. Source: the layout as published by GE (Information Interchange Developer's
Manual) and by users of MUSE 7 to 10; no file of a real MUSE could be tested here.

A lead that the device itself marks as off (`LeadOff`) counts as missing. Statements, names and
orders are dropped.
"""

from __future__ import annotations

import binascii
import math
import re
from base64 import b64decode
from datetime import date
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
from cardionets_core.sources.safe_xml import number, number_or_nan, text

KIND = "ge_muse"
ROOT = "RestingECG"

_UNITS = {
    "MICROVOLTS": "uV", "MICROVOLT": "uV", "UV": "uV",
    "MILLIVOLTS": "mV", "MILLIVOLT": "mV", "MV": "mV",
    "NANOVOLTS": "nV", "NANOVOLT": "nV", "NV": "nV",
}  # fmt: skip
_YEARS = {
    "YEARS": 1.0,
    "MONTHS": 1 / 12,
    "WEEKS": 7 / 365.25,
    "DAYS": 1 / 365.25,
    "HOURS": 1 / 8766,
}
_US_DATE = re.compile(r"(\d{1,2})[-/](\d{1,2})[-/](\d{4})", re.ASCII)
_LARGEST_EXPONENT = 6


def recognises(name: str, head: bytes) -> bool:
    """Return whether a file is a resting ECG of MUSE, by its root element."""
    return safe_xml.root_tag(head) == ROOT


def read(path: Path, part: str, *, root: Path) -> SourceEcg:
    """Read one resting ECG; of several rhythm waveforms, the first.

    Raises:
        RecordRefused: with one of the codes of refusal.REASONS.
    """
    tree = safe_xml.parse_as(ROOT, path, part, root=root, what="resting ECG")
    rhythm = [
        wave for wave in tree.iterfind("Waveform") if text(wave, "WaveformType").lower() == "rhythm"
    ]
    if not rhythm:
        raise RecordRefused("header", "no rhythm waveform")
    return SourceEcg(record=_record(rhythm[0]), facts=_facts(tree))


def _record(wave: Element) -> EcgRecord:
    leads = [
        lead for lead in wave.iterfind("LeadData") if lead_index(text(lead, "LeadID")) is not None
    ]
    if not leads:
        raise RecordRefused("no_standard_lead")
    values = [_samples(lead) for lead in leads]
    return ecg_record(
        [text(lead, "LeadID") for lead in leads],
        [_UNITS.get(text(lead, "LeadAmplitudeUnits").upper(), "") for lead in leads],
        _aligned(leads, values),
        _rate(wave),
    )


def _rate(wave: Element) -> float:
    """Return the samples per second."""
    exponent = number(text(wave, "SampleExponent") or "0", "SampleExponent")
    if abs(exponent) > _LARGEST_EXPONENT:
        raise RecordRefused("sampling_rate")
    return number(text(wave, "SampleBase"), "SampleBase") * math.pow(10.0, exponent)


def _samples(lead: Element) -> NDArray[np.float64]:
    """Return the samples of one lead in its unit, float64 [n]; all NaN where it was off."""
    size = text(lead, "LeadSampleSize") or "2"
    if number(size, "LeadSampleSize") != 2:
        raise RecordRefused("header", "samples that are not of two bytes")
    stored = _decode(text(lead, "WaveFormData"))
    announced = text(lead, "LeadSampleCountTotal")
    if announced:
        missing = number(announced, "LeadSampleCountTotal") - len(stored)
        if missing:
            raise RecordRefused("truncated" if missing > 0 else "header", "number of samples")
    if text(lead, "LeadOff").upper() == "TRUE":
        return np.full(len(stored), np.nan)
    written = text(lead, "LeadAmplitudeUnitsPerBit").replace(",", ".")
    return stored * number(written, "LeadAmplitudeUnitsPerBit")


def _decode(written: str) -> NDArray[np.float64]:
    if len(written) > safe_xml.MAX_LIST:
        raise RecordRefused("too_large", "a lead of too many samples")
    try:
        data = b64decode("".join(written.split()), validate=True)
    except (binascii.Error, ValueError):
        raise RecordRefused("unreadable", "samples that are not Base64") from None
    if len(data) % 2:
        raise RecordRefused("truncated", "half a sample")
    return np.frombuffer(data, dtype="<i2").astype(np.float64)


def _aligned(leads: list[Element], values: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Begin each lead at its first sample; NaN before it, where leads do not begin together."""
    written = [text(lead, "LeadOffsetFirstSample") or "0" for lead in leads]
    offsets = np.array([number(w, "LeadOffsetFirstSample") for w in written])
    later = offsets - offsets.min()
    if later.max() > max(map(len, values)):
        raise RecordRefused("header", "a lead that begins after another has ended")
    return [
        np.concatenate([np.full(int(k), np.nan), lead])
        for k, lead in zip(later, values, strict=True)
    ]


def _facts(tree: Element) -> Facts:
    day = _day(text(tree, "TestDemographics/AcquisitionDate"))
    time = text(tree, "TestDemographics/AcquisitionTime")
    demographics = tree.find("PatientDemographics")
    return Facts(
        person=Person() if demographics is None else _person(demographics),
        recorded=None if day is None else moment_of(day.isoformat(), time),
    )


def _person(demographics: Element) -> Person:
    def amount(*names: tuple[str, float]) -> float:
        found = (number_or_nan(text(demographics, n)) * factor for n, factor in names)
        return next((value for value in found if value > 0), math.nan)

    years = _YEARS.get(text(demographics, "AgeUnits").upper() or "YEARS", math.nan)
    height = amount(("HeightCM", 1.0), ("HeightIN", 2.54))
    weight = amount(("WeightKG", 1.0), ("WeightLBS", 0.45359237))
    return Person(
        patient_id=text(demographics, "PatientID"),
        sex=sex_of(text(demographics, "Gender")),
        age=age_of(number_or_nan(text(demographics, "PatientAge")) * years),
        height_cm=height_of(height),
        weight_kg=weight_of(weight),
        birth_date=_day(text(demographics, "DateofBirth")),
    )


def _day(written: str) -> date | None:
    """Return a day that is written as month-day-year, or year first."""
    match = _US_DATE.fullmatch(written)
    return date_of(f"{match[3]}-{match[1]:0>2}-{match[2]:0>2}" if match else written)
