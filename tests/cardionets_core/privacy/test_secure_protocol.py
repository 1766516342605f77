"""Sessions without a wire: every kind of drop-out, and what each side can make of what it has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from cardionets_core.privacy.secure_aggregation.masks import (
    BLOCK,
    SealError,
    add_mask,
    agreed_key,
    new_key,
    public_key,
    seal,
    unseal,
)
from cardionets_core.privacy.secure_aggregation.protocol import (
    Member,
    ProtocolError,
    Secrets,
    Terms,
    unmask,
)
from cardionets_core.privacy.secure_aggregation.shamir import join
from cardionets_core.privacy.secure_aggregation.thresholds import lowest_threshold
from cardionets_core.secure_config import SecureAggregationConfig

SIZE = 40


def session(count, threshold, name="s1"):
    """Return the members of a session."""
    secrets = {f"site{i}": Secrets() for i in range(count)}
    terms = Terms(name, threshold, {s: k.public for s, k in secrets.items()})
    members = {s: Member(s, k, terms) for s, k in secrets.items()}
    for member in members.values():
        member.check()
    return members, terms


def played(count, threshold, *, shared, came, answered, seed=0):
    """Play a session; return the unmasked sum and the sum of the plain residues that came."""
    members, terms = session(count, threshold)
    rng = np.random.default_rng(seed)
    plain = {s: rng.integers(0, 2**32, SIZE, dtype=np.uint32) for s in members}
    sealed, own = {}, {}
    for site in shared:
        sealed[site], own[site] = members[site].shares()
    total, expected = np.zeros(SIZE, np.uint32), np.zeros(SIZE, np.uint32)
    for site in came:
        masked = plain[site].copy()
        members[site].mask(masked, shared)
        total += masked
        expected += plain[site]
    revealed = {
        site: members[site].reveal(
            {s: sealed[s][site] for s in shared if s != site}, own[site], masked=shared, came=came
        )
        for site in answered
    }
    unmask(total, terms, revealed, masked=shared, came=came)
    return total, expected


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_the_sum_is_exact_whoever_drops_out_where(data):
    count = data.draw(st.integers(2, 8))
    threshold = data.draw(st.integers(lowest_threshold(count), count))
    names = [f"site{i}" for i in range(count)]

    def some(of):
        """Draw at least `threshold` of these, in any order."""
        return data.draw(st.permutations(of))[: data.draw(st.integers(threshold, len(of)))]

    shared = some(names)
    came = some(shared)
    answered = some(came)
    total, expected = played(count, threshold, shared=shared, came=came, answered=answered)
    assert np.array_equal(total, expected)


@pytest.mark.parametrize("gone", ["after keys", "after shares", "after masking"])
def test_all_that_may_drop_out_at_one_step(gone):
    names = [f"site{i}" for i in range(7)]
    few = names[2:]  # 5 = the threshold
    total, expected = played(
        7,
        5,
        shared=few if gone == "after keys" else names,
        came=names if gone == "after masking" else few,
        answered=few,
    )
    assert np.array_equal(total, expected)


def test_one_share_too_few_opens_nothing():
    names = [f"site{i}" for i in range(4)]
    with pytest.raises(ProtocolError, match="too few"):
        played(4, 3, shared=names, came=names, answered=names[:2])


def test_masked_residues_look_uniform_and_zeros_do_not_show():
    members, _ = session(3, 2)
    residues = np.zeros(20_000, dtype=np.uint32)
    members["site0"].mask(residues, list(members))
    counts = np.bincount(residues >> 28, minlength=16)
    # 16 cells of 1,250: chi-square with 15 degrees of freedom is below 44.3 but for 1 in 10,000.
    assert ((counts - 1250) ** 2 / 1250).sum() < 44.3


def test_pairwise_masks_alone_do_not_open_a_late_message():
    """Bonawitz' reason for the second mask: all pairwise masks known, the residues still hidden."""
    members, _ = session(3, 2)
    late = members["site0"]
    masked = np.zeros(SIZE, np.uint32)
    late.mask(masked, list(members))
    others = [s for s in members if s != "site0"]
    pairs = np.zeros(SIZE, np.uint32)
    for site in others:
        member = members[site]
        only_pair = np.zeros(SIZE, np.uint32)
        member.mask(only_pair, [site, "site0"])
        own_mask = np.zeros(SIZE, np.uint32)
        member.mask(own_mask, [site])
        pairs += only_pair - own_mask
    own_mask = np.zeros(SIZE, np.uint32)
    late.mask(own_mask, ["site0"])
    left = masked + pairs
    assert np.array_equal(left, own_mask) and left.any()


def test_a_site_reveals_one_share_of_each_and_never_both():
    members, terms = session(4, 3)
    made = {s: m.shares() for s, m in members.items()}
    came, everyone = ["site0", "site1", "site2"], list(members)
    given = {
        s: members[s].reveal(
            {o: made[o][0][s] for o in everyone if o != s}, made[s][1], masked=everyone, came=came
        )
        for s in came
    }
    points = {s: {terms.number(g): given[g][s] for g in came} for s in everyone}
    assert join(points["site0"], threshold=3) == members["site0"].secrets.seed
    assert join(points["site3"], threshold=3) == members["site3"].secrets.masking
    assert join(points["site3"], threshold=3) != members["site3"].secrets.seed


@pytest.mark.parametrize("count", range(2, 10))
def test_no_two_answers_under_the_terms_can_hold_both_secrets(count):
    """Each site answers once: shares of one kind and of the other come from different sites."""
    for threshold in range(1, count + 1):
        terms = Terms("s", threshold, {str(i): Secrets().public for i in range(count)})
        try:
            terms.check()
        except ProtocolError:
            continue
        assert 2 * threshold > count


def test_terms_that_would_single_a_site_out_are_refused():
    members, terms = session(4, 3)
    for threshold in (0, 1, 2, 5):
        with pytest.raises(ProtocolError, match="a threshold of"):
            replace(terms, threshold=threshold).check()
    keys = dict(terms.roster)
    with pytest.raises(ProtocolError, match="same public key"):
        replace(terms, roster=keys | {"site1": keys["site0"]}).check()
    with pytest.raises(ProtocolError, match="wrong length"):
        replace(terms, roster=keys | {"site1": keys["site1"][:-1]}).check()
    changed = replace(terms, roster=keys | {"site1": Secrets().public})
    with pytest.raises(ProtocolError, match="own keys"):
        replace(members["site1"], terms=changed).check()


@pytest.mark.parametrize(
    ("sites", "cause"),
    [
        (["site0", "site0", "site1"], "twice"),
        (["site0", "site1", "stranger"], "twice, or was not there"),
        (["site0", "site1"], "the threshold is 3"),
        (["site1", "site2", "site3"], "said not to be there"),
    ],
)
def test_lists_of_sites_that_cannot_be_are_refused(sites, cause):
    members, terms = session(4, 3)
    with pytest.raises(ProtocolError, match=cause):
        terms.check_sites(sites, among=members, me="site0")


def test_a_changed_share_or_one_for_another_site_does_not_open():
    members, _ = session(3, 2)
    sealed, _ = members["site0"].shares()
    _, own = members["site1"].shares()
    names = list(members)
    broken = bytes([*sealed["site1"][:-1], sealed["site1"][-1] ^ 1])
    for wrong in (broken, sealed["site2"], b""):
        with pytest.raises(ProtocolError, match="was changed"):
            members["site1"].reveal({"site0": wrong}, own, masked=names[:2], came=names[:2])


def test_a_key_of_small_order_is_refused():
    members, terms = session(2, 2)
    low = replace(terms, roster={**terms.roster, "site1": bytes(32) + bytes([1]) + bytes(31)})
    member = replace(members["site0"], terms=low)
    with pytest.raises(ProtocolError, match="public key"):
        member.shares()
    with pytest.raises(ProtocolError, match="public key"):
        member.mask(np.zeros(4, np.uint32), ["site0", "site1"])


def test_shares_that_give_another_key_than_was_published_are_known():
    members, terms = session(3, 2)
    other = dict.fromkeys(members, bytes(33))
    revealed = {"site0": other, "site1": other}
    total = np.zeros(4, np.uint32)
    with pytest.raises(ProtocolError, match="another key than it had published"):
        unmask(total, terms, revealed, masked=list(members), came=["site0", "site1"])


def test_sessions_have_masks_of_their_own():
    members, terms = session(2, 2)
    later = replace(members["site0"], terms=replace(terms, session="s2"))
    first, second = np.zeros(SIZE, np.uint32), np.zeros(SIZE, np.uint32)
    members["site0"].mask(first, list(members))
    later.mask(second, list(members))
    assert not np.array_equal(first, second)


def test_a_mask_is_the_key_stream_of_aes_in_counter_mode_across_blocks():
    key, size = bytes(range(32)), BLOCK + 7
    residues = np.arange(size, dtype=np.uint32)
    add_mask(residues, key, sign=1)
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(4 * size))
    expected = np.frombuffer(stream, "<u4") + np.arange(size, dtype=np.uint32)
    assert np.array_equal(residues, expected)
    add_mask(residues, key, sign=-1)
    assert np.array_equal(residues, np.arange(size, dtype=np.uint32))


def test_two_sites_agree_and_uses_have_keys_of_their_own():
    a, b = new_key(), new_key()
    mine = agreed_key(a, public_key(b), use="shares", session=b"s")
    assert mine == agreed_key(b, public_key(a), use="shares", session=b"s")
    assert mine != agreed_key(a, public_key(b), use="pairwise mask", session=b"s")
    sealed = seal(b"word", mine, about=b"x")
    assert unseal(sealed, mine, about=b"x") == b"word"
    with pytest.raises(SealError):
        unseal(sealed, mine, about=b"y")


def test_secrets_do_not_show_in_texts():
    secrets = Secrets()
    assert secrets.seed.hex() not in repr(secrets) and repr(secrets) == "Secrets()"


def test_the_threshold_of_no_plan_holds_for_every_number_of_sites():
    threshold_for = SecureAggregationConfig().threshold_for
    for sites in range(2, 200):
        assert 2 * threshold_for(sites) > sites and threshold_for(sites) <= sites
    assert [threshold_for(n) for n in (2, 3, 4, 5, 6, 10)] == [2, 3, 3, 4, 5, 7]
    assert SecureAggregationConfig(threshold=4).threshold_for(6) == 4
