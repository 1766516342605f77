"""Whose recording a DICOM file is and when it was made: the few attributes that are read of it.

Layout: DICOM PS3.3 C.7.1.1 and C.7.2.2 (patient), PS3.5 6.2 (dates, ages). Names, addresses,
comments, operators, institutions and device serials are never asked for.
"""

from __future__ import annotations

import re
from datetime import datetime
from math import nan

from cardionets_core.sources.dicom import Dataset, number_of, text_of
from cardionets_core.sources.plausible import (
    age_of,
    date_of,
    height_of,
    moment_of,
    sex_of,
    weight_of,
)
from cardionets_core.sources.recording import Facts, Person

_AGE = re.compile(r"(\d{1,3})([DWMY])", re.ASCII)
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}

_MOMENTS = (
    ("AcquisitionDateTime", ""),
    ("AcquisitionDate", "AcquisitionTime"),
    ("ContentDate", "ContentTime"),
    ("SeriesDate", "SeriesTime"),
    ("StudyDate", "StudyTime"),
)
"""From the closest to the recording to the furthest."""


def facts_of(dataset: Dataset) -> Facts:
    """Return patient and moment of a data set; what is absent or cannot be true is unknown.

    Raises:
        RecordRefused: `unreadable` where an attribute cannot be decoded at all.
    """
    return Facts(person=_person(dataset), recorded=_recorded(dataset))


def age_years(written: str) -> float:
    """Return the years of an age string (`045Y`, `006M`, `002W`, `010D`), NaN where it is none."""
    match = _AGE.fullmatch(written.strip().upper())
    return age_of(int(match[1]) * _YEARS[match[2]]) if match else nan


def _person(dataset: Dataset) -> Person:
    centimetres = number_of(dataset, "PatientSize") * 100  # metres
    kilograms = number_of(dataset, "PatientWeight")
    return Person(
        patient_id=text_of(dataset, "PatientID"),
        sex=sex_of(text_of(dataset, "PatientSex")),
        age=age_years(text_of(dataset, "PatientAge")),
        height_cm=height_of(centimetres),
        weight_kg=weight_of(kilograms),
        birth_date=date_of(text_of(dataset, "PatientBirthDate")),
    )


def _recorded(dataset: Dataset) -> datetime | None:
    for day_name, time_name in _MOMENTS:
        day = text_of(dataset, day_name)
        found = moment_of(day, text_of(dataset, time_name) if time_name else day[8:])
        if found is not None:
            return found
    return None
