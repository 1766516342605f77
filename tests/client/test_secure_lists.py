"""A coordinator that tells sites different lists of who came: what it opens, and who stops it."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

import cardionets_core.privacy.secure_aggregation.protocol as protocol
import client.secure_rounds
from cardionets_core.errors import SiteError
from cardionets_core.messages import Task
from cardionets_core.privacy.secure_aggregation.quantiser import Quantiser, check_sum
from cardionets_core.privacy_config import SitePrivacy
from cardionets_core.secure_config import KEYS, RESIDUES, SECURE, SHARES, SecureTask
from tests.secure_bench import PLAN, Hospital, array_of, carried, update_of
from tests.task_header import task_header

NAMES = tuple("ABCDE")
THRESHOLD = 3

ONE_ALONE = ({"A": "ABC"}, {"A": "ABC", "B": "ABD", "C": "ACD", "D": "ADE", "E": "ADE"}, "A")
"""Who is said to have sent shares (to A; the others hear the truth), who came, who is opened."""

TWO_ALONE = ({}, {"A": "ABE", "B": "ABC", "C": "ABC", "D": "ABD", "E": "ABE"}, "AB")


def hospitals(folder, *, signed=True, secure_sites=3):
    """Return five hospitals that know each other's verification keys."""
    private = {name: Ed25519PrivateKey.generate() for name in NAMES}
    lines = {
        name: key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        for name, key in private.items()
    }
    made = {}
    for i, (name, key) in enumerate(private.items()):
        file = folder / f"{name}.key"
        file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        peers = {other: line for other, line in lines.items() if other != name}
        privacy = SitePrivacy(secure_sites=secure_sites)
        if signed:
            privacy = SitePrivacy(secure_sites=secure_sites, signing_key=str(file), peers=peers)
        made[name] = Hospital(name, folder / name, 10, update_of(i), privacy)
    return made


class LyingServer:
    """Asks by hand, and tells each site what it likes."""

    def __init__(self, sites, threshold=THRESHOLD):
        self.sites, self.threshold = sites, threshold

    def ask(self, name, phase, arrays=None, **told):
        secure = SecureTask("s1", phase, self.threshold, 1.0, {}, 10, **told)
        header = task_header(
            train=PLAN, round=1, trains=("ecg_decoder", "ecg_encoder"), secure=secure
        )
        return self.sites[name].serve(carried(Task(header, {SECURE: arrays or {}})))

    def to_shares(self):
        self.keys = np.stack([array_of(self.ask(n, "keys"), KEYS) for n in NAMES])
        self.sealed = {
            n: array_of(self.ask(n, "shares", {KEYS: self.keys}, roster=NAMES), SHARES)
            for n in NAMES
        }

    def to_masked(self, masked):
        self.to_shares()
        self.masked = {n: tuple(masked.get(n, NAMES)) for n in NAMES}
        self.residues = {
            n: array_of(self.ask(n, "train", roster=NAMES, present=self.masked[n]), RESIDUES)
            for n in NAMES
        }

    def unmask(self, name, came):
        rows = np.stack([self.sealed[other][NAMES.index(name)] for other in NAMES])
        return array_of(
            self.ask(name, "unmask", {SHARES: rows}, roster=NAMES, present=tuple(came)), SHARES
        )

    def opened(self, came, alone):
        """Return the mean of `alone`, from what all sites give under the lists `came`."""
        given = {name: self.unmask(name, told) for name, told in came.items()}
        masked = sorted({other for name in alone for other in self.masked[name]})
        pieces = {
            site: {
                giver: rows[NAMES.index(site)].tobytes()
                for giver, rows in given.items()
                if site in self.masked[giver] and (site in came[giver]) == (site in alone)
            }
            for site in masked
        }
        roster = {
            n: row[: protocol.PUBLIC_BYTES].tobytes()
            for n, row in zip(NAMES, self.keys, strict=True)
        }
        terms = protocol.Terms("s1", self.threshold, roster)
        revealed = {
            giver: {site: shares[giver] for site, shares in pieces.items() if giver in shares}
            for giver in NAMES
        }
        total = sum(self.residues[n].copy().view("<u4").astype(np.uint32) for n in alone)
        with pytest.MonkeyPatch.context() as patch:
            # The protocol's own `_joined` takes it that every giver has given of every site.
            patch.setattr(
                protocol,
                "_joined",
                lambda site, terms, _: protocol.join(
                    {terms.number(g): rows[site] for g, rows in revealed.items() if site in rows},
                    threshold=terms.threshold,
                ),
            )
            protocol.unmask(total, terms, revealed, masked=masked, came=tuple(alone))
        check_sum(total, len(alone))
        like = self.sites["A"].delta
        return Quantiser(len(NAMES), 1.0, {}, 10).mean(total, like, 10 * len(alone))


def careless(monkeypatch):
    """Switch the rule of thresholds off, as it was before: more than half, and no more."""
    monkeypatch.setattr(protocol, "lowest_threshold", lambda sites: sites // 2 + 1)
    monkeypatch.setattr(client.secure_rounds, "fewest_opened", lambda sites, threshold: threshold)


@pytest.mark.parametrize("lies", [ONE_ALONE, TWO_ALONE], ids=["one alone", "two alone"])
def test_lists_that_differ_open_a_few_where_the_threshold_is_too_low(tmp_path, monkeypatch, lies):
    """The attack itself, with the rule switched off: what the other tests are there to stop."""
    careless(monkeypatch)
    masked, came, alone = lies
    server = LyingServer(hospitals(tmp_path))
    server.to_masked(masked)
    got = server.opened(came, alone)
    for part, arrays in got.items():
        for name, values in arrays.items():
            ours = [server.sites[n].delta[part][name].clip(-1, 1).astype(float) for n in alone]
            assert np.abs(values - np.mean(ours, axis=0)).max() < 1e-8


def test_a_threshold_that_lists_could_get_around_is_refused(tmp_path, caplog):
    server = LyingServer(hospitals(tmp_path))
    with pytest.raises(SiteError) as raised:
        server.to_shares()
    assert raised.value.code == "secure_aggregation"
    assert "a threshold of 3 among 5 sites; 4 or more are needed" in caplog.text


def test_a_hospital_refuses_a_threshold_under_which_fewer_could_be_opened_than_it_asks(
    tmp_path, caplog
):
    """With 7 of 10 needed false lists open six at the least."""
    names = [f"x{i}" for i in range(9)]
    for secure_sites, allowed in ((6, True), (7, False)):
        folder = tmp_path / str(secure_sites)
        folder.mkdir()
        server = LyingServer(hospitals(folder, signed=False, secure_sites=secure_sites), 7)
        mine = array_of(server.ask("A", "keys"), KEYS)
        rows = [np.frombuffer(protocol.Secrets().public + bytes(64), np.uint8) for _ in names]
        question = ("A", "shares", {KEYS: np.stack([mine, *rows])})
        if allowed:
            server.ask(*question, roster=("A", *names))
            continue
        with pytest.raises(SiteError):
            server.ask(*question, roster=("A", *names))
        assert "can open a sum over 6; privacy.secure_sites is 7" in caplog.text


def test_sites_that_were_told_another_roster_or_threshold_open_no_shares(tmp_path):
    """Else the sites of one roster could open the masks of another's."""
    secrets = {name: protocol.Secrets() for name in NAMES}
    roster = {name: key.public for name, key in secrets.items()}
    north = protocol.Member("A", secrets["A"], protocol.Terms("s1", 4, roster))
    sealed, _ = north.shares()
    fewer = {name: roster[name] for name in "ABCD"}
    for terms in (protocol.Terms("s1", 5, roster), protocol.Terms("s1", 4, fewer)):
        other = protocol.Member("B", secrets["B"], terms)
        with pytest.raises(protocol.ProtocolError, match="was changed"):
            other.reveal({"A": sealed["B"]}, b"", masked=["A"], came=["A"])
    same = protocol.Member("B", secrets["B"], north.terms)
    assert same.reveal({"A": sealed["B"]}, b"", masked=["A"], came=["A"])
