"""Secure aggregation at this hospital: whether a secure round would find what the YAML names."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from cardionets_core.errors import ConfigError
from cardionets_core.privacy.secure_aggregation.signatures import read_peer, read_signing_key
from client.checks.findings import Finding, error, ok, warning

if TYPE_CHECKING:
    from cardionets_core.site_config import SiteConfig

WHEN = (
    "Each secure round would be refused here (`config`), the first one after the handshake was "
    "answered and charged."
)


def check_secure_sums(config: SiteConfig) -> list[Finding]:
    """Read the keys as a secure round does, and say by which rules this site adds to a sum.

    Args:
        config: of the site; one that says nothing of secure sums gets no finding.
    """
    privacy = config.privacy
    if not (privacy.secure_sites or privacy.signing_key or privacy.peers):
        return []
    found = [*_own_key(privacy.signing_key), *_peers(config)]
    if any(f.level == "error" for f in found):
        return found
    return [ok("policy", _rules(config), "secure_sums"), *found]


def _rules(config: SiteConfig) -> str:
    privacy, others = config.privacy, sorted(set(config.privacy.peers) - {config.site})
    least = privacy.secure_sites
    sums = f"only over >= {least} sites" if least else "not demanded (secure_sites is 0)"
    signed = "signed" if privacy.signing_key else "not signed"
    named = ", ".join(others) if others else "none named, so any site of the coordinator's list"
    return f"Secure sums: {sums}, {signed}, peers: {named}."


def _own_key(key_file: str) -> list[Finding]:
    if not key_file:
        return []
    try:
        read_signing_key(key_file)
    except ConfigError as cause:
        step = "Name the whole path of this hospital's private key as privacy.signing_key."
        return [error("policy", "signing_key", str(cause), cause=WHEN, next_step=step)]
    mode = stat.S_IMODE(Path(key_file).stat().st_mode)
    if not mode & 0o077:
        return []
    return [
        warning(
            "policy",
            "signing_key_open",
            f"privacy.signing_key can be read by other accounts (mode {mode:03o}).",
            cause="Whoever has it can sign keys as this hospital.",
            next_step=f"chmod 600 {key_file}; if others had access, make a new pair and give the "
            "other hospitals its .pub line.",
        )
    ]


def _peers(config: SiteConfig) -> list[Finding]:
    privacy = config.privacy
    found = []
    for site, line in sorted(privacy.peers.items()):
        try:
            read_peer(site, line)
        except ConfigError as cause:
            step = f"Ask {site} for the line in its signing_key.pub, not through the coordinator."
            found.append(error("policy", "peer_key", str(cause), cause=WHEN, next_step=step))
    if not privacy.peers:
        return found
    members = len({*privacy.peers, config.site})
    if members < max(2, privacy.secure_sites):
        found.append(_too_few(members, privacy.secure_sites))
    if not privacy.signing_key:
        found.append(_unsigned())
    return found


def _too_few(members: int, least: int) -> Finding:
    return error(
        "policy",
        "peers_few",
        f"privacy.peers and this site are {members} in all, and privacy.secure_sites is {least}.",
        cause="Sums are over peers only, so no sum could be over enough sites "
        "(`secure_aggregation`).",
        next_step="Add the verification keys of the other hospitals to privacy.peers, or lower "
        "privacy.secure_sites if the hospital agrees.",
    )


def _unsigned() -> Finding:
    return warning(
        "policy",
        "unsigned",
        "privacy.peers is set, and privacy.signing_key is not.",
        cause="A hospital that has this one in its own privacy.peers refuses keys without a "
        "signature.",
        next_step="Make a pair (ssh-keygen -t ed25519 -N '' -f signing_key), name the private "
        "half's whole path, and give the others the .pub line.",
    )
