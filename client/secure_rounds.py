"""A site's part in secure aggregation: five questions of the server, and what it never answers.

docs/secure_aggregation.md has the protocol and what a server that lies could do. A question that
comes again is answered as before; one that is changed, or that would give this site's update or
another's away, is refused with the code `secure_aggregation`; the cause stays in the site's log.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cardionets_core.errors import SiteError
from cardionets_core.privacy.secure_aggregation.protocol import (
    PUBLIC_BYTES,
    SEALED_BYTES,
    ProtocolError,
    Secrets,
)
from cardionets_core.privacy.secure_aggregation.quantiser import Quantiser, size_of
from cardionets_core.privacy.secure_aggregation.shamir import SHARE_BYTES
from cardionets_core.privacy.secure_aggregation.signatures import (
    SIGNATURE_BYTES,
    require_signed,
    sign,
)
from cardionets_core.secure_config import AGREEMENTS, FEWEST, KEYS, SECURE, SHARES
from cardionets_core.wire_limits import is_site_name
from client.memory import RunMemory
from client.release import hidden, in_session
from client.secure_agreement import agreement, require_agreed, require_hidden
from client.secure_session import Book, Session, SessionFile, question_mark, terms_mark

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from cardionets_core.messages import Task, TaskHeader, TrainPlan, Update
    from cardionets_core.secure_config import SecureTask
    from client.site import Site

    Bytes = NDArray[np.uint8]

Train = Callable[["Task", "Site"], "Update"]
"""What serves a training task that is not part of a session."""

log = logging.getLogger("cardionets.site")


def serve_securely(task: Task, site: Site, train: Train) -> Update:
    """Serve one message of a session.

    Args:
        task: a training task, admitted by the site's policy.
        site: this hospital.
        train: trains, or gives the stored answer of the same task.

    Raises:
        SiteError: `secure_aggregation`, see above; or what `train` refuses.
    """
    try:
        asked, plan = _admitted(task.header, site.config.privacy.secure_sites)
        if asked.phase == "train":
            return _masked(task, site, train)
        memory = RunMemory(site.runs, task.header)
        with memory.alone(plan.budget_s):
            file = SessionFile(memory.folder)
            book, reply = _ANSWERS[asked.phase](task, asked, site, file.read())
            file.write(book)  # before anything leaves: what was told is never untold
        return in_session(task.header, site.name, reply)
    except ProtocolError as error:
        log.warning("refused in secure aggregation: %s", error)
        raise SiteError("secure_aggregation") from None


def _admitted(header: TaskHeader, secure_sites: int) -> tuple[SecureTask, TrainPlan]:
    """Return what is asked, where this hospital allows it at all."""
    asked, plan = header.secure, header.train
    if asked is None or plan is None:
        raise ProtocolError("privacy.secure_sites is set here, and the task asks for an update")
    least = max(FEWEST, secure_sites)
    if asked.threshold < least:
        raise ProtocolError(f"a sum over {asked.threshold} sites; {least} are needed here")
    clips = [asked.clip, *asked.clips.values()]
    if not all(math.isfinite(c) and c > 0 for c in clips) or asked.largest < 1:
        raise ProtocolError("a clip or the largest weight is out of range")
    if plan.codec != "float32":
        raise ProtocolError("an update in a codec cannot be hidden")
    if plan.control != "none" or plan.partial:
        # With either, all others' updates could be made ones that the server knows beforehand.
        raise ProtocolError("SCAFFOLD and partial work are not possible in a secure sum")
    return asked, plan


def _keys(task: Task, asked: SecureTask, site: Site, book: Book) -> tuple[Book, dict[str, Bytes]]:
    """Make keys for a new session; secrets of one before are dropped."""
    if book.session is not None and book.session.name == asked.session:
        session, _ = book.continued(task)
    else:
        terms, mark = terms_mark(task.header, asked), question_mark(task)
        session = Session(asked.session, terms, Secrets(), asked={"keys": mark})
    assert session.secrets is not None  # it has come no further than its keys
    public, key_file = session.secrets.public, site.config.privacy.signing_key
    signature = sign(public, session=session.name, site=site.name, key_file=key_file)
    return replace(book, session=session), {KEYS: _bytes(public + signature)}


def _shares(task: Task, asked: SecureTask, site: Site, book: Book) -> tuple[Book, dict[str, Bytes]]:
    """Seal shares of this site's secrets for every site of the roster."""
    session, again = book.continued(task)
    if not again:
        roster = _roster(task, asked, site)
        session = replace(session, roster=roster)
        member = session.member(site.name, asked.threshold)
        member.check()
        require_hidden(member.terms, site.config.privacy)
        sealed, own = member.shares()
        rows = b"".join(sealed.get(name, bytes(SEALED_BYTES)) for name in roster)
        session = _after(session, task, reply=rows, own=own)
    return replace(book, session=session), {SHARES: _rows(session.reply, SEALED_BYTES)}


def _agree(task: Task, asked: SecureTask, site: Site, book: Book) -> tuple[Book, dict[str, Bytes]]:
    """Sign whose masks are in this site's residues and who came; once in a session."""
    session, again = book.continued(task)
    if not again:
        came = _came(task, asked, site, book)
        terms = session.member(site.name, asked.threshold).terms
        reply = agreement(session, terms, site, came)
        session = _after(session, task, reply=reply, own=session.own)
        session = replace(session, agreed=tuple(came))
    return replace(book, session=session), {AGREEMENTS: _bytes(session.reply)}


def _unmask(task: Task, asked: SecureTask, site: Site, book: Book) -> tuple[Book, dict[str, Bytes]]:
    """Give one share of each site, and forget this site's own secrets."""
    session, again = book.continued(task)
    if not again:
        place, came = _place(task.header), _came(task, asked, site, book)
        member = session.member(site.name, asked.threshold)
        said = task.weights.get(SECURE, {}).get(AGREEMENTS)
        require_agreed(session, member.terms, site, came, said)
        sealed = _sealed(task, session.roster)
        given = member.reveal(sealed, session.own, masked=session.present, came=came)
        rows = b"".join(given.get(name, bytes(SHARE_BYTES)) for name in session.roster)
        session = replace(_after(session, task, reply=rows, own=b""), secrets=None)
        book = replace(book, opened={**book.opened, place: came})
    return replace(book, session=session), {SHARES: _rows(session.reply, SHARE_BYTES)}


_ANSWERS = {"keys": _keys, "shares": _shares, "agree": _agree, "unmask": _unmask}


def _came(task: Task, asked: SecureTask, site: Site, book: Book) -> list[str]:
    """Return who is said to be in the sum, where that can be by this site's own book."""
    session = book.session
    assert session is not None  # the question goes on with one
    if not session.residues:
        raise ProtocolError("a sum is to be opened to which this site has added nothing")
    terms = session.member(site.name, asked.threshold).terms
    terms.check_sites(asked.present, among=session.present, me=site.name)
    came = sorted(asked.present)
    book.require_first(_place(task.header), came)
    return came


def _masked(task: Task, site: Site, train: Train) -> Update:
    """Train, and return the update as residues under this site's masks."""
    header, asked = task.header, task.header.secure
    assert asked is not None and header.train is not None
    memory, limit_s = RunMemory(site.runs, header), header.train.budget_s
    with memory.alone(limit_s):
        file = SessionFile(memory.folder)
        book = file.read()
        session, again = book.continued(task)
        if not again:
            member = session.member(site.name, asked.threshold)
            member.terms.check_sites(asked.present, among=session.roster, me=site.name)
            session = replace(_after(session, task, own=session.own), present=asked.present)
            file.write(replace(book, session=session))
    update = train(replace(task, header=replace(header, secure=None)), site)
    residues = _residues(update, asked, session.roster)
    with memory.alone(limit_s):
        book = file.read()
        session, _ = book.continued(task)  # another process may have gone on meanwhile
        mark = hashlib.sha256(residues.data).hexdigest()
        if session.residues not in ("", mark):
            # The difference of two vectors under one mask is the difference of their updates.
            raise ProtocolError("another update is to be sent under the same masks")
        file.write(replace(book, session=replace(session, residues=mark)))
    session.member(site.name, asked.threshold).mask(residues, session.present)
    return hidden(update, header, residues.astype("<u4", copy=False).view(np.uint8))


def _residues(update: Update, asked: SecureTask, roster: Collection[str]) -> NDArray[np.uint32]:
    if update.examples:
        # Whose parts differ from the others' would not be hidden among them.
        raise SiteError("refused_task")
    quantiser = Quantiser(len(roster), asked.clip, asked.clips, asked.largest)
    residues, clipped = quantiser.residues(update.delta, update.num_examples)
    if clipped:
        log.warning(
            "%d of %d values of the update were clipped to +-%g (secure_aggregation.clip)",
            clipped,
            size_of(update.delta),
            asked.clip,
        )
    return residues


def _after(session: Session, task: Task, *, own: bytes, reply: bytes = b"") -> Session:
    """Return the session with a question written down that was not asked before."""
    assert task.header.secure is not None
    asked = {**session.asked, task.header.secure.phase: question_mark(task)}
    return replace(session, asked=asked, own=own, reply=reply)


def _roster(task: Task, asked: SecureTask, site: Site) -> dict[str, bytes]:
    names = asked.roster
    rows = _array(task, KEYS, rows=len(names), width=PUBLIC_BYTES + SIGNATURE_BYTES)
    if len(set(names)) != len(names) or not all(is_site_name(name) for name in names):
        raise ProtocolError("a name stands twice in the roster, or is none")
    keys = {name: row[:PUBLIC_BYTES].tobytes() for name, row in zip(names, rows, strict=True)}
    peers = site.config.privacy.peers
    if peers:
        signatures = {
            name: row[PUBLIC_BYTES:].tobytes() for name, row in zip(names, rows, strict=True)
        }
        others = {name: public for name, public in keys.items() if name != site.name}
        require_signed(others, signatures, session=asked.session, peers=peers)
    return keys


def _sealed(task: Task, roster: Mapping[str, bytes]) -> dict[str, bytes]:
    rows = _array(task, SHARES, rows=len(roster), width=SEALED_BYTES)
    return {name: row.tobytes() for name, row in zip(roster, rows, strict=True)}


def _array(task: Task, name: str, *, rows: int, width: int) -> Bytes:
    array = task.weights.get(SECURE, {}).get(name)
    if array is None or array.dtype != np.uint8 or array.shape != (rows, width):
        raise ProtocolError(f"the {name} of the message are missing, or of another size")
    return array


def _place(header: TaskHeader) -> str:
    return f"{header.stage}/{header.round}"


def _bytes(value: bytes) -> Bytes:
    return np.frombuffer(value, dtype=np.uint8)


def _rows(value: bytes, width: int) -> Bytes:
    return _bytes(value).reshape(-1, width)
