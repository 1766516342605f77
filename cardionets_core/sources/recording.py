"""The one shape that every hospital format is read into.

All of it is as the source has it, identifiers included: it lives in the memory of one worker for
the time of one recording, and `preparation/` replaces ids and dates before anything is written.
`repr` shows none of it, so that a traceback in a log holds no patient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import date, datetime
from math import isnan, nan
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cardionets_core.data.cmr import CineVolume
    from cardionets_core.data.ecg import EcgRecord
    from cardionets_core.labels.code import Code


@dataclass(frozen=True)
class SourceItem:
    """Where one recording lies.

    Attributes:
        kind: name of its reader, for example `wfdb` or `hl7_aecg`.
        path: POSIX path of its main file or folder, relative to the folder that was given.
        part: which recording of that file; "" where a file holds one.
    """

    kind: str
    path: str = field(repr=False)
    part: str = field(default="", repr=False)


@dataclass(frozen=True)
class Person:
    """Whose recording it is. Numbers are NaN and texts empty where the source does not say.

    Attributes:
        patient_id: as the hospital writes it.
        sex: 1 male, 0 female.
        age: years at the time of the recording.
        height_cm, weight_kg: body size.
        birth_date: for the age, where the source gives no age.
    """

    patient_id: str = field(default="", repr=False)
    sex: float = field(default=nan, repr=False)
    age: float = field(default=nan, repr=False)
    height_cm: float = field(default=nan, repr=False)
    weight_kg: float = field(default=nan, repr=False)
    birth_date: date | None = field(default=None, repr=False)

    def or_else(self, other: Person) -> Person:
        """Return this person, with what is unknown taken from `other`."""
        known = {
            f.name: getattr(other, f.name)
            for f in fields(self)
            if _is_unknown(getattr(self, f.name))
        }
        return replace(self, **known)


@dataclass(frozen=True)
class Facts:
    """What is known of a recording besides its signal, from its own header or from a table.

    Attributes:
        person: whose it is.
        recorded: when.
        codes: diagnoses and statements; never free text.
        values: phenotypes and diseases that the source gives under names of the vocabulary.
    """

    person: Person = Person()
    recorded: datetime | None = field(default=None, repr=False)
    codes: tuple[Code, ...] = field(default=(), repr=False)
    values: Mapping[str, float] = field(default_factory=dict, repr=False)

    def or_else(self, other: Facts) -> Facts:
        """Return these facts, with what is unknown taken from `other`; codes of both."""
        return Facts(
            person=self.person.or_else(other.person),
            recorded=self.recorded or other.recorded,
            codes=tuple(dict.fromkeys((*self.codes, *other.codes))),
            values={**other.values, **self.values},
        )


@dataclass(frozen=True, eq=False)
class SourceEcg:
    """One ECG: its signal in the project's own shape and what is known of it."""

    record: EcgRecord = field(repr=False)
    facts: Facts = Facts()


@dataclass(frozen=True, eq=False)
class SourceCmr:
    """One CMR study.

    Attributes:
        views: cine of each view of `vocabulary.VIEWS` that could be read.
        refused: view, or `study` -> reason code of what could not.
        facts: what is known of it; phenotypes measured on its masks stand in `values`.
    """

    views: Mapping[str, CineVolume] = field(repr=False)
    refused: Mapping[str, str] = field(default_factory=dict)
    facts: Facts = Facts()


def _is_unknown(value: object) -> bool:
    return value in ("", None) or (isinstance(value, float) and isnan(value))
