"""Markup and numbers of a report page."""

from __future__ import annotations

import pytest

from server.report.page import NONE, Row, Section, Table, Text, interval, number, render


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
