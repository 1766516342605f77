"""What a site's check says of secure sums: what a secure round would refuse, and the rest."""

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

from cardionets_core.privacy_config import SitePrivacy
from cardionets_core.site_config import SiteConfig, SiteData
from client.checks.secure_sums import check_secure_sums
from tests.client.site_bench import codes

DATA = SiteData("/data", "/data/manifest.csv", "/cache", "salt")


def key_file(folder, key=None, mode=0o600):
    """Write a private key; return its whole path and the line of the public one."""
    key, path = key or Ed25519PrivateKey.generate(), folder / "signing_key"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(mode)
    return str(path), key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def check(**privacy):
    """Return the findings of a site `north` whose YAML says this of privacy."""
    return check_secure_sums(SiteConfig("north", DATA, privacy=SitePrivacy(**privacy)))


def test_a_site_that_says_nothing_of_secure_sums_is_told_nothing():
    assert check() == []


@pytest.mark.parametrize(
    ("secure_sites", "signs", "peers", "said"),
    [
        (2, True, ["hill"], "Secure sums: only over >= 2 sites, signed, peers: hill."),
        (3, True, ["west", "north", "hill"], "only over >= 3 sites, signed, peers: hill, west."),
        (3, False, [], "only over >= 3 sites, not signed, peers: none named, so any site"),
        (0, True, ["hill"], "not demanded (secure_sites is 0), signed, peers: hill."),
    ],
)
def test_keys_in_order_are_said_with_the_rules(tmp_path, secure_sites, signs, peers, said):
    file, line = key_file(tmp_path)
    found = check(
        secure_sites=secure_sites,
        signing_key=file if signs else "",
        peers=dict.fromkeys(peers, line),
    )
    assert [f.level for f in found] == ["ok"] and said in found[0].what


def test_a_signing_key_that_a_secure_round_would_refuse_is_an_error(tmp_path):
    elliptic, _ = key_file(tmp_path, generate_private_key(SECP384R1()))
    wrong = {
        str(tmp_path / "nokey"): "No such file",
        elliptic: "of another kind",
        "signing_key": "write the whole path",
    }
    for file, said in wrong.items():
        (finding,) = check(secure_sites=2, signing_key=file)
        assert (finding.level, finding.code) == ("error", "signing_key")
        assert "privacy.signing_key" in finding.what and said in finding.what
        assert "`config`" in finding.cause and "whole path" in finding.next_step


@pytest.mark.parametrize("kind", ["rsa", "elliptic"])
def test_a_peer_key_of_a_wrong_kind_is_an_error_with_its_name(tmp_path, kind):
    file, line = key_file(tmp_path)
    (tmp_path / "other").mkdir()
    _, elliptic = key_file(tmp_path / "other", generate_private_key(SECP384R1()))
    bad = "ssh-rsa AAAA" if kind == "rsa" else elliptic
    (finding,) = check(signing_key=file, peers={"hill": bad, "west": line})
    assert (finding.level, finding.code) == ("error", "peer_key")
    assert "privacy.peers.hill" in finding.what and "Ask hill" in finding.next_step


def test_a_sum_that_can_never_be_over_enough_peers_is_an_error(tmp_path):
    file, line = key_file(tmp_path)
    (finding,) = check(secure_sites=3, signing_key=file, peers={"hill": line})
    assert (finding.level, finding.code) == ("error", "peers_few")
    assert "2 in all, and privacy.secure_sites is 3" in finding.what


def test_open_and_missing_signing_keys_are_warned_of(tmp_path):
    file, line = key_file(tmp_path, mode=0o644)
    rules, warned = check(secure_sites=2, signing_key=file)
    assert (rules.level, warned.level, warned.code) == ("ok", "warning", "signing_key_open")
    assert "mode 644" in warned.what
    rules, warned = check(secure_sites=2, peers={"hill": line})
    assert (rules.level, warned.level, warned.code) == ("ok", "warning", "unsigned")


def test_the_check_of_a_whole_site_finds_it(bench):
    bench.edit(privacy={"secure_sites": 2, "signing_key": "/no/such/key"})
    result = bench.check()
    assert "signing_key" in codes(result) and result.exit_code == 2
