"""What a coordinator reads when a run ends for want of sites: who must do what, and then what."""

from __future__ import annotations

import pytest

from cardionets_core.errors import SITE_ERROR_CODES
from server.refusals import NOT_ALONE, RESUME, SPENT_WAYS, WAYS, in_words, next_steps, too_few


def ended(refused, *, lacking=1, private=True, **more):
    what = f"1 of 2 sites answered (refused: {in_words(refused)})."
    return too_few(what, refused, private=private, lacking=lacking, **more)


def test_codes_are_explained_site_by_site_and_a_spent_budget_has_other_ways_out():
    said = str(ended({"b": "privacy_spent", "a": "data", "c": "late"}, lacking=3))
    assert "a: the site's data cannot be read. b: the site's privacy budget does" in said
    assert "c:" not in said.partition("). ")[2] and said.endswith(SPENT_WAYS)
    assert next_steps({"c": "late"}, private=True) == RESUME


@pytest.mark.parametrize("code", ["config", "privacy_ledger", "secure_aggregation"])
def test_what_a_hospital_must_mend_first_does_not_begin_with_resuming(code):
    said = str(ended({"north": code}))
    assert f"(refused: north: {code}). north: {SITE_ERROR_CODES[code]}. {NOT_ALONE} The" in said
    assert RESUME not in said and "{" not in said
    who, then = said.index("The hospital"), said.lower().index("then resume.")
    assert who < then == len(said) - len("then resume.")


def test_every_way_out_is_of_a_code_that_exists_and_says_how_the_run_goes_on():
    assert WAYS.keys() <= SITE_ERROR_CODES.keys()
    for code, way in WAYS.items():
        assert "resume" in way or "Submit" in way, code


@pytest.mark.parametrize(
    ("codes", "lacking", "helps"),
    [
        ({}, 1, True),
        ({"a": "late", "b": "data"}, 2, True),
        ({"a": "privacy_plan"}, 1, False),
        ({"a": "privacy_ledger"}, 1, False),
        ({"a": "config", "b": "secure_aggregation"}, 1, False),
        ({"a": "late", "b": "privacy_spent"}, 1, True),  # a alone would be enough
        ({"a": "late", "b": "privacy_spent"}, 2, False),
        ({"b": "config"}, 0, False),  # enough sites, and a part of b is lacking
        ({"a": "late", "b": "config"}, 0, True),
    ],
)
def test_an_end_says_whether_to_resume_helps(codes, lacking, helps):
    error = ended(codes, lacking=lacking)
    assert error.resume_helps is helps and error.sites == tuple(codes) and error.refused == codes
    assert (RESUME in str(error)) is helps and (NOT_ALONE in str(error)) is not helps
    assert ended(codes, missing=["c"]).sites == ("c",)


def test_the_first_advice_is_the_callers():
    assert str(ended({"a": "internal"}, otherwise="Look.")).endswith("log says why. Look.")


def test_of_a_plan_that_sites_do_not_allow_the_one_true_cause_is_named():
    private, plain = (str(ended({"a": "privacy_plan"}, private=p)) for p in (True, False))
    assert "The plan is private" in private and "privacy.mode=none" not in private
    assert "The plan has privacy.mode=none" in plain and "least noise" not in plain


def test_one_way_out_of_two_codes_is_said_once():
    said = str(ended({"a": "refused_stage", "b": "refused_cohort"}))
    assert said.count("section `policy`") == 1


def test_codes_in_a_sentence_are_for_people():
    assert in_words({"north": "config", "hill": "late"}) == "hill: late, north: config"
    assert in_words({}) == "none"
