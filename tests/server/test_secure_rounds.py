"""Secure rounds from the server's side: exact whoever drops out, and nothing single to be seen."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import server.secure_rounds
import server.secure_session
from cardionets_core.errors import ConfigError, IncompleteError, RunError
from cardionets_core.messages import Update, payload_bytes, update_to_records
from cardionets_core.privacy.secure_aggregation.protocol import Secrets
from cardionets_core.privacy.secure_aggregation.thresholds import lowest_threshold
from cardionets_core.secure_config import RESIDUES, SECURE
from client.secure_session import SessionFile
from server.opened import FILE, opened_over
from tests.secure_bench import Federation, update_of

PHASES = ("keys", "shares", "train", "agree", "unmask")
NEVER = -1


def same(got, expected):
    return all(
        np.array_equal(got[part][name], values)
        for part, arrays in expected.items()
        for name, values in arrays.items()
    )


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("gone", [0, 1, 2])
def test_the_mean_is_exact_with_drop_outs_at_each_phase(tmp_path, phase, gone):
    federation = Federation(tmp_path, 6, threshold=4, signed=True)
    lost = [f"site{i}" for i in range(1, 1 + gone)]
    federation.drops = {(name, phase): NEVER for name in lost}
    got = federation.round()
    late = () if phase in ("agree", "unmask") else lost
    came = [n for n in federation.hospitals if n not in late]
    roster = 6 - (gone if phase == "keys" else 0)
    assert got.result.accepted == came and got.tries == 1
    assert same(got.delta, federation.expected(came, roster))
    assert got.result.refused == dict.fromkeys(late, "internal")
    assert got.secure["dropped"] == ({phase: lost} if lost else {})


@given(st.data())
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_round_is_exact_or_is_not(tmp_path_factory, data):
    """Whoever drops out anywhere: the exact mean over those that came, or no round at all."""
    count = data.draw(st.integers(2, 5))
    threshold = data.draw(st.integers(lowest_threshold(count), count))
    signed = data.draw(st.booleans())
    federation = Federation(tmp_path_factory.mktemp("drops"), count, threshold, signed=signed)
    for name in federation.hospitals:
        phase = data.draw(st.sampled_from([*PHASES, "none", "none"]))
        federation.drops[name, phase] = NEVER
    try:
        got = federation.round()
    except IncompleteError:
        assert sum(v < 0 for (_, p), v in federation.drops.items() if p != "none") > (
            count - threshold
        )
        return
    assert len(got.result.accepted) >= threshold
    assert same(got.delta, federation.expected(got.result.accepted, len(got.secure["roster"])))


def test_below_the_threshold_the_round_is_tried_again_with_fresh_keys(tmp_path):
    federation = Federation(tmp_path, 4, threshold=3)
    federation.drops = {("site1", "train"): 1, ("site2", "train"): 1}
    got = federation.round()
    assert got.tries == 2 and len(got.result.accepted) == 4
    assert same(got.delta, federation.expected(list(federation.hospitals), 4))
    keys = [
        u.delta[SECURE]["keys"].tobytes() for _, phase, u in federation.heard if phase == "keys"
    ]
    assert len(keys) == len(set(keys)) == 8


def test_below_the_threshold_twice_the_round_ends(tmp_path):
    federation = Federation(tmp_path, 3)
    federation.drops = {("site1", "shares"): NEVER}
    with pytest.raises(IncompleteError, match="0 of 3 sites needed for a secure sum") as raised:
        federation.round()
    assert raised.value.sites == ("site1",)
    assert not (tmp_path / "run" / FILE).exists()


def test_who_came_is_asked_where_all_sign_and_only_there(tmp_path):
    for signed in (True, False):
        folder = tmp_path / str(signed)
        folder.mkdir()
        federation = Federation(folder, 3, signed=signed)
        federation.round()
        assert {phase for _, phase, _ in federation.heard} == set(PHASES) - (
            set() if signed else {"agree"}
        )


def test_who_drops_out_after_each_other_does_not_hinder_the_opening(tmp_path):
    federation = Federation(tmp_path, 6, threshold=4, signed=True)
    federation.drops = {("site1", "agree"): NEVER, ("site2", "unmask"): NEVER}
    got = federation.round()
    assert got.tries == 1 and got.result.accepted == list(federation.hospitals)
    assert same(got.delta, federation.expected(got.result.accepted, 6))
    assert got.secure["dropped"] == {"agree": ["site1"], "unmask": ["site2"]}
    assert not [1 for name, phase, _ in federation.heard if (name, phase) == ("site1", "unmask")]


def test_with_too_few_signatures_nothing_is_opened_and_the_round_is_tried_again(tmp_path):
    federation = Federation(tmp_path, 4, threshold=3, signed=True)
    federation.drops = {("site1", "agree"): 1, ("site2", "agree"): 1}
    got = federation.round()
    assert got.tries == 2 and same(got.delta, federation.expected(list(federation.hospitals), 4))
    federation.drops = {("site1", "agree"): NEVER, ("site2", "agree"): NEVER}
    with pytest.raises(IncompleteError, match="2 of 3 sites needed for a secure sum") as raised:
        federation.round(number=2)
    assert raised.value.sites == ("site1", "site2")
    assert opened_over(tmp_path / "run", "ecg_masked/2") == []


def test_a_server_that_stops_before_the_opening_may_sum_over_other_sites(tmp_path, monkeypatch):
    """What was signed in a session that nobody opened binds nobody in the next."""
    federation = Federation(tmp_path, 4, threshold=3, signed=True)

    def stopped(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(server.secure_rounds, "write_opened", stopped)
        federation.round()
    assert [phase for _, phase, _ in federation.heard].count("agree") == 4
    federation.drops = {("site3", "train"): NEVER}
    got = federation.round()
    assert got.result.accepted == ["site0", "site1", "site2"]
    assert same(got.delta, federation.expected(got.result.accepted, 4))


def test_a_server_that_stops_in_the_opening_opens_the_same_sum_again(tmp_path, monkeypatch):
    federation = Federation(tmp_path, 4, threshold=3, signed=True)
    federation.drops = {("site0", "train"): NEVER}

    def stopped(*args, **fields):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(server.secure_session, "unmask", stopped)
        federation.round()
    federation.drops = {}
    got = federation.round()
    assert got.result.accepted == ["site1", "site2", "site3"]
    assert same(got.delta, federation.expected(got.result.accepted, 3))


def test_the_opening_is_asked_again_and_no_other_sum(tmp_path):
    federation = Federation(tmp_path, 3)
    federation.drops = {("site1", "unmask"): 1}
    got = federation.round()
    assert got.tries == 1 and same(got.delta, federation.expected(list(federation.hospitals), 3))
    assert federation.hospitals["site0"].trained == 1


def test_a_repeated_round_is_opened_over_the_same_sites_only(tmp_path):
    federation = Federation(tmp_path, 5, threshold=4)
    federation.drops = {("site4", "train"): 1}
    first = federation.round()
    assert opened_over(tmp_path / "run", "ecg_masked/1") == ["site0", "site1", "site2", "site3"]
    again = federation.round()  # as a restarted server would: site4 is back, and left out
    assert again.result.accepted == first.result.accepted == [f"site{i}" for i in range(4)]
    federation.drops = {("site3", "train"): NEVER}
    with pytest.raises(IncompleteError, match="3 of 4 sites"):
        federation.round()
    (tmp_path / "run" / FILE).unlink()
    federation.drops = {}
    with pytest.raises(IncompleteError, match="shares that open the secure sum"):
        federation.round()  # a server that forgets: the sites do not
    assert federation.round(number=2).result.accepted == list(federation.hospitals)


def test_what_a_server_sees_of_one_site_is_noise(tmp_path):
    federation = Federation(tmp_path, 3, shapes={"ecg_encoder": {"w": (20_000,)}})
    for hospital in federation.hospitals.values():
        hospital.delta = {"ecg_encoder": {"w": np.zeros(20_000, np.float32)}}
    got = federation.round()
    assert not got.delta["ecg_encoder"]["w"].any()
    masked = [u for _, phase, u in federation.heard if phase == "train"]
    assert len(masked) == 3
    for update in masked:
        residues = update.delta[SECURE][RESIDUES].view("<u4")
        counts = np.bincount(residues >> 28, minlength=16)
        # 16 cells of 1,250: chi-square with 15 degrees of freedom is above 44.3 once in 10,000.
        assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 44.3
        assert update.metrics == {} and set(update.delta) == {SECURE}


def test_all_five_answers_are_hardly_more_than_a_plain_update(tmp_path):
    shapes = {"ecg_encoder": {"w": (100, 1000)}}
    federation = Federation(tmp_path, 5, shapes=shapes, signed=True)
    got = federation.round()
    plain = payload_bytes(update_to_records(_plain(shapes)))
    assert max(got.result.bytes_up.values()) <= 1.02 * plain


def _plain(shapes):
    return Update("site0", "run-1", "ecg_masked", 1, 10, delta=update_of(1, shapes))


@pytest.mark.parametrize(("count", "threshold", "least"), [(4, 2, 3), (6, 3, 4), (5, 3, 4)])
def test_a_threshold_under_which_one_site_could_be_opened_is_refused(
    tmp_path, count, threshold, least
):
    with pytest.raises(ConfigError, match=f"threshold={least} or more"):
        Federation(tmp_path, count, threshold).round()


def test_fewer_sites_than_the_threshold_are_said_before_anybody_is_asked(tmp_path):
    federation = Federation(tmp_path, 2, threshold=3)
    with pytest.raises(IncompleteError, match="needs 3 sites and 2 can be asked"):
        federation.round()
    assert not federation.heard


def test_the_runs_min_sites_hold_where_the_threshold_is_lower(tmp_path):
    federation = Federation(tmp_path, 4, threshold=3, min_sites=4)
    federation.drops = {("site1", "train"): 1}
    got = federation.round()
    assert got.tries == 2 and len(got.result.accepted) == 4
    federation.drops = {("site1", "train"): NEVER}
    with pytest.raises(IncompleteError, match="3 of 4 sites needed for a secure sum"):
        federation.round(number=2)
    assert opened_over(tmp_path / "run", "ecg_masked/2") == []


def test_a_repeated_sum_needs_no_more_sites_than_it_was_over(tmp_path):
    federation = Federation(tmp_path, 3, threshold=3, min_sites=4)
    assert len(federation.round().result.accepted) == 3
    federation.hospitals["site3"] = replace(federation.hospitals["site2"], name="site3")
    again = federation.round()  # as a restarted server would, with a site that joined meanwhile
    assert again.result.accepted == ["site0", "site1", "site2"]


def test_a_site_that_answers_twice_counts_once_towards_the_threshold(tmp_path):
    federation = Federation(tmp_path, 4, threshold=3)
    federation.drops = {("site0", "unmask"): NEVER, ("site1", "unmask"): NEVER}
    with pytest.raises(IncompleteError, match="2 of 3 sites needed gave the shares"):
        federation.round()  # two answer both times that they are asked
    given = [name for name, phase, _ in federation.heard if phase == "unmask"]
    assert given == ["site2", "site3"] * 2


def test_a_site_that_masks_with_other_keys_is_noticed(tmp_path):
    federation = Federation(tmp_path, 3)
    hospital = federation.hospitals["site1"]
    train = hospital.train

    def forgetful(task, site):
        """Lose the seed between shares and mask: what was shared opens another one."""
        folder = next(hospital.folder.iterdir())
        file = SessionFile(folder)
        book = file.read()
        secrets = book.session.secrets
        other = Secrets(secrets.sealing, secrets.masking)
        file.write(replace(book, session=replace(book.session, secrets=other)))
        return train(task, site)

    hospital.train = forgetful
    with pytest.raises(RunError, match="does not open"):
        federation.round()


def test_residues_of_another_size_or_more_studies_than_declared_are_not_added(tmp_path):
    federation = Federation(tmp_path, 4, threshold=2 + 1)
    federation.hospitals["site1"].delta = update_of(5, {"ecg_encoder": {"w": (3,)}})
    got = federation.round()
    assert got.result.refused == {"site1": "shape"}
    assert same(got.delta, federation.expected(got.result.accepted, 4))


def test_a_file_of_opened_sums_that_cannot_be_read_stops_the_round(tmp_path):
    federation = Federation(tmp_path, 3)
    federation.round()
    (tmp_path / "run" / FILE).write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        federation.round()


def test_the_record_can_be_saved(tmp_path):
    got = Federation(tmp_path, 3).round()
    assert json.loads(json.dumps(got.secure)) == {
        "threshold": 3,
        "roster": ["site0", "site1", "site2"],
        "dropped": {},
    }
    assert server.secure_session.SHORT_S < 600
