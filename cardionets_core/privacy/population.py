"""Whose privacy a ledger pays for: keyed digests of patient ids, in a file beside the ledger.

The guarantee of a patient is what one ledger says only if no second one pays for the same patient.
So a ledger knows its patients, and refuses those that another ledger knows. Others are looked for
in the ledger's own folder (keep all ledgers of a hospital in one) and in the site's cache, where a
ledger leaves its mark.

Patients who join later are added without an entry: the chain's head and length leave the site and
must not tell that somebody joined. The file is not in the chain, and a copy of it that is too old
is completed when it is opened.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cardionets_core.durable import move_into_place
from cardionets_core.privacy.ledger_file import refuse

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SUFFIX = ".patients"
MARK = "privacy_ledger.json"
"""The ledger's mark in the site's cache: which ledger pays for the records there."""

_DIGEST_BYTES = 16


@dataclass(frozen=True)
class Population:
    """The patients of a ledger.

    Attributes:
        ledger: the ledger's own random name.
        salt: digest of the site's secret: another secret makes other digests of the same patients.
        digests: one for each patient.
    """

    ledger: str
    salt: str
    digests: frozenset[str]

    @classmethod
    def of(cls, ledger: str, patients: Iterable[str], salt: str) -> Population:
        """Return the digests of a site's patients.

        Raises:
            PrivacyError: the site has no secret.
        """
        if not salt:
            raise refuse(
                "data.salt is empty: without a secret the digests of patient ids could be guessed. "
                "Set data.salt to a long random text that never changes."
            )
        digests = frozenset(_digest(salt, f"patient:{patient}") for patient in patients)
        return cls(ledger, _digest(salt, "salt"), digests)


def bound(path: Path, own: Population) -> None:
    """Check that a ledger is of a site's patients and no other ledger is; add who is new.

    Args:
        path: of the ledger.
        own: the patients of the site's table.

    Raises:
        PrivacyError: another ledger, another population, or a file that was changed.
    """
    kept = read(_file(path))
    if kept is None:
        raise refuse(
            f"{_file(path)} is missing: whose privacy the ledger pays for is not known. Put back "
            "the newest backup of the ledger with all its files."
        )
    if kept.ledger != own.ledger or kept.salt != own.salt:
        what = "ledger" if kept.ledger != own.ledger else "data.salt"
        raise refuse(
            f"{_file(path)} was made with another {what}: a ledger of another population. Correct "
            "privacy.ledger or data.salt in the site's YAML."
        )
    if 2 * len(own.digests & kept.digests) < len(own.digests):
        raise refuse(
            f"{path} knows fewer than half of the patients of this site's table: a ledger of "
            "another population. Correct privacy.ledger, or data.manifest; a population of its own "
            "needs a ledger of its own (`cardionets-site budget init`)."
        )
    check_strangers(path, own)
    if not own.digests <= kept.digests:
        write(path, Population(own.ledger, own.salt, own.digests | kept.digests))


def check_strangers(path: Path, own: Population) -> None:
    """Refuse patients whom another ledger in the same folder pays for.

    Raises:
        PrivacyError: names the other ledger.
    """
    for file in sorted(path.parent.glob(f"*{SUFFIX}")):
        other = read(file) if file != _file(path) else None
        if other is None:
            continue
        name = file.name.removesuffix(SUFFIX)
        if other.salt != own.salt:
            raise refuse(
                f"{path}: in its folder is {name}, whose patients cannot be compared with this "
                "site's, since it was made with another data.salt. One hospital has one secret; "
                "keep the ledgers of other hospitals in folders of their own."
            )
        common = len(other.digests & own.digests)
        if common:
            raise refuse(
                f"{path}: {common} of this site's patients are in {name} already; two ledgers for "
                "one patient would each tell half of what was spent. Set privacy.ledger to that "
                "one, or take these patients out of one of the two tables."
            )


def check_mark(folder: Path, path: Path, ledger: str = "") -> bool:
    """Return whether a ledger's mark is where the site's prepared records are.

    Args:
        folder: the site's cache.
        path: of the ledger.
        ledger: its random name; empty: it is not made yet, so any mark is another one's.

    Raises:
        PrivacyError: the records are charged to another ledger, or the mark cannot be read.
    """
    mark = folder / MARK
    try:
        values = json.loads(mark.read_text("utf-8"))
        other, place = values["ledger"], values["path"]
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise refuse(
            f"{mark} cannot be read: {error}. Mend its rights; if it was changed, remove it."
        ) from error
    if other != ledger:
        raise refuse(
            f"{mark}: the records here are charged to another ledger, {place}. Set privacy.ledger "
            f"to it instead of {path}."
        )
    return True


def leave_mark(folder: Path, path: Path, ledger: str) -> None:
    """Leave the ledger's mark where the site's prepared records are, if it is not there.

    Raises:
        PrivacyError: as `check_mark`, or the mark cannot be written.
    """
    if check_mark(folder, path, ledger):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _put(folder / MARK, json.dumps({"ledger": ledger, "path": str(path)}).encode())
    except OSError as error:
        raise refuse(
            f"{folder / MARK} cannot be written: {error}. Mend the folder's rights."
        ) from error


def write(path: Path, population: Population) -> None:
    """Write the patients of a ledger.

    Raises:
        PrivacyError: the disk is full or away.
    """
    facts = {"format": 1, "ledger": population.ledger, "salt": population.salt}
    body = "\n".join((json.dumps(facts), *sorted(population.digests))).encode()
    try:
        _put(_file(path), hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    except OSError as error:
        raise refuse(f"{_file(path)} cannot be written: {error}. Make room.") from error


def read(file: Path) -> Population | None:
    """Return the patients in a file; None where there is none.

    Raises:
        PrivacyError: it was changed, or cannot be read.
    """
    try:
        seal, _, body = file.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise refuse(f"{file} cannot be read: {error}. Mend its rights.") from error
    if hashlib.sha256(body).hexdigest().encode() != seal:
        raise refuse(f"{file} was changed; put back its newest backup.")
    line, *digests = body.decode().split("\n")
    facts = json.loads(line)
    return Population(facts["ledger"], facts["salt"], frozenset(digests))


def _file(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


def _put(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        move_into_place(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _digest(salt: str, word: str) -> str:
    return hmac.new(salt.encode(), word.encode(), hashlib.sha256).digest()[:_DIGEST_BYTES].hex()
