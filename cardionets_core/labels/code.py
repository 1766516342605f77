"""One code of a recording, as a hospital's system wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

System = Literal["snomed", "scp", "icd10", "icd9"]
"""SNOMED CT (PhysioNet/CinC), SCP-ECG statements (PTB-XL), ICD-10 and ICD-9 (hospitals, MIMIC)."""


@dataclass(frozen=True)
class Code:
    """One code.

    Attributes:
        system: whose vocabulary it is of.
        code: without blanks, as written; ICD codes with or without their dot.
        present: False where the source says that it was looked for and is not there, or that its
            likelihood is unknown.
    """

    system: System
    code: str
    present: bool = True
