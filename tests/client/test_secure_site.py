"""What a site refuses in secure aggregation, and what it keeps: a server that lies gets nothing."""

from __future__ import annotations

import stat
from dataclasses import replace

import numpy as np
import pytest

from cardionets_core.errors import DataError
from cardionets_core.messages import Task
from cardionets_core.privacy.secure_aggregation.protocol import Secrets
from cardionets_core.privacy_config import SitePrivacy
from cardionets_core.secure_config import KEYS, RESIDUES, SECURE, SHARES, SecureTask
from client.secure_session import FILE, SessionFile
from tests.secure_bench import PLAN, Hospital, array_of, carried, keyed, refused, update_of
from tests.task_header import task_header

NAMES = ("site0", "site1", "site2", "site3")
TERMS = {"threshold": 3, "clip": 1.0, "clips": {}, "largest": 100}


class Played:
    """Four hospitals and a server that asks by hand."""

    def __init__(self, folder, session="s1", hospitals=None, number=1):
        self.session, self.number = session, number
        self.hospitals = hospitals or {
            n: Hospital(n, folder / n, 10, update_of(i)) for i, n in enumerate(NAMES)
        }
        self.keys, self.shares = None, {}

    def ask(self, site, phase, arrays=None, **fields):
        header = task_header(
            train=PLAN,
            round=self.number,
            trains=("ecg_decoder", "ecg_encoder"),
            secure=SecureTask(self.session, phase, **(TERMS | fields)),
        )
        return self.hospitals[site].serve(carried(Task(header, {SECURE: arrays or {}})))

    def to_shares(self):
        self.keys = np.stack([array_of(self.ask(n, "keys"), KEYS) for n in NAMES])
        self.shares = {n: array_of(self.ask_shares(n), SHARES) for n in NAMES}
        return self

    def ask_shares(self, site, keys=None, roster=NAMES, **fields):
        rows = self.keys if keys is None else keys
        return self.ask(site, "shares", {KEYS: rows}, roster=roster, **fields)

    def train(self, site, present=NAMES, **fields):
        return self.ask(site, "train", roster=NAMES, present=present, **fields)

    def to_masked(self, sites=NAMES):
        self.to_shares()
        for site in sites:
            self.train(site)
        return self

    def unmask(self, site, came, shares=None, **fields):
        rows = {SHARES: self.sealed_for(site) if shares is None else shares}
        return self.ask(site, "unmask", rows, present=came, **fields)

    def sealed_for(self, site):
        return np.stack([self.shares[n][NAMES.index(site)] for n in NAMES])


@pytest.fixture
def played(tmp_path):
    return Played(tmp_path)


def row_of(public, signature=bytes(64)):
    return np.frombuffer(public + signature, np.uint8)


def test_both_secrets_of_one_site_are_never_given(played, caplog):
    played.to_masked()
    given = array_of(played.unmask("site0", ("site0", "site1", "site2")), SHARES)
    refused(played.unmask, "site0", NAMES, caplog=caplog, cause="asked twice, and differently")
    refused(played.unmask, "site0", ("site0", "site1", "site3"))
    again = array_of(played.unmask("site0", ("site0", "site1", "site2")), SHARES)
    assert np.array_equal(given, again)


def test_a_question_that_comes_again_is_answered_the_same(played):
    played.to_shares()
    assert np.array_equal(array_of(played.ask_shares("site0"), SHARES), played.shares["site0"])
    first, second = (array_of(played.train("site0"), RESIDUES) for _ in range(2))
    assert np.array_equal(first, second)


def test_a_phase_that_is_over_is_not_answered_again(played, caplog):
    played.to_masked()
    refused(played.ask, "site0", "keys", caplog=caplog, cause="phase keys of this session is over")
    refused(played.ask_shares, "site0")
    played.unmask("site0", NAMES)
    refused(played.train, "site0", caplog=caplog, cause="phase train of this session is over")


def test_phases_out_of_order_are_refused(played, caplog):
    played.ask("site0", "keys")
    refused(played.train, "site0", caplog=caplog, cause="phase train was asked out of order")
    refused(played.unmask, "site0", NAMES, shares=np.zeros((4, 94), np.uint8))
    other = Played(None, "s2", played.hospitals)
    refused(other.train, "site0", caplog=caplog, cause="this session is unknown here")


def test_nothing_is_opened_to_which_this_site_has_not_added(played, caplog):
    played.to_shares()
    refused(played.unmask, "site0", NAMES, caplog=caplog, cause="phase unmask was asked out of")


def test_nothing_is_opened_while_training_has_not_ended(played, caplog, monkeypatch):
    played.to_shares()
    hospital = played.hospitals["site0"]
    monkeypatch.setattr(hospital, "train", lambda task, site: (_ for _ in ()).throw(OSError))
    with pytest.raises(OSError):
        played.train("site0")
    refused(played.unmask, "site0", NAMES, caplog=caplog, cause="has added nothing")


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"threshold": 4}, "terms of a session were changed"),
        ({"clip": 2.0}, "terms of a session were changed"),
        ({"largest": 99}, "terms of a session were changed"),
        ({"clips": {"ecg_encoder": 2.0}}, "terms of a session were changed"),
        ({"threshold": 1}, "a sum over 1 sites"),
        ({"clip": 0.0}, "out of range"),
        ({"largest": 0}, "out of range"),
    ],
)
def test_changed_terms_are_refused(played, caplog, fields, cause):
    played.to_shares()
    refused(played.train, "site0", caplog=caplog, cause=cause, **fields)


@pytest.mark.parametrize(
    ("present", "cause"),
    [
        (("site0", "site1"), "2 sites, and the threshold is 3"),
        (("site0", "site0", "site1"), "named twice"),
        (("site1", "site2", "site3"), "said not to be there"),
        (("site0", "site1", "stranger"), "was not there before"),
    ],
)
def test_a_list_of_sites_that_shrinks_below_the_threshold_is_refused(
    played, caplog, present, cause
):
    played.to_shares()
    refused(played.train, "site0", present, caplog=caplog, cause=cause)
    for name in NAMES:
        played.train(name)
    refused(played.unmask, "site0", present, caplog=caplog, cause=cause)


def test_a_roster_with_other_keys_is_refused(played, caplog):
    keys = np.stack([array_of(played.ask(n, "keys"), KEYS) for n in NAMES])
    swapped = keys.copy()
    swapped[0] = row_of(Secrets().public)
    refused(played.ask_shares, "site0", swapped, caplog=caplog, cause="own keys")
    twice = keys.copy()
    twice[2] = keys[1]
    refused(played.ask_shares, "site0", twice, caplog=caplog, cause="same public key")
    refused(played.ask_shares, "site0", keys[:3], caplog=caplog, cause="of another size")
    names = ("site0", "site1", "site1", "site3")
    refused(played.ask_shares, "site0", keys, names, caplog=caplog, cause="stands twice")
    names = ("site0", "site1", "a/../b", "site3")
    refused(played.ask_shares, "site0", keys, names, caplog=caplog, cause="or is none")


def test_too_low_a_threshold_among_many_is_refused(played, caplog):
    """Three of six could be told one thing, and the other three another."""
    names = (*NAMES, "site4", "site5")
    rows = [row_of(Secrets().public) for _ in names]
    rows[0] = array_of(played.ask("site0", "keys"), KEYS)
    refused(played.ask_shares, "site0", np.stack(rows), names, caplog=caplog, cause="among 6 sites")


def test_another_update_is_not_sent_under_the_same_masks(played, caplog):
    played.to_shares()
    played.train("site0")
    played.hospitals["site0"].delta = update_of(99)
    refused(played.train, "site0", caplog=caplog, cause="under the same masks")


def test_changed_shares_are_refused(played, caplog):
    played.to_masked()
    sealed = played.sealed_for("site0").copy()
    sealed[1, 20] ^= 1
    refused(played.unmask, "site0", NAMES, sealed, caplog=caplog, cause="was changed")
    refused(played.unmask, "site0", NAMES, sealed[:3], caplog=caplog, cause="of another size")


def test_two_sums_of_one_round_are_opened_over_the_same_sites_only(played, caplog):
    played.to_masked().unmask("site0", NAMES)
    second = Played(None, "s2", played.hospitals).to_masked()
    fewer = ("site0", "site1", "site2")
    refused(second.unmask, "site0", fewer, caplog=caplog, cause="opened over other sites")
    second.unmask("site0", NAMES)
    later = Played(None, "s3", played.hospitals, number=2).to_masked()
    later.unmask("site0", fewer)


def test_a_site_that_asks_for_secure_sums_gives_no_single_update(played, caplog):
    hospital = played.hospitals["site0"]
    hospital.privacy = SitePrivacy(secure_sites=3)
    task = Task(task_header(train=PLAN))
    refused(hospital.serve, task, caplog=caplog, cause="the task asks for an update")
    assert not hospital.trained
    played.to_masked()
    hospital.privacy = SitePrivacy(secure_sites=4)
    refused(
        Played(None, "s2", played.hospitals).ask,
        "site0",
        "keys",
        caplog=caplog,
        cause="a sum over 3 sites; 4 are needed",
    )


def test_an_update_in_a_codec_is_refused(played, caplog):
    header = task_header(
        train=replace(PLAN, codec="int8"), secure=SecureTask("s1", "keys", **TERMS)
    )
    refused(played.hospitals["site0"].serve, Task(header), caplog=caplog, cause="cannot be hidden")


def test_secrets_are_gone_when_the_sum_is_opened_and_never_readable_by_others(played):
    played.to_shares()
    (folder,) = (played.hospitals["site0"].folder).iterdir()
    path = folder / FILE
    secrets = SessionFile(folder).read().session.secrets
    assert secrets.seed.hex() in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for site in NAMES:
        played.train(site)
    played.unmask("site0", NAMES)
    left = b"".join(p.read_bytes() for p in folder.iterdir() if p.is_file())
    for secret in (secrets.sealing, secrets.masking, secrets.seed):
        assert secret.hex().encode() not in left and secret not in left


def test_a_new_session_drops_the_keys_of_the_one_before(played, caplog):
    played.to_shares()
    (folder,) = (played.hospitals["site0"].folder).iterdir()
    before = SessionFile(folder).read().session.secrets
    Played(None, "s2", played.hospitals).ask("site0", "keys")
    after = SessionFile(folder).read().session.secrets
    assert after.seed != before.seed and after.masking != before.masking
    refused(played.train, "site0", caplog=caplog, cause="unknown here, or its keys are gone")


def test_a_torn_file_loses_the_session_and_not_the_site(played, caplog):
    played.to_shares()
    (folder,) = (played.hospitals["site0"].folder).iterdir()
    path = folder / FILE
    path.write_bytes(path.read_bytes()[:-3])
    refused(played.train, "site0", caplog=caplog, cause="is torn; its session is lost")
    Played(None, "s2", played.hospitals).to_masked().unmask("site0", NAMES)


def test_a_disk_that_cannot_be_written_is_said_before_anything_leaves(played, monkeypatch):
    import client.secure_session

    def full(temporary, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(client.secure_session, "move_into_place", full)
    with pytest.raises(DataError, match="make room"):
        played.ask("site0", "keys")


def test_values_beyond_the_range_are_clipped_and_said(played, caplog):
    played.hospitals["site0"].delta["ecg_encoder"]["b"][:] = 7.0
    played.to_shares()
    played.train("site0")
    assert "3 of 30 values of the update were clipped to +-1" in caplog.text


def test_a_floor_of_one_site_is_no_floor():
    with pytest.raises(ValueError, match="at least 2"):
        SitePrivacy(secure_sites=1)


def test_who_knows_its_peers_must_sign_too():
    with pytest.raises(ValueError, match=r"privacy\.peers is set and privacy\.signing_key is not"):
        SitePrivacy(peers={"north": "ssh-ed25519 AAAA"})


def test_a_hospital_that_names_its_peers_adds_to_no_sum_with_strangers(tmp_path, caplog):
    played = Played(tmp_path)
    for name, privacy in keyed(tmp_path, NAMES).items():
        played.hospitals[name].privacy = privacy
    played.keys = np.stack([array_of(played.ask(n, "keys"), KEYS) for n in NAMES])
    made_up = played.keys.copy()
    made_up[2] = row_of(Secrets().public)
    refused(
        played.ask_shares,
        "site0",
        made_up,
        caplog=caplog,
        cause="keys of site site2 are not signed",
    )
    names = (*NAMES[:3], "stranger")
    refused(played.ask_shares, "site0", None, names, caplog=caplog, cause="stranger is not named")
    played.ask_shares("site0")
