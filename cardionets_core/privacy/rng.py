"""The only source of what privacy rests on: who is sampled, bucket labels and noise.

AES-256 in counter mode, keyed by the operating system. There is no seed, so that nobody can draw
the same noise twice, by accident (a re-seeded round) or on purpose (a coordinator's seed): two
rounds with the same noise cancel it. docs/privacy.md, section "Randomness".
"""

from __future__ import annotations

import math
import os
from typing import Any, NoReturn, Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

BITS = 53
"""Random bits of a uniform number: what a float64 holds."""

BLOCK = 2**20
"""Numbers that are made at a time, so that a large tensor needs no second one beside it."""

FAKE = "CARDIONETS_FAKE_RANDOMNESS"
"""Environment variable without which no fake source is taken, even in tests."""

_forks = 0


def _note_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_note_fork)


class RandomSource(Protocol):
    """What the mechanisms draw from."""

    def bernoulli(self, n: int, rate: float) -> NDArray[np.bool_]:
        """Return n independent True with probability `rate`."""

    def integers(self, n: int, high: int) -> NDArray[np.int64]:
        """Return n independent uniform numbers in 0 .. high - 1."""

    def normal(self, shape: tuple[int, ...], std: float) -> NDArray[np.float64]:
        """Return independent centred normals."""


class PrivacyRandom:
    """Random numbers that nobody can repeat: no seed, no copy, no pickle, a new key per fork."""

    __slots__ = ("_born", "_stream")  # no other attribute: a method cannot be put in its place

    def __init__(self) -> None:
        self._key()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("privacy randomness is never copied or written: its noise would repeat")

    def bernoulli(self, n: int, rate: float) -> NDArray[np.bool_]:
        """Return n independent True with probability `rate`; the error is below 2^-53."""
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"a rate of {rate} is not a probability")
        return self._words(n) < np.uint64(int(rate * 2**BITS))

    def integers(self, n: int, high: int) -> NDArray[np.int64]:
        """Return n independent uniform numbers in 0 .. high - 1; bias below high / 2^53."""
        if not 1 <= high <= 2**32:
            raise ValueError(f"high is {high}; it must be in 1 .. 2^32")
        return (self._words(n) % np.uint64(high)).astype(np.int64)

    def normal(self, shape: tuple[int, ...], std: float) -> NDArray[np.float64]:
        """Return independent normals of standard deviation `std` (Box and Muller 1958).

        In float64: what is added to a sum is rounded once, with it, to the model's precision. Its
        low 29 bits, which could tell of the sum (Mironov 2012), go with that.
        """
        count = math.prod(shape)
        drawn = np.empty(count)
        for start in range(0, count, BLOCK):
            part = drawn[start : start + BLOCK]
            part[:] = self._normals(len(part))
        drawn *= std
        return drawn.reshape(shape)

    def _normals(self, count: int) -> NDArray[np.float64]:
        pairs = (count + 1) // 2
        uniform = (self._words(2 * pairs).astype(np.float64) + 0.5) * 2.0**-BITS  # never 0 or 1
        radius = np.sqrt(-2.0 * np.log(uniform[:pairs]))
        angle = 2.0 * np.pi * uniform[pairs:]
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]

    def _words(self, count: int) -> NDArray[np.uint64]:
        """Return uniform integers below 2^53."""
        if self._born != (os.getpid(), _forks):
            self._key()  # a child would go on with its parent's stream
        stream = np.frombuffer(self._stream.update(bytes(8 * count)), dtype=np.uint64)
        return stream >> np.uint64(64 - BITS)

    def _key(self) -> None:
        cipher = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(16)))
        self._stream = cipher.encryptor()
        self._born = (os.getpid(), _forks)


_fakes: set[type] = set()


def register_fake(kind: type) -> None:
    """Let tests put a source of their own in place of `PrivacyRandom`.

    Raises:
        TypeError: outside pytest, or without CARDIONETS_FAKE_RANDOMNESS=1.
    """
    if not _in_tests():
        raise TypeError(
            f"{kind.__name__} may not replace PrivacyRandom: outside pytest with {FAKE}=1 noise "
            "that can be predicted hides nothing. Remove the call."
        )
    _fakes.add(kind)


def require_production(rng: RandomSource) -> None:
    """Refuse every source but `PrivacyRandom` (and, in tests, a registered fake).

    Raises:
        TypeError: another class, or a subclass, which may draw in another way.
    """
    if type(rng) is PrivacyRandom or (type(rng) in _fakes and _in_tests()):
        return
    raise TypeError(
        f"privacy randomness from {type(rng).__name__}: membership, labels and noise come from "
        "PrivacyRandom only. Pass PrivacyRandom()."
    )


def _in_tests() -> bool:
    return "PYTEST_VERSION" in os.environ and os.environ.get(FAKE) == "1"
