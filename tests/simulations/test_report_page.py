"""Parts of the report without a run: the choice of patients, markup, numbers."""

from __future__ import annotations

import numpy as np
import pytest

from simulations.report_page import NONE, Row, Section, Table, Text, interval, number, render
from simulations.report_patients import Candidate, choose_patients


def test_choice_varies_diagnosis_and_mass() -> None:
    masses = np.linspace(60, 200, 40)
    many = [Candidate("a", i, "" if i % 4 else "hcm", float(m)) for i, m in enumerate(masses)]
    many += [Candidate("b", i, "mi", float(m)) for i, m in enumerate(masses + 1)]
    chosen = choose_patients(many)
    assert len(chosen) == len(set(chosen)) == 6
    assert sorted(c.diagnosis for c in chosen) == ["", "", "hcm", "hcm", "mi", "mi"]
    assert [c.lv_mass for c in chosen] == sorted(c.lv_mass for c in chosen)
    assert chosen[0].lv_mass < 80 and chosen[-1].lv_mass > 180
    assert choose_patients(many[::-1]) == chosen
    assert choose_patients([*many[:3], Candidate("c", 0, "", float("nan"))]) == choose_patients(
        many[:3]
    )


def test_markup_in_a_cell_is_text() -> None:
    table = Table("c", ("a", "b"), (Row("<script>x</script>", ("<b>",)),))
    page = render(title="t", lead=(Text("<i>"),), sections=(Section("s", "S", (table,)),))
    assert "<script>" not in page and "<b>" not in page and "<i>" not in page


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [(-0.004, 2, "0.00"), (-1.5, 1, "\N{MINUS SIGN}1.5"), (12345.6, 0, "12,346"), (None, 2, NONE)],
)
def test_numbers(value: float | None, digits: int, shown: str) -> None:
    assert number(value, digits) == shown


def test_interval_without_bounds() -> None:
    assert interval({"value": 0.5, "low": None, "high": None}) == "0.50"
    assert interval({"value": 0.5, "low": 0.4, "high": 0.61}) == "0.50 (0.40 to 0.61)"
    assert interval({"value": None, "low": None, "high": None}) == interval(None) == NONE
