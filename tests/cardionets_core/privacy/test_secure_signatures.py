"""Signed keys: a server can neither make sites up nor change what they have published."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from cardionets_core.errors import ConfigError
from cardionets_core.privacy.secure_aggregation.protocol import ProtocolError, Secrets
from cardionets_core.privacy.secure_aggregation.signatures import UNSIGNED, require_signed, sign


def pair(folder, name, key=None):
    """Write a private key; return its file and the line of the public one."""
    key = key or Ed25519PrivateKey.generate()
    file = folder / name
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return str(file), line.decode()


@pytest.fixture
def north(tmp_path):
    file, line = pair(tmp_path, "north")
    keys = Secrets().public
    signature = sign(keys, session="s1", site="north", key_file=file)
    return keys, signature, line


def test_signed_keys_of_a_known_site_are_taken(north):
    keys, signature, line = north
    require_signed({"north": keys}, {"north": signature}, session="s1", peers={"north": line})


def test_keys_of_another_session_site_or_maker_are_not(north, tmp_path):
    keys, signature, line = north
    peers = {"north": line, "south": line}
    for site, public, signed, session in (
        ("north", keys, signature, "s2"),
        ("south", keys, signature, "s1"),
        ("north", Secrets().public, signature, "s1"),
        ("north", keys, UNSIGNED, "s1"),
    ):
        with pytest.raises(ProtocolError, match=f"keys of site {site} are not signed"):
            require_signed({site: public}, {site: signed}, session=session, peers=peers)
    with pytest.raises(ProtocolError, match=r"site east is not named in privacy\.peers"):
        require_signed({"east": keys}, {"east": signature}, session="s1", peers=peers)


def test_a_site_without_a_key_does_not_sign():
    assert sign(b"keys", session="s", site="north", key_file="") == UNSIGNED == bytes(64)


def test_keys_of_another_kind_are_named_with_the_way_out(tmp_path):
    node_key, line = pair(tmp_path, "node_key", generate_private_key(SECP384R1()))
    with pytest.raises(ConfigError, match=r"signing_key is no Ed25519 key .*another kind.*ssh-key"):
        sign(b"keys", session="s", site="north", key_file=node_key)
    with pytest.raises(ConfigError, match=r"privacy\.peers\.north is no Ed25519 key"):
        require_signed({"north": b"k"}, {"north": UNSIGNED}, session="s", peers={"north": line})
    with pytest.raises(ConfigError, match=r"privacy\.peers\.north is no Ed25519 key"):
        require_signed({"north": b"k"}, {"north": UNSIGNED}, session="s", peers={"north": "x"})
    with pytest.raises(ConfigError, match="signing_key is no Ed25519 key"):
        sign(b"keys", session="s", site="north", key_file=str(tmp_path / "nothing"))
