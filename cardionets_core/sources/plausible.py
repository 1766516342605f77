"""What headers say about a person and a moment, taken only where it can be true.

Hospitals' files hold dates like 20120000 and ages like 300; readers ask here, so that all of them
draw the same line.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from math import nan

OLDEST = 120.0
"""Years; PTB-XL writes 300 for everybody over 89."""

FIRST_YEAR = 1900

_NOBODY = frozenset(
    """anon anonym anonyme anonymisiert anonymised anonymized anonymous anonymouspatient
    deidentified default dummy empty inconnu missing na nan nil nn noid noname none nopatientid
    notavailable null patient patientid patientname pseudonym removed test testpatient undefined
    unbekannt unidentified unknown unknownpatient""".split()
)
_NO_NUMBER = re.compile(r"0*|9{5,}|x{2,}", re.ASCII)
"""Fewer nines can be the number of a patient, as 9999 is in PTB-XL."""

_SEXES = {"m": 1.0, "male": 1.0, "f": 0.0, "female": 0.0}
_DATE = re.compile(r"(\d{4})[-/.]?(\d{2})[-/.]?(\d{2})", re.ASCII)
_TIME = re.compile(r"(\d{2}):?(\d{2})(?::?(\d{2}))?", re.ASCII)


def sex_of(written: str) -> float:
    """Return 1 for male, 0 for female, NaN for anything else."""
    return _SEXES.get(written.strip().lower(), nan)


def patient_of(written: str) -> str:
    """Return a patient id without blanks around it; "" for what is written where there is none.

    Anonymised exports and test set-ups fill the field with one word for everybody (ANONYMOUS,
    unknown, 0000, ?): taken for an id, it would make all of them one patient.
    """
    letters = "".join(character for character in written.casefold() if character.isalnum())
    return "" if letters in _NOBODY or _NO_NUMBER.fullmatch(letters) else written.strip()


def age_of(years: float) -> float:
    """Return an age in years, NaN where nobody can have it."""
    return float(years) if 0 <= years <= OLDEST else nan


def height_of(centimetres: float) -> float:
    """Return a height in cm, NaN where nobody can have it."""
    return float(centimetres) if 30 <= centimetres <= 250 else nan


def weight_of(kilograms: float) -> float:
    """Return a weight in kg, NaN where nobody can have it."""
    return float(kilograms) if 0.3 <= kilograms <= 400 else nan


def date_of(written: str) -> date | None:
    """Return the day of `YYYYMMDD` or `YYYY-MM-DD` and what follows it, None where there is none.

    Days that do not exist, lie before 1900 or in the future are none.
    """
    match = _DATE.match(written.strip())
    if match is None:
        return None
    year, month, day = (int(part) for part in match.groups())
    try:
        found = date(year, month, day)
    except ValueError:
        return None
    return found if FIRST_YEAR <= year and found <= date.today() else None


def moment_of(day: str, time: str = "") -> datetime | None:
    """Return a day and a time of day; midnight where the time is missing or makes no sense."""
    found = date_of(day)
    if found is None:
        return None
    match = _TIME.match(time.strip())
    hour, minute, second = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    try:
        return datetime(found.year, found.month, found.day, hour, minute, second)
    except ValueError:
        return datetime(found.year, found.month, found.day)
