"""A private site that dies in a round: it has paid for all that left, and says nothing twice."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from cardionets_core.privacy.ledger import Ledger
from simulations.privacy import round_crashes
from simulations.privacy.round_crashes import (
    PLACES,
    Crash,
    Place,
    _complaint,
    crashes,
    digest,
    private_site,
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return private_site(tmp_path_factory.mktemp("west"))


@pytest.fixture(autouse=True)
def one_thread(torch_as_it_was):
    torch.set_num_threads(1)  # a child may not wait for its parent's threads


def test_at_every_phase_of_a_round_no_more_is_released_than_charged(site):
    found = list(crashes(site))
    assert [c.place for c in found] == list(PLACES)
    assert not [c for c in found if c.complaint]
    paid = {(c.place.action, c.place.point): (c.killed, c.replayed, c.repeated) for c in found}
    assert paid["train", "received"] == paid["train", "loaded"] == (0, 1, 1)
    assert paid["train", "charged"] == paid["train", "mid_epoch"] == (1, 2, 2)
    for kept in ("ledger_written", "packed", "sent"):
        assert {paid[action, kept] for action in ("train", "fit", "score")} == {(1, 1, 1)}
    assert all(c.released == 1 for c in found)


def test_a_site_that_charges_nothing_is_found(site, monkeypatch):
    monkeypatch.setattr(round_crashes, "_header", partial(in_another_run, round_crashes._header))
    monkeypatch.setattr(round_crashes, "PLACES", (Place("fit", "sent", kept=True),))
    monkeypatch.setattr(Ledger, "reserve_together", lambda *_: None)
    (found,) = crashes(site)
    assert found.complaint == "1 different answers for 0 charges"


def in_another_run(header, action, number):
    return replace(header(action, number), run="another")


def test_what_would_be_wrong_is_said():
    kept, fresh = Place("train", "packed", kept=True), Place("train", "charged")
    good = Crash(kept, killed=1, replayed=1, repeated=1, released=1)
    assert not _complaint(good) and not _complaint(
        replace(good, place=fresh, replayed=2, repeated=2)
    )
    assert "2 different answers for 1" in _complaint(replace(good, released=2))
    assert "not sent again" in _complaint(replace(good, replayed=2, repeated=2, released=2))
    assert "not sent again" in _complaint(replace(good, repeated=2))
    assert "charged 0 times" in _complaint(replace(good, killed=0))
    assert "2 after the replay" in _complaint(replace(good, replayed=2, repeated=2))


def test_a_digest_is_of_every_byte():
    task = round_crashes._task("train", 1)
    assert digest(task) == digest(round_crashes._task("train", 1))
    assert digest(task) != digest(round_crashes._task("train", 2))  # another run's name
