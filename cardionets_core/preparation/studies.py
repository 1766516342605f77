"""Recordings of a patient -> studies: a CMR and the ECG nearest to it, the others on their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from cardionets_core.preparation.identity import Salt

PAIR_DAYS = 365

MOST_OF_A_PATIENT = 50
"""Recordings of one modality; a patient id with more may be a ward's or a device's, and its ECGs
and CMRs are not paired by their dates alone."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What pairing needs of an outcome.

    A CMR may have values (phenotypes of its masks) and no files: it serves the ECG beside it, and
    makes no study alone.
    """

    item: str
    modality: Literal["ecg", "cmr"]
    patient: str
    day: int | None
    has_files: bool = True
    content: str = ""
    moment: str = ""
    kind: str = ""
    rate_hz: float = 0.0


@dataclass(frozen=True, slots=True)
class Study:
    """One row of the manifest: the items of an ECG, of a CMR, or of both (ECG first)."""

    patient: str
    study_id: str
    items: tuple[str, ...]


def same_again(recordings: Iterable[Recording]) -> set[str]:
    """Return the items that are another one of the same patient once more.

    That is the same signal, or an ECG of the same second in another format or at another rate, as
    archives hold them (PTB-XL at 100 and 500 Hz, an XML beside its DICOM). The highest rate stays.
    """
    best_first = sorted(recordings, key=lambda r: (-r.rate_hz, r.item))
    contents: set[tuple[str, str]] = set()
    forms: dict[str, list[tuple[str, float]]] = {}
    again: set[str] = set()
    for recording in best_first:
        content = (recording.patient, recording.content)
        form = (recording.kind, recording.rate_hz)
        others = forms.setdefault(recording.moment, []) if recording.moment else []
        is_ecg = recording.modality == "ecg"
        if (recording.content and content in contents) or (
            is_ecg and others and form not in others
        ):
            again.add(recording.item)
            continue
        contents.add(content)
        if is_ecg:
            others.append(form)
    return again


def studies_of(recordings: Iterable[Recording], *, salt: Salt, pair_days: int) -> list[Study]:
    """Join recordings to studies; sorted by patient and study.

    Of all ECG-CMR pairs of a patient at most `pair_days` apart the closest is taken first, and no
    recording stands in two studies. Where days are unknown, a pair is made only of a patient's one
    ECG and one CMR. What `same_again` names is left out; who is `crowded` gets no pairs, which also
    bounds what pairing costs.
    """
    studies = []
    known = list(recordings)
    again = same_again(known)
    ordered = sorted((r for r in known if r.item not in again), key=lambda r: (r.patient, r.item))
    for patient, group in groupby(ordered, key=lambda r: r.patient):
        own = list(group)
        pairs = _pairs(own, pair_days)
        paired = {item for pair in pairs for item in pair}
        alone = [(r.item,) for r in own if r.item not in paired and r.has_files]
        studies += [Study(patient, salt.study_key(items), items) for items in (*pairs, *alone)]
    return sorted(studies, key=lambda s: (s.patient, s.study_id))


def crowded(recordings: Iterable[Recording]) -> set[str]:
    """Return the patients with recordings of both modalities and too many of one to be paired."""
    counts = Counter((r.patient, r.modality) for r in recordings)
    most = {patient for (patient, _), count in counts.items() if count > MOST_OF_A_PATIENT}
    return {p for p in most if counts[p, "ecg"] and counts[p, "cmr"]}


def _pairs(own: Sequence[Recording], pair_days: int) -> list[tuple[str, str]]:
    ecgs = [r for r in own if r.modality == "ecg"]
    cmrs = [r for r in own if r.modality == "cmr"]
    if max(len(ecgs), len(cmrs)) > MOST_OF_A_PATIENT:
        return []
    if len(ecgs) == len(cmrs) == 1 and (ecgs[0].day is None or cmrs[0].day is None):
        return [(ecgs[0].item, cmrs[0].item)]
    distances = sorted(
        (abs(ecg.day - cmr.day), ecg.item, cmr.item)
        for cmr in cmrs
        for ecg in ecgs
        if ecg.day is not None and cmr.day is not None
    )
    pairs: list[tuple[str, str]] = []
    taken: set[str] = set()
    for days, ecg, cmr in distances:
        if days <= pair_days and not taken & {ecg, cmr}:
            pairs.append((ecg, cmr))
            taken |= {ecg, cmr}
    return pairs
