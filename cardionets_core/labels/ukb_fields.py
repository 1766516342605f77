"""UK Biobank columns: `24100-2.0`, `p24100_i2`, `f.24100.2.0` -> the project's names.

Heart MRI phenotypes (fields 24100-24181, category 157) and body measures belong to a visit; the
imaging visit is instance 2. Other instances are other days, and are not read.
"""

from __future__ import annotations

import csv
import re
from functools import cache
from typing import NamedTuple

from cardionets_core.labels.code_tables import TABLES

IMAGING_VISIT = 2
_ONCE = {31}
"""Fields that were asked once: sex stands under instance 0."""

_FORMS = (
    re.compile(r"(?P<field>\d{2,5})-(?P<instance>\d)\.(?P<array>\d{1,3})"),
    re.compile(r"p(?P<field>\d{2,5})(?:_i(?P<instance>\d))?(?:_a(?P<array>\d{1,3}))?"),
    re.compile(r"f\.(?P<field>\d{2,5})\.(?P<instance>\d)\.(?P<array>\d{1,3})"),
)


class UkbField(NamedTuple):
    """One field: the project's `name` for it, its `unit` and `kind` (covariate or phenotype)."""

    name: str
    unit: str
    kind: str


@cache
def fields() -> dict[int, UkbField]:
    """Return the fields that are read: number -> its name here."""
    with (TABLES / "ukb_fields.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {int(r["field"]): UkbField(r["name"], r["unit"], r["kind"]) for r in rows}


def ukb_name(column: str) -> str:
    """Return the project's name of a UK Biobank column of the imaging visit; "" for any other.

    Height and weight were measured twice: fields 12144 and 12143 at the scanner, 50 and 21002 at
    the desk. Both lead to the same name, and a table may hold both.
    """
    number = _number(column)
    return "" if number is None else fields()[number].name


def ukb_rank(column: str) -> int:
    """Return the place of a column's field in the table: of two with one name, the first counts."""
    number = _number(column)
    return -1 if number is None else list(fields()).index(number)


def _number(column: str) -> int | None:
    """Return the number of the field that a column holds, if it is read."""
    match = next((m for form in _FORMS if (m := form.fullmatch(column.strip().lower()))), None)
    if match is None or int(match["array"] or 0) != 0:
        return None
    number = int(match["field"])
    instance = int(match["instance"]) if match["instance"] else None
    wanted = (None, 0) if number in _ONCE else (IMAGING_VISIT,)
    return number if number in fields() and instance in wanted else None
