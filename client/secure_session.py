"""What a site keeps of secure aggregation between two messages: one file in the run's folder.

It holds the secrets of the session in hand, and of every round that was opened, over which sites.
A new session takes the place of the old one, and when a sum was opened the secrets are taken out.
There is no second generation of this file, unlike of others: a secret that is done with must be
gone. Where the file is lost or torn the site has no session, and takes part in the next one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cardionets_core.config_tree import digest
from cardionets_core.durable import move_into_place
from cardionets_core.errors import DataError
from cardionets_core.packing import fingerprint
from cardionets_core.privacy.secure_aggregation.protocol import (
    Member,
    ProtocolError,
    Secrets,
    Terms,
)
from cardionets_core.secure_config import SecureTask

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cardionets_core.messages import Task, TaskHeader

FILE = "secure-aggregation.sealed"
FOLLOWS = {
    "keys": ("",),
    "shares": ("keys",),
    "train": ("shares",),
    "agree": ("train",),
    "unmask": ("train", "agree"),
}
"""Phase -> after which it may be asked; a site with peers opens nothing without `agree`."""

_DIGEST_LENGTH = 64

log = logging.getLogger("cardionets.site")


@dataclass(frozen=True)
class Session:
    """One session, as far as this site has come in it.

    Attributes:
        name: as the server calls it.
        terms: SHA-256 of what may not change in it: round, threshold, clips, largest weight.
        secrets: of this site; None once the sum was opened.
        asked: phase -> SHA-256 of what was asked; in the order of the phases.
        reply: what was answered to the last one that has an answer of its own.
        roster: site -> its public keys.
        own: the shares of its own secrets that stay here.
        present: sites whose masks are in this site's residues.
        residues: SHA-256 of the residues before they were masked; empty: none were sent.
        agreed: sites of which it has signed that they came; empty: it has signed no list.
    """

    name: str
    terms: str
    secrets: Secrets | None
    asked: dict[str, str] = field(default_factory=dict)
    reply: bytes = b""
    roster: dict[str, bytes] = field(default_factory=dict)
    own: bytes = field(default=b"", repr=False)
    present: tuple[str, ...] = ()
    residues: str = ""
    agreed: tuple[str, ...] = ()

    def member(self, site: str, threshold: int) -> Member:
        """Return this site as a member.

        Raises:
            ProtocolError: its secrets are gone.
        """
        if self.secrets is None:
            raise ProtocolError("the sum was opened, and the keys of the session are gone")
        return Member(site, self.secrets, Terms(self.name, threshold, self.roster, self.terms))


@dataclass(frozen=True)
class Book:
    """What a site keeps of a run.

    Attributes:
        session: the one in hand.
        opened: `STAGE/ROUND` -> the sites over which this site has helped to open a sum.
    """

    session: Session | None = None
    opened: dict[str, list[str]] = field(default_factory=dict)

    def continued(self, task: Task) -> tuple[Session, bool]:
        """Return the session that a task goes on with, and whether it asks what it has asked.

        Raises:
            ProtocolError: there is no such session, or the task changes what was agreed, asks
                another thing than before, or out of order.
        """
        asked, session = task.header.secure, self.session
        assert asked is not None
        if session is None or session.name != asked.session:
            raise ProtocolError("this session is unknown here, or its keys are gone")
        if session.terms != terms_mark(task.header, asked):
            raise ProtocolError("the terms of a session were changed")
        if asked.phase in session.asked:
            if session.asked[asked.phase] != question_mark(task):
                raise ProtocolError(f"asked twice, and differently, in phase {asked.phase}")
            if next(reversed(session.asked)) != asked.phase:
                raise ProtocolError(f"phase {asked.phase} of this session is over")
            return session, True
        if next(reversed(session.asked), "") not in FOLLOWS[asked.phase]:
            raise ProtocolError(f"phase {asked.phase} was asked out of order")
        return session, False

    def require_first(self, place: str, sites: list[str]) -> None:
        """Check that opening a sum does not let the server subtract it from one of the same round.

        Raises:
            ProtocolError: the round was opened over other sites.
        """
        if self.opened.get(place, sites) != sites:
            raise ProtocolError(
                f"the sum of {place} was opened over other sites; the difference of the two sums "
                "would be the update of a few. The round can be repeated with those sites only"
            )


class SessionFile:
    """Reads and writes a Book.

    Args:
        folder: of the run; this process must be alone in it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def read(self) -> Book:
        """Return what is kept; nothing where the file is away or torn."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return Book()
        except OSError as error:
            raise self._unusable(error) from error
        seal, body = data[:_DIGEST_LENGTH], data[_DIGEST_LENGTH:]
        if hashlib.sha256(body).hexdigest().encode() != seal:
            log.warning("the file of secure aggregation is torn; its session is lost")
            return Book()
        return _book(json.loads(body))

    def write(self, book: Book) -> None:
        """Keep this in place of what was kept before.

        Raises:
            DataError: the disk is full or away.
        """
        body = json.dumps(_plain(asdict(book)), allow_nan=False).encode()
        temporary = self._path.with_name(f".writing-{os.getpid()}.tmp")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(hashlib.sha256(body).hexdigest().encode() + body)
                file.flush()
                os.fsync(file.fileno())
            move_into_place(temporary, self._path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> DataError:
        return DataError(
            f"{self._path} cannot be used: {error}. The site keeps the keys of a session of secure "
            "aggregation there; make room, or mend the folder's rights."
        )


def terms_mark(header: TaskHeader, asked: SecureTask) -> str:
    """Return the SHA-256 of what may not change from one phase of a session to the next."""
    fixed = SecureTask(
        asked.session, "keys", asked.threshold, asked.clip, asked.clips, asked.largest
    )
    words = f"{header.stage}/{header.round}|{digest(fixed)}"
    return hashlib.sha256(words.encode()).hexdigest()


def question_mark(task: Task) -> str:
    """Return the SHA-256 of all that a message of a session says.

    What differs between sites is left out (notice, memory, seconds, ledger heads): sites that were
    asked the same to train have the same mark. Model weights are in it by the fingerprints of the
    header, all other arrays by their own.
    """
    header = replace(task.header, notice=None, memory="")
    if header.train is not None:
        header = replace(header, train=replace(header.train, budget_s=0.0))
    if header.privacy is not None:
        header = replace(header, privacy=replace(header.privacy, head="", heads={}))
    others = {g: fingerprint(a) for g, a in sorted(task.weights.items()) if g not in header.parts}
    return hashlib.sha256(f"{digest(header)}|{json.dumps(others)}".encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Return a value with its bytes as hexadecimal texts."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return value


def _book(values: Mapping[str, Any]) -> Book:
    opened = {place: list(sites) for place, sites in values["opened"].items()}
    kept = values["session"]
    if kept is None:
        return Book(None, opened)
    secrets = kept["secrets"]
    session = Session(
        name=kept["name"],
        terms=kept["terms"],
        secrets=Secrets(**{k: bytes.fromhex(v) for k, v in secrets.items()}) if secrets else None,
        asked=dict(kept["asked"]),
        reply=bytes.fromhex(kept["reply"]),
        roster={site: bytes.fromhex(keys) for site, keys in kept["roster"].items()},
        own=bytes.fromhex(kept["own"]),
        present=tuple(kept["present"]),
        residues=kept["residues"],
        agreed=tuple(kept.get("agreed", ())),  # a file of the version before has none
    )
    return Book(session, opened)
