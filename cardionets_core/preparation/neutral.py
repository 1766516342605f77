"""Raw facts of one item -> the `Outcome` that is kept: keys for ids, ages for dates, no text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from cardionets_core.data.manifest import RANGES
from cardionets_core.labels.ukb_fields import IMAGING_VISIT
from cardionets_core.labels.vocabularies import diseases_of, unmapped
from cardionets_core.preparation.convert import Converted
from cardionets_core.preparation.identity import Salt, stated_age
from cardionets_core.preparation.outcome import Outcome
from cardionets_core.sources.cmr_item import kind_of
from cardionets_core.sources.plausible import patient_of
from cardionets_core.sources.recording import Facts, Person, SourceItem
from cardionets_core.sources.tables import Table
from cardionets_core.sources.ukb_bulk import visit_of
from cardionets_core.sources.wfdb_records import KIND as WFDB
from cardionets_core.vocabulary import DISEASES, PHENOTYPE_NAMES

PATIENT_UNKNOWN = "patient_unknown"
"""Key of `Outcome.quality`: 1 where nothing says whose a recording is, or of an ECG only the name
of its file."""

VALUES_DROPPED = "values_dropped"
"""Key of `Outcome.quality`: how many stated values lie outside of what they can be, or
are of another visit than the recording."""


IN_TABLE = "in_table"
"""Key of `Outcome.quality`: 1 where the hospital's table knows the recording or its patient."""


_ACDC = kind_of("acdc")
"""ACDC numbers its folders patient001, ..., and so does PTB with ECGs of other people: without a
table that says so, the two are not one patient."""


@dataclass(frozen=True)
class Neutraliser:
    """Makes outcomes. Raw ids and dates end here.

    Args:
        salt: the site's secret.
        table: the hospital's table, None where there is none.
        folders: modality -> its folder as seen from the table's, where it lies below that: people
            write paths from either place.
    """

    salt: Salt
    table: Table | None = field(default=None, repr=False)
    folders: Mapping[str, str] = field(default_factory=dict, repr=False)

    def outcome(self, done: Converted, source: SourceItem) -> Outcome:
        """Return the outcome of an item.

        Args:
            done: what the worker made of it.
            source: where it lies: a table may name its path, a folder layout its patient.
        """
        if not (done.files or done.facts.values):
            return Outcome(done.item, done.modality, done.kind, "refused", refused=done.refused)
        facts, in_table = self._facts(done.facts, source, done.modality)
        person, day = facts.person, facts.recorded.date() if facts.recorded else None
        people = {
            "age": stated_age(person.age, person.birth_date, day),
            "sex": person.sex,
            "height_cm": person.height_cm,
            "weight_kg": person.weight_kg,
        }
        wrong = [n for n, v in people.items() if not (math.isnan(v) or _is_possible(n, v))]
        people |= dict.fromkeys(wrong, math.nan)
        values = _values(facts)
        dropped = len(wrong) + sum(name not in values for name in facts.values)
        dropped += self._of_another_visit(source, person.patient_id)
        quality = dict(done.quality) | {VALUES_DROPPED: float(dropped)}
        if self.table is not None:
            quality[IN_TABLE] = float(in_table)
        raw = person.patient_id.strip()
        if done.kind == WFDB and not in_table and _is_of_the_file(raw, source.path):
            quality[PATIENT_UNKNOWN] = 1.0
        if raw:
            is_counter = source.kind == _ACDC and not in_table
            patient = self.salt.patient_key(f"{_ACDC} {raw}" if is_counter else raw)
        else:
            patient = self.salt.person_of_content(done.content or done.item)
            quality[PATIENT_UNKNOWN] = 1.0
        return Outcome(
            done.item,
            done.modality,
            done.kind,
            "partly" if done.refused else "used",
            refused=done.refused,
            patient=patient,
            day=self.salt.shifted_day(patient, facts.recorded),
            moment=self.salt.moment_key(patient, facts.recorded),
            age=people["age"],
            sex=people["sex"],
            height_cm=people["height_cm"],
            weight_kg=people["weight_kg"],
            files=done.files,
            content=done.content,
            values=values,
            quality=quality,
            unmapped=unmapped(facts.codes),
        )

    def _facts(self, own: Facts, source: SourceItem, modality: str) -> tuple[Facts, bool]:
        """Join what the recording, the folder and the table say; the table names the patient.

        Also return whether the table says anything.
        """
        own = self.own(own, source)
        if self.table is None:
            return own, False
        listed = self.listed(source, modality, own.person.patient_id)
        name = listed.person.patient_id or own.person.patient_id
        joined = replace(own, person=replace(own.person, patient_id=name)).or_else(listed)
        return joined, _says_something(listed)

    def own(self, own: Facts, source: SourceItem) -> Facts:
        """Join what the recording and the folder say."""
        hint = patient_of(str(getattr(source, "patient", "")))
        own = replace(own, person=replace(own.person, patient_id=patient_of(own.person.patient_id)))
        return own.or_else(Facts(person=Person(patient_id=hint)))

    def listed(self, source: SourceItem, modality: str, patient: str) -> Facts:
        """Return what the table says of a recording that gives this patient id."""
        if self.table is None:
            return Facts()
        path = f"{source.path}/{source.part}" if source.part else source.path
        if modality in self.folders and not self.table.holds(path):
            path = f"{self.folders[modality]}/{path}"
        listed = self.table.facts(path, patient)
        if not _is_of_another_visit(source):
            return listed
        return _without_visit(listed, self.table.facts("", listed.person.patient_id or patient))

    def _of_another_visit(self, source: SourceItem, patient: str) -> int:
        """Return how many phenotypes the patient's row has that are of another visit."""
        if self.table is None or not _is_of_another_visit(source):
            return 0
        return sum(name in PHENOTYPE_NAMES for name in self.table.facts("", patient).values)


def _is_of_another_visit(source: SourceItem) -> bool:
    """Whether the patient's row of a UK Biobank table does not speak for this recording."""
    return visit_of(source.path, source.part) not in (None, IMAGING_VISIT)


def _without_visit(listed: Facts, general: Facts) -> Facts:
    """Return facts without what the patient's row says of the imaging visit; diseases stay."""
    values = {n: v for n, v in listed.values.items() if n in DISEASES or general.values.get(n) != v}
    own, other = listed.person, general.person
    person = replace(
        own,
        age=math.nan if own.age == other.age else own.age,
        height_cm=math.nan if own.height_cm == other.height_cm else own.height_cm,
        weight_kg=math.nan if own.weight_kg == other.weight_kg else own.weight_kg,
    )
    recorded = None if listed.recorded == general.recorded else listed.recorded
    return replace(listed, person=person, recorded=recorded, values=values)


def _is_of_the_file(patient: str, path: str) -> bool:
    """Whether a patient id is the name of the file, which is all that some archives have.

    Also where the record is numbered after it, as in 00001_hr of PTB-XL.
    """
    stem = PurePosixPath(path).stem
    return stem == patient or stem.startswith(f"{patient}_")


def _says_something(facts: Facts) -> bool:
    person = facts.person
    numbers = (person.age, person.sex, person.height_cm, person.weight_kg)
    texts = (person.patient_id, person.birth_date, facts.recorded, facts.codes, facts.values)
    return any(texts) or not all(map(math.isnan, numbers))


def _values(facts: Facts) -> dict[str, float]:
    """Return diseases (1 or 0) and phenotypes (finite) that are known; stated ones before codes."""
    found: Mapping[str, float] = {**diseases_of(facts.codes), **facts.values}
    diseases = {name: v for name, v in found.items() if name in DISEASES and v in (0.0, 1.0)}
    numbers = {name: v for name, v in found.items() if name in PHENOTYPE_NAMES and math.isfinite(v)}
    return diseases | numbers


def _is_possible(name: str, value: float) -> bool:
    low, high = RANGES[name]
    return low <= value <= high and (name != "sex" or value in (0.0, 1.0))
