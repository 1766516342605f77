"""What a preparation found, as numbers: for the screen, the report and the check."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median

from cardionets_core.data.manifest import SPLITS, split_of
from cardionets_core.preparation.identity import Salt
from cardionets_core.preparation.neutral import IN_TABLE, PATIENT_UNKNOWN, VALUES_DROPPED
from cardionets_core.preparation.outcome import Outcome
from cardionets_core.preparation.studies import Recording, Study
from cardionets_core.vocabulary import DISEASES


@dataclass
class Tally:
    """Counts over all outcomes, made in one pass.

    Attributes:
        items: "ecg used", "cmr refused", ... -> how many.
        kinds: reader -> items that can be used.
        refused: "what code" -> how many.
        views: cine column -> how many.
        known: phenotype or disease -> outcomes that know it.
        present: disease -> outcomes that state it.
        unmapped: "system:code" -> how often.
        patient_unknown: recordings whose patient nobody names.
        in_table: recordings that the hospital's table says something about.
        values_dropped: stated values outside of what they can be.
        age_unknown: usable recordings without an age.
        sexes: patient -> the first sex that is known of them.
        contradicting: patients of two sexes.
        typical_mv: the voltage of every graded ECG.
        gain_suspect: how many of them have an unusual one.
    """

    items: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    views: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    present: Counter[str] = field(default_factory=Counter)
    unmapped: Counter[str] = field(default_factory=Counter)
    patient_unknown: int = 0
    in_table: int = 0
    values_dropped: int = 0
    age_unknown: int = 0
    sexes: dict[str, float] = field(default_factory=dict)
    contradicting: set[str] = field(default_factory=set)
    typical_mv: array[float] = field(default_factory=lambda: array("f"))
    gain_suspect: int = 0

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        self.items[f"{outcome.modality} {outcome.status}"] += 1
        self.refused.update(f"{what} {code}" for what, code in outcome.refused)
        if outcome.status == "refused":
            return
        self.kinds[outcome.kind] += 1
        self.views.update(name for name in outcome.files if name != "ecg")
        self.known.update(outcome.values.keys())
        self.present.update(k for k, v in outcome.values.items() if k in DISEASES and v == 1)
        self.unmapped.update(outcome.unmapped)
        self.patient_unknown += outcome.quality.get(PATIENT_UNKNOWN) == 1
        self.in_table += outcome.quality.get(IN_TABLE) == 1
        self.values_dropped += int(float(outcome.quality.get(VALUES_DROPPED, 0.0)))
        self.age_unknown += math.isnan(outcome.age)
        if not math.isnan(outcome.sex):
            if self.sexes.setdefault(outcome.patient, outcome.sex) != outcome.sex:
                self.contradicting.add(outcome.patient)
        voltage = float(outcome.quality.get("typical_mv", math.nan))
        if math.isfinite(voltage):
            self.typical_mv.append(voltage)
            self.gain_suspect += outcome.quality.get("gain_suspect") == 1

    def voltages(self) -> Voltages:
        """Return what is said of the voltages of all ECGs."""
        typical = median(self.typical_mv) if self.typical_mv else 0.0
        return Voltages(len(self.typical_mv), self.gain_suspect, round(typical, 3))


@dataclass(frozen=True)
class Voltages:
    """Of the ECGs whose voltage is known: how many, how many are unusual, and the median in mV."""

    ecgs: int = 0
    suspect: int = 0
    median_mv: float = 0.0


@dataclass(frozen=True)
class Copies:
    """Recordings with exactly the same signal.

    Attributes:
        extra: recordings beyond the first of each signal.
        across_patients: signals that stand under more than one patient.
        across_splits: of those, the ones whose patients are in different splits: a test case that
            was trained on.
    """

    extra: int
    across_patients: int
    across_splits: int


@dataclass(frozen=True)
class PrepareSummary:
    """The numbers of a prepared site. No id, no path.

    Attributes:
        new: items read in this run; `unchanged`: not read again; `gone`: dropped, no longer there.
        items, kinds, refused, views, known, present, unmapped: see `Tally`.
        patients, studies, pairs: of the manifest.
        splits: split -> patients.
        copies: exact duplicates.
        table: rows, recordings that it names, columns that were not used, and column: problem ->
            cells; empty without one.
        others: class of file -> files that no reader is for.
        closed_folders: folders that could not be opened.
        same_again: recordings left out of the manifest, being another one of the patient once more.
        cached: preset -> studies whose arrays are ready.
        manifest_changed: whether this run changed the manifest.
        seconds: how long this run took.
        contradicting_patients: patient ids that stand for persons of both sexes.
        crowded_patients: patient ids with so many recordings that none of them were paired.
        unused_columns: columns of the table that are not read, by their places.
        unread: files that cannot be read now; what was prepared from them before is kept.
        voltages: a wrong gain or unit of a whole archive shows here.
    """

    new: int
    unchanged: int
    gone: int
    items: dict[str, int]
    kinds: dict[str, int]
    refused: dict[str, int]
    views: dict[str, int]
    known: dict[str, int]
    present: dict[str, int]
    unmapped: dict[str, int]
    patient_unknown: int
    values_dropped: int
    age_unknown: int
    patients: int
    studies: int
    pairs: int
    splits: dict[str, int]
    copies: Copies
    table: dict[str, int]
    others: dict[str, int]
    closed_folders: int
    same_again: int
    manifest_changed: bool
    cached: dict[str, int]
    seconds: float
    contradicting_patients: int = 0
    crowded_patients: int = 0
    unused_columns: tuple[str, ...] = ()
    unread: int = 0
    voltages: Voltages = Voltages()

    @property
    def used(self) -> int:
        """How many items can be used, wholly or in part."""
        return sum(n for name, n in self.items.items() if not name.endswith(" refused"))

    def as_mapping(self) -> dict[str, object]:
        """Return plain values, as report.json holds them."""
        return asdict(self)


def patients_by_split(studies: Iterable[Study], salt: Salt) -> dict[str, int]:
    """Return split -> patients.

    Raises:
        AssertionError: a patient stands in two splits, which the rule of `split_of` rules out.
    """
    split_by_patient: dict[str, str] = {}
    for study in studies:
        split = split_of(study.patient, salt=salt.text)
        if split_by_patient.setdefault(study.patient, split) != split:
            raise AssertionError("a patient stands in two splits")
    counted = Counter(split_by_patient.values())
    return {name: counted[name] for name in SPLITS}


def copies_of(signals: Iterable[tuple[str, str]], salt: Salt) -> Copies:
    """Count exact copies among (content, patient) of all usable recordings."""
    owners: dict[str, str | set[str]] = {}
    extra = 0
    for content, patient in signals:
        if content not in owners:
            owners[content] = patient
            continue
        extra += 1
        before = owners[content]
        # one string per signal, a set only where a second patient turns up: half the memory
        if before != patient:
            owners[content] = {patient, *([before] if isinstance(before, str) else before)}
    shared = [patients for patients in owners.values() if isinstance(patients, set)]
    splits = [{split_of(p, salt=salt.text) for p in patients} for patients in shared]
    return Copies(extra, len(shared), sum(len(found) > 1 for found in splits))


def one_pass(
    outcomes: Callable[[], Iterator[Outcome]], salt: Salt
) -> tuple[Tally, Copies, list[Recording]]:
    """Read all outcomes once; return their counts, copies, and what studies are made of."""
    tally = Tally()
    recordings: list[Recording] = []

    def signals() -> Iterator[tuple[str, str]]:
        for outcome in outcomes():
            tally.add(outcome)
            if outcome.status != "refused":
                has_files = bool(outcome.files)
                recordings.append(
                    Recording(
                        outcome.item,
                        outcome.modality,
                        outcome.patient,
                        outcome.day,
                        has_files,
                        outcome.content,
                        outcome.moment,
                        outcome.kind,
                        float(outcome.quality.get("sampling_rate_hz", 0.0)),
                    )
                )
                if outcome.content:
                    yield outcome.content, outcome.patient

    copies = copies_of(signals(), salt)
    return tally, copies, recordings


def pairs_in(studies: Sequence[Study]) -> int:
    """Return how many studies have an ECG and a CMR."""
    return sum(len(study.items) > 1 for study in studies)
