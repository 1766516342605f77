"""What a report says of privacy where no ledger was kept, and of what the run began with."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cardionets_core.privacy.central import CentralCost
from server.report.facts import Simulated, lead
from server.report.page import Section, Text
from server.report.privacy import NOT_PRIVATE, privacy_sections
from server.report.run import facts_section

COST = CentralCost(3, 12, 1000, epsilon=5.23, delta=1e-5, per_round=40.0, per_run=3.0)
SIMULATION = Simulated(titles={}, virtual=frozenset())


def _facts(simulated: Simulated | None = None, **changes: Any) -> Any:
    summary: dict[str, Any] = {
        "run": "x", "status": "COMPLETED", "seconds": 1.0, "preset": "tiny", "seed": 1,
        "config_hash": "c", "weights_sha256": "w", "versions": {}, "stages": [], "sites": {},
        "rounds": [], "machine": {"platform": "p", "cpus": 2}, "strategy": {"name": "fedavg"},
        "privacy": {"mode": "none", "sites": {}}, "start": {}, "virtual": False,
    }  # fmt: skip
    return SimpleNamespace(
        folder=Path("elsewhere/x"),
        simulated=simulated,
        summary=summary | changes,
        config=SimpleNamespace(secure_aggregation=SimpleNamespace(enabled=False)),
        sites=["hill", "north"],
        title=str,
        trained=lambda stage: False,
        known=lambda section, names: [],
        errors=lambda *sites: None,
        drowned=lambda *asked: False,
        pooled={},
        bytes_moved=0,
        info=SimpleNamespace(phenotypes=(), diseases=()),
    )


def _texts(sections: tuple[Section, ...]) -> list[str]:
    return [b.text for section in sections for b in section.blocks if isinstance(b, Text)]


def _rows(facts: Any) -> dict[str, str]:
    table = facts_section(facts, record=None).blocks[0]
    return {row.head: row.cells[0] for row in table.rows}  # type: ignore[union-attr]


def test_a_run_without_privacy_says_so_where_patients_are_real() -> None:
    assert _texts(privacy_sections(_facts())) == [NOT_PRIVATE]
    assert privacy_sections(_facts(SIMULATION)) == ()
    assert _rows(_facts())["Differential privacy"] == "none (no epsilon is claimed)"


@pytest.mark.parametrize("simulated", [None, SIMULATION])
def test_client_level_privacy_is_not_taken_for_that_of_patients(
    simulated: Simulated | None,
) -> None:
    rounds = [{"stage": "handshake"}, {"stage": "diseases", "central_privacy": asdict(COST)}]
    told = _texts(privacy_sections(_facts(simulated, rounds=rounds)))
    assert told[-1].startswith("Client-level privacy: epsilon 5.2 per hospital at delta 1e-05")
    assert "no patient from the coordinator" in told[-1]
    assert (told[0] == NOT_PRIVATE) == (simulated is None)


def test_what_a_run_began_with_and_who_saw_the_updates() -> None:
    rows = _rows(_facts())
    assert rows["Began with"] == "random weights"
    assert rows["Secure aggregation"] == "none: the coordinator saw each hospital's update"
    start = {"parts": ["ecg_encoder"], "sha256": "f00d", "stages": [], "virtual": True}
    facts = _facts(start=start)
    facts.config.secure_aggregation.enabled = True
    rows = _rows(facts)
    assert rows["Began with"].startswith("ecg_encoder of the weights with SHA-256 f00d, of a run")
    assert "does not cover who trained those" in rows["Began with"]
    assert "no hospital's own" in rows["Secure aggregation"]


@pytest.mark.parametrize("start", [{}, {"sha256": "f00d"}])
def test_virtual_patients_that_only_the_plan_knows_of_are_said(start: dict[str, str]) -> None:
    said = lead(_facts(virtual=True, start=start))[1]
    assert isinstance(said, Text) and "such patients are at some of its hospitals" in said.text
    assert ("trained the model that it began with" in said.text) == bool(start)
