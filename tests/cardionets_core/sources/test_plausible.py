"""What is taken from a header about a person, and what is written there of nobody."""

from math import isnan, nan

import pytest

from cardionets_core.sources.plausible import age_of, height_of, patient_of, weight_of
from cardionets_core.sources.table_cells import identifiers


@pytest.mark.parametrize(
    "written",
    [
        *"ANONYMOUS anonymized Anonymised anon. unknown UNBEKANNT Test none NULL missing".split(),
        *"n/a N.N. 0 000000 99999 9999999 xx XXXX ? -- *** 0000-00-00 [unknown] no_name".split(),
        *("", "  ", " Un known ", "no patient id", "Anonymous^Patient"),
    ],
)
def test_what_is_written_where_there_is_no_id(written):
    assert patient_of(written) == ""


@pytest.mark.parametrize(
    "written",
    [
        "A1",
        "007",
        "9999",
        "x12",
        "Anon-17",
        "test3",
        "Nullmeier",
        "10000032",
        "P-0",
        "M\u00fcller",
        "李",
    ],
)
def test_ids_stay_as_they_are(written):
    assert patient_of(f" {written} ") == written


def test_placeholders_of_a_table_are_counted_apart_from_empty_cells():
    ids, wrong = identifiers(["A1", "", "ANONYMOUS", "0000"])
    assert ids == ["A1", "", "", ""]
    assert wrong["empty"].tolist() == [False, True, False, False]
    assert wrong["a placeholder, no patient"].tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("taken", "least", "most", "beyond"),
    [
        (age_of, 0.0, 120.0, (-1.0, 300.0)),
        (height_of, 30.0, 250.0, (1.8, 0.0, 1800.0)),
        (weight_of, 0.3, 400.0, (0.0, -70.0, 70_000.0)),
    ],
)
def test_a_number_that_nobody_can_have_is_not_taken(taken, least, most, beyond):
    assert (taken(least), taken(most)) == (least, most)
    assert all(isnan(taken(value)) for value in (*beyond, nan))
