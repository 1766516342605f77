"""Which memory the tasks of a round name."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from server.memory import generations, named, remembers


def a_plan(local=(), codec="float32", strategy="fedavg"):
    return SimpleNamespace(
        local_parts=local,
        wire=SimpleNamespace(codec=codec),
        strategy=SimpleNamespace(name=strategy),
    )


HISTORY = [
    {"stage": "handshake", "round": 1, "accepted": ["a", "b"]},
    {"stage": "ecg_masked", "round": 1, "accepted": ["a", "b"]},
    {"stage": "ecg_masked", "round": 2, "accepted": ["a"]},
    {"stage": "phenotypes", "round": 1, "accepted": ["b"]},
    {"stage": "evaluate", "round": 1, "accepted": ["a", "b"]},
]


@pytest.mark.parametrize(
    ("plan", "remembered"),
    [
        (a_plan(), False),
        (a_plan(local=("ecg_decoder",)), True),
        (a_plan(codec="int8"), True),
        (a_plan(strategy="scaffold"), True),
    ],
)
def test_a_memory_is_named_only_where_sites_remember(plan, remembered):
    assert remembers(plan) is remembered
    assert bool(generations(plan, HISTORY)) is remembered


def test_a_site_goes_on_from_its_last_used_update():
    used = generations(a_plan(codec="int8"), HISTORY)
    assert named(used["a"], lost=False) == "ecg_masked/2"
    assert named(used["b"], lost=False) == "phenotypes/1"
    assert named(used.get("new", ()), lost=False) == ""


def test_a_site_that_has_lost_it_is_asked_for_the_one_before_or_nothing():
    used = generations(a_plan(codec="int8"), HISTORY)
    assert named(used["b"], lost=True) == "ecg_masked/1?"
    assert named(["ecg_masked/1"], lost=True) == named((), lost=True) == ""
