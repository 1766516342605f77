"""What became of one source item. Holds salted hashes and numbers, no id, date, path or text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import nan
from typing import Literal


@dataclass(frozen=True)
class Outcome:
    """The result of preparing one item, as the journal keeps it.

    Attributes:
        item: salted hash of where the item lies; `cardionets prepare --find` turns it into a path.
        modality: what the item is.
        kind: name of the reader.
        status: `used`; `partly` where some views were refused; `refused` where nothing is left.
        refused: (what, reason code), what being `ecg`, `cine_4ch`, `cine_sax` or `study`.
        patient: salted hash of the patient id; "" where the item was refused before it was known.
        day: day of the recording on the patient's own shifted calendar; None where unknown.
        age, sex, height_cm, weight_kg: covariates, NaN where unknown.
        moment: salted hash of patient and second of the recording, "" where that is unknown; two
            ECGs of one moment in different formats or rates are one ECG that was exported twice.
        files: manifest column (`ecg`, `cine_4ch`, `cine_sax`) -> path below the prepared folder.
        content: salted digest of the signal; two items with the same one are exact duplicates.
        values: phenotypes and diseases by their names in the vocabulary.
        quality: plain numbers and words for the report (quality.grades for an ECG; pixel size,
            phases, slices for a CMR).
        unmapped: "system:code" -> how often; codes that the label tables do not hold.
    """

    item: str
    modality: Literal["ecg", "cmr"]
    kind: str
    status: Literal["used", "partly", "refused"]
    refused: tuple[tuple[str, str], ...] = ()
    patient: str = ""
    day: int | None = None
    moment: str = ""
    age: float = nan
    sex: float = nan
    height_cm: float = nan
    weight_kg: float = nan
    files: Mapping[str, str] = field(default_factory=dict)
    content: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    quality: Mapping[str, float | str] = field(default_factory=dict)
    unmapped: Mapping[str, int] = field(default_factory=dict)
