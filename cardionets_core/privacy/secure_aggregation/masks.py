"""Keys that two sites agree on, and the masks and seals that are made of them.

X25519 (RFC 7748) gives two sites a common secret from public keys, HKDF-SHA256 (RFC 5869) makes of
it one key for each use, AES-256 in counter mode stretches a key to a mask as long as an update, and
AES-256-GCM seals what one site tells another through the server.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Residues = NDArray[np.uint32]

KEY_BYTES = 32
NONCE_BYTES, TAG_BYTES = 12, 16

BLOCK = 2**18
"""Numbers of a mask that are made at a time."""

_ZEROS = bytes(4 * BLOCK)


class SealError(ValueError):
    """A key that nobody honest has, or a sealed message that was changed."""


def new_key() -> bytes:
    """Return a private key, or a seed."""
    return secrets.token_bytes(KEY_BYTES)


def public_key(private: bytes) -> bytes:
    """Return the public key of a private one."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agreed_key(private: bytes, public: bytes, *, use: str, session: bytes) -> bytes:
    """Return the key that the owners of two pairs of keys have in common, for one use.

    Raises:
        SealError: the public key is a point of small order, with which every secret would be zero.
    """
    try:
        ours = X25519PrivateKey.from_private_bytes(private)
        secret = ours.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise SealError("a public key is none that an honest site has") from None
    return _derived(secret, use, session)


def seed_key(seed: bytes, *, session: bytes) -> bytes:
    """Return the key of the mask that a site adds for itself."""
    return _derived(seed, "own mask", session)


def add_mask(residues: Residues, key: bytes, *, sign: int) -> None:
    """Add (sign 1) or take off (-1) the mask of a key, modulo 2^32, in place.

    A key is used for one mask only: its counter begins at zero.
    """
    stream = Cipher(AES256(key), CTR(bytes(16))).encryptor()
    for start in range(0, len(residues), BLOCK):
        block = residues[start : start + BLOCK]
        mask = np.frombuffer(stream.update(_ZEROS[: 4 * len(block)]), dtype="<u4")
        if sign > 0:
            block += mask
        else:
            block -= mask


def seal(message: bytes, key: bytes, *, about: bytes) -> bytes:
    """Return a message that only the key opens, and only as one `about` this."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, message, about)


def unseal(sealed: bytes, key: bytes, *, about: bytes) -> bytes:
    """Return the message of `seal`.

    Raises:
        SealError: it was changed, or is about something else, or for somebody else.
    """
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], about)
    except (InvalidTag, ValueError):
        raise SealError("a sealed share was changed, or was not meant for this site") from None


def _derived(secret: bytes, use: str, session: bytes) -> bytes:
    info = f"cardionets secure aggregation, {use}".encode()
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=session, info=info).derive(secret)
