"""A coordinator that tells sites different lists of who came: what it opens, and who stops it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import cardionets_core.privacy.secure_aggregation.protocol as protocol
import client.secure_agreement
from cardionets_core.errors import SiteError
from cardionets_core.messages import Task
from cardionets_core.privacy.secure_aggregation.quantiser import Quantiser, check_sum
from cardionets_core.privacy_config import SitePrivacy
from cardionets_core.secure_config import (
    AGREEMENTS,
    KEYS,
    RESIDUES,
    SECURE,
    SHARES,
    SecureTask,
)
from client.secure_agreement import agreement
from client.secure_session import SessionFile, question_mark
from tests.secure_bench import PLAN, Hospital, array_of, carried, keyed, refused, update_of
from tests.task_header import task_header

NAMES = tuple("ABCDE")
THRESHOLD = 3

ONE_ALONE = ({"A": "ABC"}, {"A": "ABC", "B": "ABD", "C": "ACD", "D": "ADE", "E": "ADE"}, "A")
"""Who is said to have sent shares (to A; the others hear the truth), who came, who is opened."""

TWO_ALONE = ({}, {"A": "ABE", "B": "ABC", "C": "ABC", "D": "ABD", "E": "ABE"}, "AB")


def hospitals(folder, *, signed=True, secure_sites=3):
    """Return five hospitals; where they sign, each knows the others' verification keys."""
    privacy = dict.fromkeys(NAMES, SitePrivacy(secure_sites=secure_sites))
    if signed:
        privacy = keyed(folder, NAMES, secure_sites=secure_sites)
    return {n: Hospital(n, folder / n, 10, update_of(i), privacy[n]) for i, n in enumerate(NAMES)}


class LyingServer:
    """Asks by hand, and tells each site what it likes.

    Attributes:
        clip_for: site -> a clip for it alone; likewise `plan_for`.
        said: the signatures under who came, in the order of the roster.
    """

    def __init__(self, sites, threshold=THRESHOLD, session="s1"):
        self.sites, self.threshold, self.session = sites, threshold, session
        self.clip_for, self.plan_for = {}, {}
        self.said = {n: np.zeros(64, np.uint8) for n in NAMES}

    def ask(self, name, phase, arrays=None, **told):
        clip = self.clip_for.get(name, 1.0)
        secure = SecureTask(self.session, phase, self.threshold, clip, {}, 10, **told)
        header = task_header(
            train=self.plan_for.get(name, PLAN),
            round=1,
            trains=("ecg_decoder", "ecg_encoder"),
            secure=secure,
        )
        return self.sites[name].serve(carried(Task(header, {SECURE: arrays or {}})))

    def to_shares(self):
        self.keys = np.stack([array_of(self.ask(n, "keys"), KEYS) for n in NAMES])
        self.sealed = {
            n: array_of(self.ask(n, "shares", {KEYS: self.keys}, roster=NAMES), SHARES)
            for n in NAMES
        }
        return self

    def to_masked(self, masked=None):
        self.to_shares()
        self.masked = {n: tuple((masked or {}).get(n, NAMES)) for n in NAMES}
        self.residues = {
            n: array_of(self.ask(n, "train", roster=NAMES, present=self.masked[n]), RESIDUES)
            for n in NAMES
        }
        return self

    def agree(self, came):
        """Have each site sign what it is told; `came`: site -> the list for it."""
        for name, told in came.items():
            self.said[name] = array_of(self.ask(name, "agree", present=tuple(told)), AGREEMENTS)
        return self

    def unmask(self, name, came, said=None):
        rows = np.stack([self.sealed[other][NAMES.index(name)] for other in NAMES])
        said = np.stack(list(self.said.values())) if said is None else said
        arrays = {SHARES: rows, AGREEMENTS: said}
        return array_of(self.ask(name, "unmask", arrays, present=tuple(came)), SHARES)

    def opened(self, came, alone):
        """Return the mean of `alone`, from what all sites give under the lists `came`."""
        given = {name: self.unmask(name, told) for name, told in came.items()}
        masked = sorted({other for name in alone for other in self.masked[name]})
        shares = {
            site: {
                NAMES.index(giver) + 1: rows[NAMES.index(site)].tobytes()
                for giver, rows in given.items()
                if site in self.masked[giver] and (site in came[giver]) == (site in alone)
            }
            for site in masked
        }
        rows = dict(zip(NAMES, self.keys, strict=True))
        roster = {name: row[: protocol.PUBLIC_BYTES].tobytes() for name, row in rows.items()}
        terms = protocol.Terms(self.session, self.threshold, roster)
        total = sum(self.residues[n].copy().view("<u4").astype(np.uint32) for n in alone)
        with pytest.MonkeyPatch.context() as patch:
            # The protocol's own takes it that every site has given a share of the same kind.
            patch.setattr(
                protocol,
                "_joined",
                lambda site, terms, _: protocol.join(shares[site], threshold=terms.threshold),
            )
            protocol.unmask(total, terms, {}, masked=masked, came=tuple(alone))
        check_sum(total, len(alone))
        like = self.sites["A"].delta
        return Quantiser(len(NAMES), 1.0, {}, 10).mean(total, like, 10 * len(alone))


def signed_by_hand(server, liar, *, as_told, came):
    """Return the signature of a site on the server's side, under what another one was told."""
    site = server.sites[as_told]
    (folder,) = site.folder.iterdir()
    session = SessionFile(folder).read().session
    terms = session.member(as_told, server.threshold).terms
    return np.frombuffer(agreement(session, terms, server.sites[liar].site, list(came)), np.uint8)


def careless(monkeypatch):
    """Switch the rule of thresholds off, as it was before: more than half, and no more."""
    monkeypatch.setattr(protocol, "lowest_threshold", lambda sites: sites // 2 + 1)
    monkeypatch.setattr(client.secure_agreement, "fewest_opened", lambda sites, threshold: sites)


both_lies = pytest.mark.parametrize("lies", [ONE_ALONE, TWO_ALONE], ids=["one", "two"])


@both_lies
def test_lists_that_differ_open_a_few_where_nothing_stops_them(tmp_path, monkeypatch, lies):
    """The attack itself, rule switched off and nobody signing: what the others are to stop."""
    careless(monkeypatch)
    masked, came, alone = lies
    server = LyingServer(hospitals(tmp_path, signed=False)).to_masked(masked)
    got = server.opened(came, alone)
    for part, arrays in got.items():
        for name, values in arrays.items():
            ours = [server.sites[n].delta[part][name].clip(-1, 1).astype(float) for n in alone]
            assert np.abs(values - np.mean(ours, axis=0)).max() < 1e-8


@pytest.mark.parametrize("signed", [True, False])
def test_a_threshold_that_lists_could_get_around_is_refused(tmp_path, caplog, signed):
    server = LyingServer(hospitals(tmp_path, signed=signed))
    cause = "a threshold of 3 among 5 sites; 4 or more are needed"
    refused(server.to_shares, caplog=caplog, cause=cause)


@both_lies
def test_sites_that_sign_open_no_lists_that_differ_whatever_the_threshold(
    tmp_path, monkeypatch, caplog, lies
):
    careless(monkeypatch)
    masked, came, _ = lies
    server = LyingServer(hospitals(tmp_path)).to_masked(masked).agree(came)
    most = 0
    for name, told in came.items():
        same = [n for n in came if server.masked[n] == server.masked[name] and came[n] == told]
        assert len(same) < THRESHOLD
        refused(server.unmask, name, told)
        most = max(most, len(same))
    assert (
        f"what this site was told is signed by {most} of those in the sum; 3 are needed"
        in caplog.text
    )


def test_nobody_opens_what_it_has_not_signed(tmp_path, monkeypatch, caplog):
    careless(monkeypatch)
    masked, came, _ = TWO_ALONE
    server = LyingServer(hospitals(tmp_path)).to_masked(masked)
    refused(server.unmask, "A", came["A"], caplog=caplog, cause="nobody has asked who came")
    server.agree(dict.fromkeys(NAMES, NAMES))
    cause = "over other sites than this one has signed"
    refused(server.unmask, "A", came["A"], caplog=caplog, cause=cause)
    server.unmask("A", NAMES)


def test_with_a_site_on_the_servers_side_one_list_is_opened_and_no_second(tmp_path, caplog):
    """Threshold 4 > (5 + 1) / 2: E signs whatever the server likes, and that is not enough."""
    server = LyingServer(hospitals(tmp_path), threshold=4).to_masked()
    told = {"A": "ABCE", "B": "ABCE", "C": "ABCE", "D": "ABDE"}
    server.agree(told | {"E": "ABCE"})
    for name in "ABC":
        server.unmask(name, "ABCE")
    server.said["E"] = signed_by_hand(server, "E", as_told="D", came="ABDE")
    refused(server.unmask, "D", "ABDE", caplog=caplog, cause="is signed by 2 of those in the sum")


def test_signatures_of_another_session_list_or_stranger_do_not_count(tmp_path, caplog):
    sites = hospitals(tmp_path)
    before = LyingServer(sites, threshold=4, session="s0").to_masked()
    before.agree(dict.fromkeys(NAMES, NAMES))
    server = LyingServer(sites, threshold=4).to_masked().agree(dict.fromkeys(NAMES, NAMES))
    right = np.stack(list(server.said.values()))
    wrong = {
        "another session": np.stack(list(before.said.values())),
        "none": np.zeros_like(right),
        "its own for all": np.tile(right[0], (5, 1)),
        "of others": right[[0, 2, 3, 4, 1]],
    }
    three = right.copy()
    three[3:] = wrong["another session"][3:]
    for said in [*wrong.values(), three]:
        refused(server.unmask, "A", NAMES, said, caplog=caplog, cause="of those in the sum")
    refused(server.unmask, "A", NAMES, right[:4], caplog=caplog, cause="of another size")
    for said in (right, right):
        server.unmask("A", NAMES, said)  # and the same again
    four = right.copy()
    four[0] = 0  # its own signature it knows by itself
    four[4] = 0
    refused(server.unmask, "B", NAMES, four, caplog=caplog, cause="is signed by 3 of those")


def test_a_site_signs_one_list_and_the_same_again(tmp_path, caplog):
    server = LyingServer(hospitals(tmp_path), threshold=4).to_masked()
    first, second = (server.agree({"A": NAMES}).said["A"] for _ in range(2))
    assert np.array_equal(first, second) and first.any()
    refused(server.agree, {"A": "ABCD"}, caplog=caplog, cause="asked twice, and differently")
    server.agree(dict.fromkeys(NAMES[1:], NAMES)).unmask("A", NAMES)
    refused(server.agree, {"A": NAMES}, caplog=caplog, cause="phase agree of this session is over")


@pytest.mark.parametrize(
    ("came", "cause"),
    [
        ("ABC", "3 sites, and the threshold is 4"),
        ("ABCC", "named twice"),
        ("BCDE", "said not to be there"),
        ("ABCX", "was not there before"),
    ],
)
def test_a_list_that_cannot_be_is_not_signed(tmp_path, caplog, came, cause):
    server = LyingServer(hospitals(tmp_path), threshold=4).to_masked()
    refused(server.agree, {"A": came}, caplog=caplog, cause=cause)


def test_who_came_is_not_asked_before_training(tmp_path, caplog):
    server = LyingServer(hospitals(tmp_path), threshold=4).to_shares()
    refused(server.agree, {"A": NAMES}, caplog=caplog, cause="phase agree was asked out of order")


def test_a_list_over_other_sites_than_the_round_was_opened_is_not_signed(tmp_path, caplog):
    sites = hospitals(tmp_path)
    first = LyingServer(sites, threshold=4).to_masked().agree(dict.fromkeys(NAMES, NAMES))
    first.unmask("A", NAMES)
    second = LyingServer(sites, threshold=4, session="s2").to_masked()
    refused(second.agree, {"A": "ABCD"}, caplog=caplog, cause="was opened over other sites")


def test_a_site_without_peers_opens_unasked_and_keeps_to_what_it_has_signed(tmp_path, caplog):
    server = LyingServer(hospitals(tmp_path, signed=False), threshold=4).to_masked()
    server.unmask("A", NAMES)
    assert not server.agree({"B": NAMES}).said["B"].any()  # it has no key to sign with
    cause = "over other sites than this one has signed"
    refused(server.unmask, "B", "ABCD", caplog=caplog, cause=cause)


def test_settings_under_which_the_others_would_add_nothing_are_not_opened(tmp_path, caplog):
    """With a clip of 10^30 they round to zero, and the sum would be A's update alone."""
    server = LyingServer(hospitals(tmp_path, signed=False), threshold=4)
    server.clip_for = dict.fromkeys("BCDE", 1e30)
    server.to_masked()
    for name in NAMES:
        refused(server.unmask, name, NAMES, caplog=caplog, cause="a sealed share was changed")


@pytest.mark.parametrize("alone", [{"lr": 0.0}, {"max_steps": 1}])
def test_sites_that_sign_open_no_sum_for_which_they_trained_differently(tmp_path, caplog, alone):
    server = LyingServer(hospitals(tmp_path), threshold=4)
    server.plan_for = dict.fromkeys("BCDE", replace(PLAN, **alone))
    server.to_masked().agree(dict.fromkeys(NAMES, NAMES))
    refused(server.unmask, "A", NAMES, caplog=caplog, cause="is signed by 1 of those")


@pytest.mark.parametrize("lie", [{"control": "start"}, {"partial": True, "budget_s": 1e-9}])
def test_what_would_make_all_other_updates_known_is_refused(tmp_path, caplog, lie):
    """A control variate is added after clipping; partial work ends when the seconds do."""
    server = LyingServer(hospitals(tmp_path), threshold=4)
    server.plan_for["A"] = replace(PLAN, **lie)
    refused(server.ask, "A", "keys", caplog=caplog, cause="SCAFFOLD and partial work are not")


def test_all_arrays_of_a_question_are_in_its_mark():
    """The fingerprints of the header are those of the model's parts alone."""
    task = Task(task_header(trains=("ecg_encoder",)), {SECURE: {}})
    other = replace(task, weights={**task.weights, "control.ecg_encoder": {"b": np.ones(2)}})
    assert question_mark(task) == question_mark(replace(task)) != question_mark(other)


def test_sites_that_are_given_other_seconds_agree(tmp_path):
    server = LyingServer(hospitals(tmp_path), threshold=4)
    server.plan_for = {n: replace(PLAN, budget_s=9.0 + i) for i, n in enumerate(NAMES)}
    server.to_masked().agree(dict.fromkeys(NAMES, NAMES))
    for name in NAMES:
        server.unmask(name, NAMES)


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
