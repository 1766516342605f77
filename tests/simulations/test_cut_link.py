"""A site whose link goes in the middle of an upload, as real processes.

Plain Flower may lose the reply in such a cut: an object whose answer was lost is refused when it is
sent again, and the SuperNode then drops the whole reply.
"""

from __future__ import annotations

import pytest

from simulations.faults.figures_link import calm, config_of, over_link
from simulations.faults.link import Cut
from simulations.faults.small import ecg_hospitals

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]


def test_an_upload_that_is_cut_at_half_goes_on_where_it_stopped(tmp_path):
    sites = ecg_hospitals(tmp_path, 2)
    first = next(iter(sites))
    reference = calm(tmp_path / "calm", config_of("calm", rounds=1, sites=2), sites)
    half = reference.rounds[0]["bytes_up"][first] // 2

    cut = Cut("up", message=1, at_bytes=half, seconds=1.0)
    crossed = over_link(tmp_path / "real", config_of("real", rounds=1, sites=2), sites, cuts=[cut])
    assert crossed.cuts == 1 and crossed.aborted(2) == 0
    assert crossed.weights == reference.weights != ""
    assert [e["message"] for e in crossed.events if e["event"] == "cut"] == [1]
    sent = [e for e in crossed.events if e["event"] == "object" and e["way"] == "up"]
    assert {e["message"] for e in sent} == {0, 1}
    # What had arrived before the cut is not sent again, but for what the cut left unanswered.
    broken = [e for e in sent if e["passed"] < e["size"]]
    unanswered = [e["size"] for e in crossed.events if e["event"] == "unanswered"]
    assert broken or unanswered
    again = crossed.resent() + sum(unanswered)
    assert sum(e["passed"] for e in sent) - again < 2 * half + 20_000
