"""Signatures under a site's public keys, so that the server cannot make sites up or change keys.

Sites learn each other's keys through the server. Hospitals that have given each other their
verification keys (Ed25519, RFC 8032) on another way can tell a key that a colleague made from one
that the server made. Keys are those of OpenSSH: ssh-keygen -t ed25519 -N '' -f signing_key.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    load_ssh_private_key,
    load_ssh_public_key,
)

from cardionets_core.errors import ConfigError
from cardionets_core.privacy.secure_aggregation.protocol import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping

SIGNATURE_BYTES = 64

UNSIGNED = bytes(SIGNATURE_BYTES)
"""In place of the signature of a site that has no signing key."""

_UNREADABLE = (OSError, ValueError, TypeError, UnsupportedAlgorithm)


def sign(keys: bytes, *, session: str, site: str, key_file: str) -> bytes:
    """Return the signature of a site under its public keys of a session.

    Args:
        keys: its public keys.
        session: name of the session.
        site: the site's name.
        key_file: whole path of its private key, Ed25519 in OpenSSH's format; empty: it does not
            sign.

    Raises:
        ConfigError: the file holds no such key, or its path is not whole.
    """
    if not key_file:
        return UNSIGNED
    return read_signing_key(key_file).sign(_statement(keys, session, site))


def read_signing_key(key_file: str) -> Ed25519PrivateKey:
    """Return a site's private key, as a secure round and `cardionets-site check` read it.

    Raises:
        ConfigError: the file holds no such key, or its path is not whole.
    """
    path = Path(key_file)
    if not path.is_absolute():
        raise ConfigError(
            f"privacy.signing_key names {key_file}, which is another place for a service that "
            f"starts elsewhere; write the whole path, for example {path.resolve()}."
        )
    try:
        private = load_ssh_private_key(path.read_bytes(), None)
    except _UNREADABLE as error:
        raise _no_key("privacy.signing_key", str(error)) from None
    if not isinstance(private, Ed25519PrivateKey):
        raise _no_key("privacy.signing_key", "it is of another kind")
    return private


def require_signed(
    keys: Mapping[str, bytes],
    signatures: Mapping[str, bytes],
    *,
    session: str,
    peers: Mapping[str, str],
) -> None:
    """Check that each of these sites is known, and has signed its keys for this session.

    Args:
        keys: site -> its public keys.
        signatures: site -> what is said to be its signature.
        session: name of the session.
        peers: site -> its verification key, a line as in an OpenSSH `.pub` file.

    Raises:
        ProtocolError: a site is a stranger, or a signature is missing or wrong.
        ConfigError: a verification key cannot be read.
    """
    for site, public in keys.items():
        if site not in peers:
            raise ProtocolError(f"site {site} is not named in privacy.peers here")
        try:
            verifier = read_peer(site, peers[site])
            verifier.verify(signatures[site], _statement(public, session, site))
        except InvalidSignature:
            raise ProtocolError(f"the keys of site {site} are not signed by its key") from None


def read_peer(site: str, line: str) -> Ed25519PublicKey:
    """Return the verification key of another hospital.

    Args:
        site: its name.
        line: of `privacy.peers`, as in an OpenSSH `.pub` file.

    Raises:
        ConfigError: the line is no such key.
    """
    try:
        key = load_ssh_public_key(line.encode())
    except _UNREADABLE as error:
        raise _no_key(f"privacy.peers.{site}", str(error)) from None
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(f"privacy.peers.{site}", "it is of another kind")
    return key


def _statement(keys: bytes, session: str, site: str) -> bytes:
    # Neither a session's name nor a site's holds a "|" that could move the borders of the words.
    return f"cardionets secure aggregation keys|{session}|{site}|".encode() + keys


def _no_key(where: str, cause: str) -> ConfigError:
    return ConfigError(
        f"{where} is no Ed25519 key in OpenSSH's format ({cause}). Make a pair with: ssh-keygen "
        "-t ed25519 -N '' -f signing_key; the other hospitals get the line in signing_key.pub."
    )
