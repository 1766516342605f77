"""Which ECG goes with which CMR, and what is the same recording once more."""

import tracemalloc

import pytest

from cardionets_core.preparation.identity import Salt
from cardionets_core.preparation.studies import Recording, crowded, same_again, studies_of

SALT = Salt("the secret of a site, long enough")


def rec(item, day=None, patient="p", **more):
    return Recording(item, "cmr" if item.startswith("c") else "ecg", patient, day, **more)


def pairs(recordings, days=365):
    return sorted(s.items for s in studies_of(recordings, salt=SALT, pair_days=days))


@pytest.mark.parametrize(
    ("recordings", "expected"),
    [
        ([rec("e1", 10), rec("c1", 12)], [("e1", "c1")]),
        ([rec("e1", 10), rec("c1", 376)], [("c1",), ("e1",)]),
        ([rec("e1", 10), rec("e2", 90), rec("c1", 60)], [("e1",), ("e2", "c1")]),
        # the closest pair first: c2 takes e1, c1 is left with e2
        ([rec("e1", 10), rec("e2", 99), rec("c1", 14), rec("c2", 9)], [("e1", "c2"), ("e2", "c1")]),
        ([rec("e1", 10), rec("c1", 12, "q")], [("c1",), ("e1",)]),
        ([rec("e1"), rec("c1", 12)], [("e1", "c1")]),
        ([rec("e1"), rec("c1")], [("e1", "c1")]),
        ([rec("e1"), rec("e2", 12), rec("c1")], [("c1",), ("e1",), ("e2",)]),
        # phenotypes without a cine serve an ECG, and are no study alone
        ([rec("e1", 1), rec("c1", 1, has_files=False)], [("e1", "c1")]),
        ([rec("c1", 1, has_files=False)], []),
    ],
)
def test_pairs(recordings, expected):
    assert pairs(recordings) == expected == pairs(recordings[::-1])


def test_an_id_with_very_many_recordings_is_not_paired():
    own = [rec(f"e{k}", k) for k in range(50)]
    assert sum(len(items) == 2 for items in pairs([*own, rec("c1", 3)])) == 1
    many = [*own, rec("e50", 50), rec("c1", 3)]
    assert all(len(items) == 1 for items in pairs(many)) and crowded(many) == {"p"}
    assert crowded(own) == crowded(many[:-1]) == set()  # nothing to pair


def test_pairs_of_an_id_of_thousands_cost_nothing():
    many = [rec(f"{m}{k}", k % 700) for m, n in (("e", 4000), ("c", 500)) for k in range(n)]
    tracemalloc.start()
    try:
        assert len(pairs(many)) == 4500
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_the_distance_is_the_sites_choice():
    assert pairs([rec("e1", 10), rec("c1", 12)], days=1) == [("c1",), ("e1",)]


def test_studies_are_sorted_and_named_by_their_items():
    studies = studies_of([rec("e2", 1, "q"), rec("e1", 1), rec("c1", 1)], salt=SALT, pair_days=365)
    assert [s.patient for s in studies] == ["p", "q"]
    assert studies[0].study_id == SALT.study_key(("c1", "e1")) != studies[1].study_id


def test_an_ecg_that_was_exported_twice_counts_once():
    at = {"moment": "m"}
    low = rec("e1", 1, kind="wfdb", rate_hz=100.0, content="x", **at)
    high = rec("e2", 1, kind="wfdb", rate_hz=500.0, content="y", **at)
    xml = rec("e3", 1, kind="hl7_aecg", rate_hz=500.0, content="z", **at)
    assert same_again([low, high]) == {"e1"}
    assert same_again([low, high, xml]) == {"e1", "e3"}
    # of one kind and rate, two of a minute are two; so are those of two moments
    second = rec("e4", 1, kind="wfdb", rate_hz=500.0, content="v", **at)
    assert same_again([high, second]) == set()
    later = rec("e5", 1, kind="wfdb", rate_hz=100.0, content="u", moment="n")
    assert same_again([high, later]) == set()


def test_exact_copies_of_one_patient_count_once():
    assert same_again([rec("e1", content="x"), rec("e2", content="x")]) == {"e2"}
    assert same_again([rec("e1", content="x"), rec("e2", patient="q", content="x")]) == set()
    assert same_again([rec("c1"), rec("c2")]) == set()  # no signal is no copy
