"""Secret sharing: golden shares by hand, every threshold, and what fewer shares say."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cardionets_core.privacy.secure_aggregation import shamir
from cardionets_core.privacy.secure_aggregation.shamir import PRIME, ShareError, join, split

SECRETS = st.binary(min_size=32, max_size=32)


def witnessed_composite(n: int) -> bool:
    """Miller-Rabin with the first 30 primes as bases: written here, independent of the code."""
    primes = [p for p in range(2, 114) if all(p % q for q in range(2, p))]
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in primes:
        x = pow(base, odd, n)
        if x in (1, n - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % n
            if x == n - 1:
                break
        else:
            return True
    return False


def test_the_field_is_the_smallest_prime_above_all_secrets():
    assert not witnessed_composite(PRIME)
    assert all(witnessed_composite(n) for n in range(2**256 + 1, PRIME, 2))


@given(SECRETS, st.integers(1, 7), st.integers(0, 4), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_any_threshold_of_the_shares_give_the_secret(secret, threshold, spare, random):
    shares = dict(enumerate(split(secret, threshold=threshold, shares=threshold + spare), 1))
    chosen = random.sample(sorted(shares), threshold)
    assert join({x: shares[x] for x in chosen}, threshold=threshold) == secret


def test_golden_shares_of_a_line(monkeypatch):
    # f(x) = 5 + 7 x, by hand: f(1) = 12, f(2) = 19, f(3) = 26.
    monkeypatch.setattr(shamir, "_random", lambda: 7)
    shares = split((5).to_bytes(32), threshold=2, shares=3)
    assert [int.from_bytes(s) for s in shares] == [12, 19, 26]
    for pair in combinations((1, 2, 3), 2):
        assert join({x: shares[x - 1] for x in pair}, threshold=2) == (5).to_bytes(32)


def test_fewer_shares_fit_every_secret():
    """Threshold 2: one share and any secret at all lie on one line, whose slope is in the field."""
    (share, _) = split(bytes(32), threshold=2, shares=2)
    for secret in (0, 1, 2**255, 2**256 - 1):
        slope = (int.from_bytes(share) - secret) % PRIME
        assert (secret + slope) % PRIME == int.from_bytes(share)


def test_two_splits_of_one_secret_have_no_share_in_common():
    first, second = (split(bytes(32), threshold=3, shares=5) for _ in range(2))
    assert not set(first) & set(second)


def test_a_wrong_share_does_not_give_the_secret():
    secret = bytes(range(32))
    shares = dict(enumerate(split(secret, threshold=3, shares=3), 1))
    shares[2] = bytes([*shares[2][:-1], shares[2][-1] ^ 1])
    try:
        assert join(shares, threshold=3) != secret
    except ShareError:
        pass


@pytest.mark.parametrize(("threshold", "shares"), [(0, 3), (4, 3)])
def test_numbers_that_no_sharing_has_are_refused(threshold, shares):
    with pytest.raises(ShareError, match="cannot be asked for"):
        split(bytes(32), threshold=threshold, shares=shares)


def test_too_few_shares_and_a_short_secret_are_refused():
    with pytest.raises(ShareError, match="too few"):
        join(dict(enumerate(split(bytes(32), threshold=3, shares=3)[:2], 1)), threshold=3)
    with pytest.raises(ShareError, match="32 bytes, not 31"):
        split(bytes(31), threshold=1, shares=1)
