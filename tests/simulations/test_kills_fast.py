"""kill -9 of a ServerApp, a SuperNode and a client process: nothing is lost, to the bit.

Real processes under real supervision; `make faults` does the whole matrix (test_kills.py).
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest

from server.status_file import StatusFile, Submission, write_submission
from simulations.faults import figures_kills, plan
from simulations.faults.early import Early, early_faults
from simulations.faults.harness import Hit, Ran, Watch, federate, undisturbed
from simulations.faults.kills import STAGE, Verdict, compare, hospitals, kill_plan
from simulations.faults.long_training import Holding

ROUNDS = 3


@pytest.mark.engine
@pytest.mark.timeout(1800)
def test_a_run_that_is_hit_at_both_ends_ends_with_the_weights_of_the_one_that_is_not(tmp_path):
    """The undisturbed run goes through one process: engines give the same bits."""
    config, sites = kill_plan(ROUNDS), hospitals(tmp_path)
    one, other = sorted(sites)
    faults = (
        plan.Fault("mid_aggregation", "ServerApp", STAGE, 2),
        plan.Fault("packed", "SuperNode", STAGE, 2, one),
        plan.Fault("mid_epoch", "client process", STAGE, 3, other),
    )
    hit = federate(tmp_path / "hit", config, sites, faults)
    calm = undisturbed(tmp_path / "calm", config, sites)
    verdict = compare(hit, calm)
    assert verdict.failed == () and set(verdict.survived) == set(faults)
    assert verdict.whole and verdict.memory and verdict.lost == 0


CALM = Ran(
    weights="w",
    rounds={"ecg_masked-1": "a", "ecg_masked-2": "b"},
    sites={"ecg_masked-1": ["n", "r"], "ecg_masked-2": ["n", "r"]},
    repeated=[],
    memory={"n/m": "x"},
    hits=(),
    missed=(),
    seconds=1.0,
)
FAULT = plan.Fault("trained", "client process", STAGE, 2, "n")


def hit(**changes):
    return Ran(**(vars(CALM) | {"hits": (Hit(FAULT, 1.0, 2.0),)} | changes))


def test_what_is_not_the_same_is_named():
    verdict = compare(hit(), CALM)
    assert verdict.whole and verdict.memory and verdict.count("client process") == 1
    assert verdict.failed == () and verdict.recovered_s == (2.0,)
    other = CALM.rounds | {"ecg_masked-2": "c"}
    alone = CALM.sites | {"ecg_masked-2": ["r"]}
    for changes, words in (
        ({"rounds": other}, "other weights"),
        ({"sites": alone}, r"sites ['r']"),
        ({"repeated": ["ecg_masked-2"]}, "a finished round was done again"),
        ({"hits": (), "missed": (FAULT,)}, "it did not happen"),
    ):
        verdict = compare(hit(**changes), CALM)
        assert verdict.survived == () and words in verdict.failed[0], changes
        assert verdict.failed[0].startswith("client process at trained (n): ")
    assert not compare(hit(weights=""), CALM).whole
    assert not compare(hit(memory={"n/m": "y"}), CALM).memory


def test_a_kill_after_which_no_task_came_is_infinitely_long_unless_the_site_mends_it(tmp_path):
    link = plan.Fault("sent_none", "SuperLink", STAGE, 1)
    app = plan.Fault("all_replies", "ServerApp", STAGE, 1)
    watch = Watch(None, tmp_path, (), times={link: 10.0, FAULT: 20.0, app: 30.0})
    watch.tasks, watch.answers = [9.0, 14.0], [11.5]
    found = {one.fault: (one.recovered_s, one.answered_s) for one in watch.hits()}
    assert found == {link: (4.0, 1.5), FAULT: (None, None), app: (math.inf, None)}
    watch.tasks, watch.answers = [22.0], []
    found = {one.fault: (one.recovered_s, one.answered_s) for one in watch.hits()}
    assert found == {link: (12.0, math.inf), FAULT: (2.0, None), app: (math.inf, None)}


def test_a_long_training_is_held_until_the_next_server_has_spoken(tmp_path):
    slow, began = plan.Slow(STAGE, 2, "n", seconds=0.0), time.time()
    assert slow.asked == f"mid_epoch@{STAGE}-2@n.hold"
    plan.ask_for([slow], tmp_path)
    held = Holding(slow, tmp_path, tmp_path)
    held.look()
    reached = (tmp_path / slow.asked).rename(tmp_path / f"{slow.asked}.reached")
    reached.write_text(f"12 {began}")
    StatusFile(tmp_path, flower_run=2).close()
    for submitted in (Submission(2, began - 1.0), Submission(3, began + 1.0)):
        write_submission(tmp_path, submitted)
        held.look()
        assert reached.exists() and not held.outlived
    write_submission(tmp_path, Submission(2, began + 1.0))
    held.look()
    assert held.outlived and not reached.exists()


def test_a_training_is_not_held_for_ever(tmp_path):
    slow = plan.Slow(STAGE, 2, "n", longest_s=5.0)
    reached = tmp_path / f"{slow.asked}.reached"
    reached.write_text(f"12 {time.time() - 6.0}")
    held = Holding(slow, tmp_path, tmp_path)
    held.look()
    assert not held.outlived and not reached.exists()


def test_early_kills_come_before_round_2_or_while_another_site_trains():
    faults, slow = early_faults(["n", "r"])
    assert [fault.asked for fault in faults] == [
        "plan_stored.kill",
        "received@handshake-1@r.hold",
        "saved_not_committed@handshake-1.kill",
        f"some_replies@{STAGE}-1.kill",
        f"some_replies@{STAGE}-2.kill",
    ]
    assert (slow.round, slow.site) == (2, "n")


def test_an_early_federation_tells_what_was_wrong():
    faults = early_faults(["n", "r"])[0]
    verdict = Verdict(True, faults[:2], ("ServerApp at some_replies: other weights",), 0, True, ())
    early = Early(faults, verdict, outlived=False)
    assert (early.count("ServerApp"), early.count("SuperNode")) == (
        "ServerApp 1/4",
        "SuperNode 1/1",
    )
    assert early.wrong == [
        "early: ServerApp at some_replies: other weights",
        "early: no training outlived its ServerApp",
    ]


def verdict_of(recovered_s, answered_s=()):
    return Verdict(True, (), (), 0, True, recovered_s, answered_s)


@pytest.mark.parametrize(
    ("app", "link", "met"),
    [
        ((4.0, 6.0), (2.0, 14.0), True),
        ((4.0, 16.0), (2.0,), False),
        ((4.0,), (2.0, 16.0), False),
        ((math.inf,), (2.0,), False),
        ((4.0,), (math.inf,), False),
        ((), (2.0,), False),
        ((4.0,), (), False),
    ],
)
def test_no_kill_of_the_coordinator_is_left_out_of_its_recovery(
    tmp_path, monkeypatch, app, link, met
):
    killed = {"ServerApp": verdict_of(app), "SuperLink": verdict_of((20.0,), link)}
    monkeypatch.setattr(figures_kills, "server_killed", lambda folder, victim: killed[victim])
    monkeypatch.setattr(figures_kills, "flower_2", lambda folder: "")
    row = figures_kills.figure_2(tmp_path)
    assert row.met is met
    assert "the rest of the round in hand included: median 20.0 s, longest 20.0 s" in row.ours


@pytest.mark.parametrize("outlived", [True, False])
def test_the_early_kills_count_at_both_ends(tmp_path, monkeypatch, outlived):
    faults, calm = early_faults(["n", "r"])[0], verdict_of(())
    early = Early(faults, replace(calm, survived=faults), outlived)
    monkeypatch.setattr(figures_kills, "early_killed", lambda folder: early)
    monkeypatch.setattr(figures_kills, "server_killed", lambda folder, victim: calm)
    monkeypatch.setattr(figures_kills, "site_killed", lambda folder: calm)
    for number in (1, 3):
        monkeypatch.setattr(figures_kills, f"flower_{number}", lambda folder: "")
    one, three = figures_kills.figure_1(tmp_path), figures_kills.figure_3(tmp_path)
    assert "ServerApp): ServerApp 4/4" in one.ours and "SuperNode 1/1" in three.ours
    assert one.met is three.met is outlived
    assert ("no training outlived" in one.ours) is not outlived


def test_a_fault_is_asked_for_at_its_place():
    asked = {f.asked for f in plan.one_per_round(("sent_some",), "ServerApp", stage="s", first=2)}
    assert asked == {"sent_some@s-2.kill"}
    assert plan.Fault("plan_stored", "SuperLink", "s", 2).asked == "plan_stored.hold"
    assert plan.Fault("packed", "SuperNode", "s", 2, "n").asked == "packed@s-2@n.hold"
    # After the reply was taken no process of the site is left to hold.
    assert plan.Fault("acknowledged", "SuperNode", "s", 2, "n").asked == "all_replies@s-2.hold"


def test_a_fault_that_was_met_says_who_and_when(tmp_path):
    fault = plan.Fault("packed", "SuperNode", "s", 2, "n")
    plan.ask_for([fault], tmp_path)
    assert fault.met(tmp_path) is None
    reached = (tmp_path / fault.asked).rename(tmp_path / f"{fault.asked}.reached")
    assert fault.met(tmp_path) is None  # not written yet
    reached.write_text("12 34.5")
    assert fault.met(tmp_path) == (12, 34.5)
    fault.release(tmp_path)
    assert list(tmp_path.iterdir()) == []
