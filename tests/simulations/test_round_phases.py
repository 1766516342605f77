"""Where the time of a round goes: read from notes with hand-made times."""

from __future__ import annotations

import pytest

from simulations.faults.round_phases import (
    STAGE,
    Comparison,
    flower_rounds,
    median_phases,
    our_rounds,
)


def trace(number, begun, *, slow=0.0):
    """Return the notes of one of our rounds; the site `b` answers last."""

    def note(point, seconds, site=""):
        return {
            "point": point,
            "round": f"{STAGE}-{number}",
            "site": site,
            "time": begun + seconds,
        }

    return [
        note("between_rounds", 0.0),
        note("sent_none", 0.1),
        note("sent_some", 0.2),
        note("no_replies", 0.3),
        *(note("received", 1.0 + d, s) for s, d in (("a", 0.0), ("b", slow))),
        *(note("loading", 1.4 + d, s) for s, d in (("a", 0.0), ("b", slow))),
        *(note("loaded", 1.5 + d, s) for s, d in (("a", 0.0), ("b", slow))),
        *(note("trained", 2.5 + d, s) for s, d in (("a", 0.0), ("b", slow))),
        *(note("packed", 2.6 + d, s) for s, d in (("a", -0.01), ("b", slow))),
        note("all_replies", 3.0 + slow),
        note("aggregated_not_saved", 3.1 + slow),
        note("committed_not_announced", 3.3 + slow),
    ]


def test_our_phases_add_up_to_the_round_and_training_is_not_among_them():
    handshake = [
        {"point": "plan_stored", "time": 0.0, "pid": 1},
        {"point": "received", "round": "handshake-1", "site": "a", "time": 1.0},
    ]
    entries = [*handshake, *trace(1, 10.0), *trace(2, 14.0, slow=1.0), *trace(3, 20.0)]
    first, second = our_rounds(entries)
    assert (first.number, second.number) == (1, 2)  # the third has no end
    assert first.total == pytest.approx(4.0) and first.compute == pytest.approx(1.0)
    assert first.overhead == pytest.approx(3.0) == pytest.approx(sum(first.phases.values()))
    assert second.overhead == pytest.approx(5.0)
    assert second.phases["queue and start of the app"] == pytest.approx(1.7)  # the slow site's
    assert first.phases["log"] == pytest.approx(0.7)  # until the next round begins
    assert median_phases([first, second])["save"] == pytest.approx(0.2)


def noted(step, time, number=1, **more):
    return {"step": step, "time": time, "round": number, **more}


def test_flowers_phases_hold_both_of_its_stages():
    entries = [
        {"step": "started", "time": 0.0},
        noted("train_sent", 1.0),
        *(noted("train_begun", t, site=s) for s, t in (("a", 4.0), ("b", 5.0))),
        *(noted("train_loaded", t, site=s) for s, t in (("a", 6.0), ("b", 6.5))),
        *(noted("train_done", t, site=s) for s, t in (("a", 7.0), ("b", 7.5))),
        *(noted("train_packed", t, site=s) for s, t in (("a", 7.1), ("b", 7.6))),
        noted("train_back", 9.0),
        noted("evaluate_sent", 9.5),
        noted("evaluate_begun", 12.0, site="a"),
        noted("evaluate_loaded", 13.0, site="a"),
        noted("evaluate_done", 13.5, site="a"),
        noted("round_done", 16.0),
        noted("train_sent", 16.0, number=2),
    ]
    (only,) = flower_rounds(entries)
    assert only.total == pytest.approx(15.0) and only.compute == pytest.approx(1.5)
    assert only.phases["queue and start of the app"] == pytest.approx(4.0)  # of the last to answer
    assert only.phases["evaluate: back"] == pytest.approx(2.5)
    assert only.overhead == pytest.approx(sum(only.phases.values()))


def test_the_ratio_is_that_of_the_medians():
    ours = our_rounds([*trace(1, 0.0), *trace(2, 4.0), *trace(3, 8.0), *trace(4, 12.0)])
    assert Comparison(2, 1, tuple(ours), tuple(ours)).ratio == pytest.approx(1.0)
