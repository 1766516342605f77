"""docs/privacy.md says what leaves a private site: as the door lets it out, every word of it."""

from __future__ import annotations

from dataclasses import fields

from cardionets_core.errors import SITE_ERROR_CODES
from cardionets_core.privacy_config import PrivacyReport
from client.release import HIDDEN, RELEASED
from tests.privacy_page import codes, listed, listed_under_secure_sums, section

DECIDE = {"constants", "ledger", "noisy weights", "machine", "records"}


def test_the_tables_are_what_the_door_lets_out():
    """A secure answer's `delta` is the one array that the page names in its place."""
    door = {(kind, field) for kind, names in RELEASED.items() for field in names}
    page = listed()
    for question, item in listed_under_secure_sums():
        kind = f"secure {question}"
        page |= {(kind, "delta" if item == HIDDEN[kind] else item)}
    # Of what lies inside a field, a row of its own may speak (array names of `delta`).
    assert {pair for pair in page if pair[1] not in {"latent_mean", "latent_square"}} == door


def test_the_row_of_the_report_names_all_that_is_in_it():
    (row,) = [
        line for line in section("What leaves").splitlines() if line.startswith("| `privacy`")
    ]
    assert [f.name for f in fields(PrivacyReport) if f.name not in row] == []


def test_every_code_stands_there_with_what_decides_it():
    assert set(codes()) == set(SITE_ERROR_CODES)
    assert all(words and words <= DECIDE for words in codes().values())


def test_codes_that_records_can_decide_are_among_what_is_not_covered():
    (errors,) = [e for e in section("What is not covered").split("\n- ") if "**Errors" in e]
    told = {code for code, words in codes().items() if "records" in words}
    assert told == {code for code in SITE_ERROR_CODES if f"`{code}`" in errors}
