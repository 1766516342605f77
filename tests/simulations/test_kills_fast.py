"""kill -9 of a ServerApp, a SuperNode and a client process: nothing is lost, to the bit.

Real processes under real supervision; `make faults` does the whole matrix (test_kills.py).
"""

from __future__ import annotations

import pytest

from simulations.faults import plan
from simulations.faults.harness import Hit, Ran, federate, undisturbed
from simulations.faults.kills import STAGE, compare, hospitals, kill_plan

ROUNDS = 3


@pytest.mark.engine
def test_a_run_that_is_hit_at_both_ends_ends_with_the_weights_of_the_one_that_is_not(tmp_path):
    """The undisturbed run goes through one process: engines give the same bits."""
    config, sites = kill_plan(ROUNDS), hospitals(tmp_path)
    one, other = sorted(sites)
    faults = (
        plan.Fault("mid_aggregation", "ServerApp", STAGE, 2),
        plan.Fault("packed", "SuperNode", STAGE, 2, one),
        plan.Fault("mid_epoch", "client process", STAGE, 3, other),
    )
    hit = federate(tmp_path / "hit", config, sites, faults, patience_s=300)
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
