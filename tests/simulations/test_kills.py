"""The kill matrices of the fault table: eleven phases at the coordinator, eight at a site."""

from __future__ import annotations

import pytest

from simulations.faults.client_kills import VICTIMS, site_killed
from simulations.faults.client_kills import points as site_points
from simulations.faults.early import early_killed
from simulations.faults.figures_kills import SERVERS
from simulations.faults.kills import points, server_killed
from simulations.faults.truth import displayed

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kills")


@pytest.mark.parametrize("victim", SERVERS)
def test_a_coordinator_loses_nothing_at_any_phase(folder, victim):
    verdict = server_killed(folder, victim)
    assert verdict.failed == ()
    assert verdict.count(victim) == len(points()) == 11
    assert verdict.whole and verdict.lost == 0 and verdict.memory


def test_a_site_loses_nothing_at_any_phase(folder):
    verdict = site_killed(folder)
    assert verdict.failed == ()
    assert [verdict.count(victim) for victim in VICTIMS] == [len(site_points())] * 2 == [8, 8]
    assert verdict.whole and verdict.memory


def test_nothing_is_lost_in_the_handshake_in_round_1_or_in_a_training_that_outlives_its_server(
    folder,
):
    early = early_killed(folder)
    assert early.wrong == [] and early.outlived
    assert (early.count("ServerApp"), early.count("SuperNode")) == (
        "ServerApp 4/4",
        "SuperNode 1/1",
    )
    assert early.verdict.whole and early.verdict.lost == 0 and early.verdict.memory


def test_the_displayed_state_is_the_true_one(tmp_path):
    truth = displayed(tmp_path)
    assert truth.last == f"INCOMPLETE({truth.site})" and truth.summary == "INCOMPLETE"
    assert any(state.startswith("RUNNING") for state in truth.states)
