"""Shamir's secret sharing (1979): any `threshold` shares give a secret, fewer say nothing of it.

The secret is the constant term of a random polynomial of degree threshold - 1 over a prime field;
share x is its value at x = 1, 2 ... Lagrange interpolation at 0 gives the secret back.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PRIME = 2**256 + 297
"""The smallest prime above 2^256: every secret of 32 bytes is an element of the field."""

SECRET_BYTES = 32
SHARE_BYTES = 33


class ShareError(ValueError):
    """Shares that do not belong together, or numbers that no sharing can have."""


def split(secret: bytes, *, threshold: int, shares: int) -> list[bytes]:
    """Return the shares 1, 2 ... `shares` of a secret of SECRET_BYTES.

    Args:
        secret: what is shared.
        threshold: how many shares give it back.
        shares: how many are made.

    Raises:
        ShareError: the numbers cannot be, or the secret has another length.
    """
    if len(secret) != SECRET_BYTES:
        raise ShareError(f"a secret has {SECRET_BYTES} bytes, not {len(secret)}")
    if not 1 <= threshold <= shares:
        raise ShareError(f"{threshold} of {shares} shares cannot be asked for")
    coefficients = [int.from_bytes(secret), *(_random() for _ in range(threshold - 1))]
    return [_value(coefficients, x).to_bytes(SHARE_BYTES) for x in range(1, shares + 1)]


def join(shares: Mapping[int, bytes], *, threshold: int) -> bytes:
    """Return the secret.

    Args:
        shares: number of a share (from 1) -> share; `threshold` of them are used.
        threshold: how many it takes.

    Raises:
        ShareError: too few, or they give no secret: at least one is wrong.
    """
    if len(shares) < threshold or min(shares, default=0) < 1:
        raise ShareError(f"{len(shares)} shares are too few; {threshold} are needed")
    points = {x: int.from_bytes(shares[x]) for x in sorted(shares)[:threshold]}
    total = 0
    for x, value in points.items():
        above, below = 1, 1
        for other in points:
            if other != x:
                above = above * other % PRIME
                below = below * (other - x) % PRIME
        total += value * above * pow(below, -1, PRIME)
    total %= PRIME
    if total >= 2 ** (8 * SECRET_BYTES):
        raise ShareError("these shares give no secret; at least one of them is wrong")
    return total.to_bytes(SECRET_BYTES)


def _random() -> int:
    return secrets.randbelow(PRIME)


def _value(coefficients: list[int], x: int) -> int:
    """Return the polynomial at x (Horner)."""
    total = 0
    for coefficient in reversed(coefficients):
        total = (total * x + coefficient) % PRIME
    return total
