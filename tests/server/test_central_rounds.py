"""Client-level privacy in rounds: equal weights, clipped, noised; what cannot be with it."""

from __future__ import annotations

import json

import pytest

from cardionets_core.errors import ConfigError
from server.central import check_central_plan
from simulations.faults.small import NANO, plan
from tests.narrow_hospital import NARROW_RUN

WORDS = (
    *NARROW_RUN,
    "stages=[handshake,ecg_masked]",
    "stage.ecg_masked.lr_floor=1.0",  # the first round of one is that of the first of two
    "central_privacy.noise=0.3",
    "central_privacy.clip=0.01",
    "screening.norm_factor=0",
)


@pytest.mark.slow  # mechanism, noise and cost line by themselves: test_central
def test_a_run_says_what_it_cost_and_draws_fresh_noise(federate, ecg_hospitals, nano, tmp_path):
    """Two runs whose first rounds differ in nothing but their noise end them with other weights."""
    sites = {name: ecg_hospitals[name] for name in ("hill", "north")}
    marks = []
    for rounds in (2, 1):
        folder = tmp_path / f"of_{rounds}"
        federate(folder, sites, *nano, *WORDS, f"stage.ecg_masked.rounds={rounds}")
        summary = json.loads((folder / "summary.json").read_text())
        done = [r for r in summary["rounds"] if r["stage"] == "ecg_masked"]
        cost = done[-1]["central_privacy"]
        assert cost["sites"] == len(sites) and cost["rounds"] == len(done) == rounds
        assert cost["epsilon"] > 1 and cost["per_round"] > 1
        marks.append(done[0]["weights"])
    assert marks[0] != marks[1]


@pytest.mark.parametrize(
    ("word", "match"),
    [
        ("strategy.name=median", "no sum of clipped updates"),
        ("screening.norm_factor=5", "judges an update by those of other"),
        ("secure_aggregation.enabled=true", "sees no single update"),
        ("stage.ecg_masked.partial=fednova", "weighs sites by their steps"),
    ],
)
def test_what_it_cannot_be_combined_with_is_refused(word, match):
    config = plan("central", (*NANO, *WORDS, word, "min_sites=3"), sites=3)
    with pytest.raises(ConfigError, match=match):
        check_central_plan(config)
