"""What a code of each system looks like, and the one spelling under which the tables keep it.

A column that a hospital filled by mistake may hold a name, so a text counts as a code only where it
follows the syntax of its system:

- SNOMED CT identifiers end in a partition (00 or 10 for concepts) and a Verhoeff check digit
  (SNOMED International, Technical Implementation Guide, "SCTID"): of random numbers, one in five
  hundred passes.
- ICD-10 and ICD-9 as in WHO's and CDC's tabular lists, with or without the dot; the marks of the
  German edition (`+`, `*`, `!`, `-`) are taken off.
- SCP-ECG statements are words, and so are names: only the listed ones count.
"""

from __future__ import annotations

import re
from functools import lru_cache

from cardionets_core.labels.code import System

_LONGEST = 24
_MARKS = "+*!-"
_SHAPES: dict[System, re.Pattern[str]] = {
    "snomed": re.compile(r"[1-9][0-9]{5,17}"),
    "scp": re.compile(r"[0-9A-Z_()/]{2,8}"),
    "icd10": re.compile(r"[A-Z][0-9][0-9A-Z](\.?[0-9A-Z]{1,4})?"),
    "icd9": re.compile(r"[0-9]{3}(\.?[0-9]{1,2})?|V[0-9]{2}(\.?[0-9]{1,2})?|E[0-9]{3}(\.?[0-9])?"),
}

_ROTATE = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)
"""Verhoeff's permutation (J. Verhoeff, Error Detecting Decimal Codes, 1969)."""


@lru_cache(maxsize=65536)
def normal_form(system: System, text: str) -> str:
    """Return a code as the tables spell it: capitals, ICD without its dot; "" where it is none.

    For `scp` the text may still be any word in capitals: only the table can tell.
    """
    if len(text) > _LONGEST:
        return ""
    code = text.strip().upper()
    if system in ("icd10", "icd9"):
        code = code.rstrip(_MARKS)
    if not code.isascii() or not _SHAPES[system].fullmatch(code):
        return ""
    if system == "snomed" and (code[-3:-1] not in ("00", "10") or _verhoeff(code) != 0):
        return ""
    return code.replace(".", "") if system in ("icd10", "icd9") else code


def shown(system: System, code: str) -> str:
    """Return what a report may show of a code in its normal form.

    Of an ICD code this is the category, its first three characters: some hospitals' patient numbers
    (`A12345`) have the shape of a long ICD code.
    """
    return code[:3] if system in ("icd10", "icd9") else code


def _verhoeff(digits: str) -> int:
    """Return 0 for a number whose last digit is its Verhoeff check digit."""
    check = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit)
        for _ in range(place % 8):
            value = _ROTATE[value]
        check = _times(check, value)
    return check


def _times(a: int, b: int) -> int:
    """Multiply in the symmetry group of the pentagon: 0-4 are turns, 5-9 reflections."""
    turn = a % 5 + b % 5 if a < 5 else a % 5 - b % 5
    return turn % 5 + 5 * ((a >= 5) != (b >= 5))
