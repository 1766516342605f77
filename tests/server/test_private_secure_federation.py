"""A federation with privacy and secure sums: what crosses the wire is what the page lists."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from cardionets_core.messages import Update
from cardionets_core.privacy.ledger import Ledger
from cardionets_core.secure_config import RESIDUES, SECURE
from cardionets_core.site_config import load_site_config
from tests.narrow_hospital import NARROW_RUN, narrowed
from tests.privacy_page import listed, listed_under_secure_sums
from tests.private_site import PRIVATE_RUN, make_private
from tests.secure_bench import keyed
from tests.server.overheard import overheard

PLAN = (
    *NARROW_RUN,
    *PRIVATE_RUN,
    "stages=[handshake,ecg_masked]",
    "stage.ecg_masked.max_steps=1",
    "stage.ecg_masked.min_sites=2",
    "screening.norm_factor=0",
    "secure_aggregation.enabled=true",
    "secure_aggregation.clip=1.0",
    "privacy.noise=5.0",
)


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory, write_hospital):
    """Site name -> YAML of three that sign, add to sums only and demand privacy; unlike in size."""
    folder = tmp_path_factory.mktemp("hidden")
    keys, sites = keyed(folder, ("east", "south", "west")), {}
    for name, preset, patients in (("east", "A", 12), ("south", "B", 12), ("west", "C", 8)):
        site = narrowed(write_hospital(folder, name, preset, patients=patients, ecg_only=True))
        sites[name] = make_private(
            site,
            secure_sites=2,
            modalities=["ecg", "phenotypes"],
            signing_key=keys[name].signing_key,
            peers=keys[name].peers,
        )
    return sites


@pytest.fixture(scope="module")
def wire(federate, hospitals, nano, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "hidden"
    return overheard(federate, folder, hospitals, (*nano, *PLAN))


def held(update):
    """Return the names of all that an answer holds; of `delta`, those of its arrays."""
    empty = Update("", "", "", 0)
    names = {f.name for f in fields(Update) if getattr(update, f.name) != getattr(empty, f.name)}
    return names - {"delta"} | {name for arrays in update.delta.values() for name in arrays}


def test_each_site_answers_each_question_once(wire, hospitals):
    assert wire.refused == [] and wire.trained == 3
    asked = [h.secure.phase if h.secure else h.action for h, _ in wire.answers]
    assert sorted(asked) == sorted(3 * ["describe", "keys", "shares", "train", "agree", "unmask"])
    for site in hospitals.values():
        with Ledger.read(load_site_config(site).privacy) as ledger:
            assert [item.what for item in ledger.items] == ["describe", "train"]


def test_what_crossed_the_wire_is_what_the_page_lists(wire):
    """Both ways, question by question: and nothing of an update but its residues."""
    described = {("describe", n) for h, u in wire.answers if not h.secure for n in held(u)}
    assert described == {pair for pair in listed() if pair[0] == "describe"}
    crossed = {(h.secure.phase, n) for h, u in wire.answers if h.secure for n in held(u)}
    assert crossed == listed_under_secure_sums()
    assert all(set(u.delta) == {SECURE} for h, u in wire.answers if h.secure)


def test_answers_of_a_question_are_of_one_size_whatever_the_hospital(wire):
    """Twelve patients or eight: shapes follow from the model and the number of sites."""
    for phase in ("keys", "shares", "train", "agree", "unmask"):
        shapes = {
            (name, array.dtype.name, array.shape)
            for header, update in wire.answers
            if header.secure and header.secure.phase == phase
            for name, array in update.delta[SECURE].items()
        }
        assert len(shapes) == 1


def test_residues_look_like_chance(wire):
    """Without its masks an update of small weights would fill few of the 2^32 values evenly."""
    for header, update in wire.answers:
        if header.secure and header.secure.phase == "train":
            highest = update.delta[SECURE][RESIDUES].reshape(-1, 4)[:, 3]
            counts = np.bincount(highest // 16, minlength=16)
            assert np.abs(counts / counts.sum() - 1 / 16).max() < 0.01
