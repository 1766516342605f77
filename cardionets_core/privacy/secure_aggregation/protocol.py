"""The steps of a session, as functions of what each side knows; no wire, disk or clock.

    keys     a site makes two pairs of keys and a seed, and publishes the public keys
    shares   it seals shares of its mask key and of its seed, one of each for every site
    mask     it adds its masks to its residues
    agree    it signs which sites' masks are in its residues, and who is said to have come
    reveal   of each site it gives one share: of the seed where that site's residues came, of the
             mask key where they did not; never of both

The server adds the residues, puts seeds and keys together from `threshold` sites' shares, and takes
off what is left of the masks. A roster is site -> public keys, and its order numbers the sites.

More than half of the roster must be needed (`Terms.check`): then the server cannot get enough
shares of a site's seed from some sites, and of its key from others, by telling them different
things. It does not need both of one site: with the seed of one and the mask keys of all others
whose masks are on it, that one is bare. So the threshold must be high enough for that, too
(thresholds.py), and sealed shares open only under the terms that they were made for. Sites that
know each other's verification keys open nothing before `threshold` of them have signed that they
were told the same (`agree`: the consistency check of Bonawitz et al. 2017, figure 4, round 3).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cardionets_core.privacy.secure_aggregation.masks import (
    KEY_BYTES,
    NONCE_BYTES,
    TAG_BYTES,
    SealError,
    add_mask,
    agreed_key,
    new_key,
    public_key,
    seal,
    seed_key,
    unseal,
)
from cardionets_core.privacy.secure_aggregation.shamir import (
    SHARE_BYTES,
    ShareError,
    join,
    split,
)
from cardionets_core.privacy.secure_aggregation.thresholds import lowest_threshold

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from cardionets_core.privacy.secure_aggregation.masks import Residues

    Roster = Mapping[str, bytes]

PUBLIC_BYTES = 2 * KEY_BYTES
"""Two public keys: the one that shares are sealed with, and the one that masks are made with."""

SEALED_BYTES = NONCE_BYTES + 2 * SHARE_BYTES + TAG_BYTES


class ProtocolError(ValueError):
    """The other side does not keep to the protocol; the text says how, and names no patient."""


@dataclass(frozen=True)
class Terms:
    """What all sites of a session agree on.

    Attributes:
        session: its name, made anew by the server for every try of a round.
        threshold: sites whose residues must be in the sum, and whose shares open it.
        roster: site -> its public keys.
        settings: SHA-256 of what else all sites must be told alike: the round, clips, weights. With
            a clip of 10^30 for the others a sum would be one site's update.
    """

    session: str
    threshold: int
    roster: Roster
    settings: str = ""

    def check(self) -> None:
        """Check that no site could be singled out under these terms.

        Raises:
            ProtocolError: the threshold is too low for so many sites, or keys stand twice.
        """
        sites = len(self.roster)
        least = lowest_threshold(sites)
        if not least <= self.threshold <= sites:
            raise ProtocolError(
                f"a threshold of {self.threshold} among {sites} sites; {least} or more are needed, "
                "so that a coordinator that tells them different lists opens none by itself"
            )
        if any(len(keys) != PUBLIC_BYTES for keys in self.roster.values()):
            raise ProtocolError("a public key has the wrong length")
        halves = [half for keys in self.roster.values() for half in _halves(keys)]
        if len(set(halves)) != len(halves):
            raise ProtocolError("two sites are said to have the same public key")

    @property
    def digest(self) -> bytes:
        """The SHA-256 of settings, threshold and roster, in its order."""
        mark = hashlib.sha256(f"{self.settings}|{self.threshold}|{len(self.roster)}".encode())
        for site, keys in self.roster.items():
            mark.update(f"|{site}|".encode() + keys)  # no site's name holds a "|"
        return mark.digest()

    def number(self, site: str) -> int:
        """Return the number of a site, from 1: the x of its shares."""
        return list(self.roster).index(site) + 1

    def check_sites(self, sites: Collection[str], *, among: Iterable[str], me: str = "") -> None:
        """Check who is said to have come so far.

        Args:
            sites: those.
            among: who could have.
            me: must be one of them; empty: nobody must.

        Raises:
            ProtocolError: too few, one twice, a stranger, or not the site that is asked.
        """
        if len(set(sites)) != len(sites) or not set(sites) <= set(among):
            raise ProtocolError("a site is named twice, or was not there before")
        if len(sites) < self.threshold:
            raise ProtocolError(f"{len(sites)} sites, and the threshold is {self.threshold}")
        if me and me not in sites:
            raise ProtocolError("this site is asked although it is said not to be there")


@dataclass(frozen=True)
class Secrets:
    """What a site must keep to itself during one session.

    Attributes:
        sealing: private key for shares.
        masking: private key for pairwise masks.
        seed: of the mask of its own.
    """

    sealing: bytes = field(default_factory=new_key, repr=False)
    masking: bytes = field(default_factory=new_key, repr=False)
    seed: bytes = field(default_factory=new_key, repr=False)

    @property
    def public(self) -> bytes:
        """The public keys, as they stand in the roster."""
        return public_key(self.sealing) + public_key(self.masking)


@dataclass(frozen=True)
class Member:
    """One site in a session.

    Attributes:
        site: its name.
        secrets: its own.
        terms: of the session.
    """

    site: str
    secrets: Secrets
    terms: Terms

    def check(self) -> None:
        """Check the terms, and that they hold this site's own keys.

        Raises:
            ProtocolError: they do not.
        """
        self.terms.check()
        if self.terms.roster.get(self.site) != self.secrets.public:
            raise ProtocolError("the roster does not hold this site's own keys")

    def shares(self) -> tuple[dict[str, bytes], bytes]:
        """Return other site -> the shares for it, sealed; and the shares that stay here.

        New ones with every call: a site that is asked again must send what it sent before.

        Raises:
            ProtocolError: a public key cannot be used.
        """
        threshold, sites = self.terms.threshold, len(self.terms.roster)
        keys = split(self.secrets.masking, threshold=threshold, shares=sites)
        seeds = split(self.secrets.seed, threshold=threshold, shares=sites)
        pairs = {s: k + b for s, k, b in zip(self.terms.roster, keys, seeds, strict=True)}
        own = pairs.pop(self.site)
        return {s: seal(p, self._sealing_key(s), about=self._about(self.site, s))
                for s, p in pairs.items()}, own  # fmt: skip

    def mask(self, residues: Residues, present: Collection[str]) -> None:
        """Add this site's masks in place; `present`: the sites whose shares came.

        Raises:
            ProtocolError: a public key cannot be used.
        """
        session = self.terms.session.encode()
        add_mask(residues, seed_key(self.secrets.seed, session=session), sign=1)
        number = self.terms.number(self.site)
        for other in present:
            if other != self.site:
                key = _mask_key(self.secrets.masking, self.terms, other)
                add_mask(residues, key, sign=1 if number < self.terms.number(other) else -1)

    def reveal(
        self, sealed: Mapping[str, bytes], own: bytes, *, masked: Iterable[str], came: Iterable[str]
    ) -> dict[str, bytes]:
        """Return site -> the one share of it that opens the sum.

        Args:
            sealed: site -> the shares that it sealed for this one.
            own: the shares that stayed here.
            masked: sites whose masks may be in the sum.
            came: those of them whose residues are in it.

        Raises:
            ProtocolError: sealed shares are missing or were changed.
        """
        came = set(came)
        return {s: _one(self._opened(s, sealed, own), seed=s in came) for s in masked}

    def _opened(self, site: str, sealed: Mapping[str, bytes], own: bytes) -> bytes:
        if site == self.site:
            return own
        try:
            about = self._about(site, self.site)
            return unseal(sealed.get(site, b""), self._sealing_key(site), about=about)
        except SealError as error:
            raise ProtocolError(str(error)) from None

    def _sealing_key(self, other: str) -> bytes:
        public, _ = _halves(self.terms.roster[other])
        session = self.terms.session.encode()
        try:
            return agreed_key(self.secrets.sealing, public, use="shares", session=session)
        except SealError as error:
            raise ProtocolError(str(error)) from None

    def _about(self, sender: str, receiver: str) -> bytes:
        # Under other terms than the sender's nobody opens them: no site is told other ones.
        return f"{self.terms.session}|{sender}|{receiver}|".encode() + self.terms.digest


def unmask(
    total: Residues,
    terms: Terms,
    revealed: Mapping[str, Mapping[str, bytes]],
    *,
    masked: Collection[str],
    came: Collection[str],
) -> None:
    """Take all masks off a sum, in place.

    Args:
        total: sum of the residues of `came`, modulo 2^32.
        terms: of the session.
        revealed: site that answered -> site -> the share of it.
        masked: sites whose masks are in the residues.
        came: those of them whose residues are in the sum.

    Raises:
        ProtocolError: too few shares, or wrong ones.
    """
    session = terms.session.encode()
    for site in came:
        seed = _joined(site, terms, revealed)
        add_mask(total, seed_key(seed, session=session), sign=-1)
    for gone in sorted(set(masked) - set(came)):
        private = _joined(gone, terms, revealed)
        if public_key(private) != _halves(terms.roster[gone])[1]:
            raise ProtocolError(f"the shares of site {gone} give another key than it had published")
        number = terms.number(gone)
        for site in came:
            # What the site that came has added with this sign is taken off.
            sign = -1 if terms.number(site) < number else 1
            add_mask(total, _mask_key(private, terms, site), sign=sign)


def _joined(site: str, terms: Terms, revealed: Mapping[str, Mapping[str, bytes]]) -> bytes:
    shares = {terms.number(giver): given[site] for giver, given in revealed.items()}
    try:
        return join(shares, threshold=terms.threshold)
    except ShareError as error:
        raise ProtocolError(f"site {site}: {error}") from None


def _mask_key(private: bytes, terms: Terms, other: str) -> bytes:
    _, public = _halves(terms.roster[other])
    try:
        return agreed_key(private, public, use="pairwise mask", session=terms.session.encode())
    except SealError as error:
        raise ProtocolError(str(error)) from None


def _halves(keys: bytes) -> tuple[bytes, bytes]:
    return keys[:KEY_BYTES], keys[KEY_BYTES:]


def _one(pair: bytes, *, seed: bool) -> bytes:
    return pair[SHARE_BYTES:] if seed else pair[:SHARE_BYTES]
