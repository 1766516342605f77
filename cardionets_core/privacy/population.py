"""Whose privacy a ledger pays for: keyed digests of patient ids, in a file beside the ledger.

The guarantee of a patient is what one ledger says only if no second one pays for the same patient.
So a ledger knows its patients, and refuses those that another ledger knows. Others are looked for
in the ledger's own folder (keep all ledgers of a hospital in one), in the site's cache, where a
ledger leaves its mark, and beside the site's table, where it leaves one if it can.

Patients who join later are added without an entry: the chain's head and length leave the site and
must not tell that somebody joined. The file is not in the chain, and a copy of it that is too old
is completed when it is opened.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cardionets_core.durable import move_into_place
from cardionets_core.privacy.ledger_file import WITHOUT_BACKUP, refuse

if TYPE_CHECKING:
    from collections.abc import Iterable

SUFFIX = ".patients"
MARK = "privacy_ledger.json"
"""The ledger's mark in the site's cache: which ledger pays for the records there."""

_DIGEST_BYTES = 16

log = logging.getLogger("cardionets.site")


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
    kept = _kept(path)
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


def known(path: Path) -> int:
    """Return how many patients a ledger has come to, those who left included.

    For people at the hospital alone.

    Raises:
        PrivacyError: the file of patients is missing, was changed, or cannot be read.
    """
    return len(_kept(path).digests)


def _kept(path: Path) -> Population:
    kept = read(_file(path))
    if kept is None:
        raise refuse(
            f"{_file(path)} is missing: whose privacy the ledger pays for is not known. Put back "
            "the newest backup of the ledger with all its files."
        )
    return kept


def outgrown(path: Path, delta: float) -> str:
    """Return why delta is too large for the patients of a ledger, those who left included.

    For people at the hospital alone, and empty where it is not. A task goes by the declared number
    (SitePrivacy): one that is refused from some exact number on would tell it.

    Raises:
        PrivacyError: the file of patients is missing, was changed, or cannot be read.
    """
    patients = known(path)
    if delta * patients <= 1:
        return ""
    return (
        f"{path}: privacy.delta is {delta:g}, and the ledger has come to {patients:,} patients, "
        "with those who joined since it was made and those who left: delta is above 1 / patients "
        f"({1 / patients:.2g}), and publishing one whole record would pass. Set privacy.delta to "
        f"{0.1 / patients:.2g} or less in the site's YAML; the budget then counts at that delta "
        "(`cardionets-site budget show`)."
    )


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


def table_mark(table: Path) -> Path:
    """Return where a ledger's mark is beside the site's table."""
    return table.parent / f".{table.name}.{MARK}"  # also of "/", which has no name to change


def found_mark(cache: Path, table: Path) -> Path | None:
    """Return a mark that says that a ledger pays for a site's records; None where there is none."""
    return next((mark for mark in (cache / MARK, table_mark(table)) if mark.exists()), None)


def check_marks(path: Path, cache: Path | None, table: Path | None, *, ledger: str = "") -> None:
    """Refuse records that another ledger pays for, by its marks in the site's cache or its table.

    Args:
        path: of the ledger.
        cache: of the site; None: it is not looked at, and likewise `table`.
        table: its manifest.
        ledger: its random name; empty: it is not made yet, so any mark is another one's.

    Raises:
        PrivacyError: names the other ledger, or the other copy of this one.
    """
    if cache is not None:
        _is_marked(cache / MARK, path, ledger)
    if table is not None:
        _is_marked_beside(table, path, ledger)


def leave_marks(path: Path, ledger: str, cache: Path | None, table: Path | None) -> None:
    """Leave a ledger's marks where they are not; beside the table only if its folder lets it.

    Where the ledger was moved the marks follow it, so that a copy is found from its new place, too.

    Args:
        path: of the ledger.
        ledger: its random name.
        cache: see `check_marks`.
        table: likewise.

    Raises:
        PrivacyError: the records are charged to another ledger, or the mark in the cache cannot be
            read or written.
    """
    mark = json.dumps({"ledger": ledger, "path": str(path)}).encode()
    if cache is not None and not _is_marked(cache / MARK, path, ledger):
        try:
            cache.mkdir(parents=True, exist_ok=True)
            _put(cache / MARK, mark)
        except OSError as error:
            raise refuse(
                f"{cache / MARK} cannot be written: {error}. Mend the folder's rights."
            ) from error
    if table is not None and not _is_marked_beside(table, path, ledger):
        try:
            _put(table_mark(table), mark)
        except OSError as error:  # often for reading only: then the cache alone knows
            log.info("no mark of the ledger is left beside %s: %s", table, error)


def _is_marked(mark: Path, path: Path, ledger: str = "") -> bool:
    """Return whether a ledger's mark is there; not where it still tells the place of before."""
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
        raise refuse(_charged_elsewhere(mark, str(place), str(path)))
    if _is_copied(Path(place), path, ledger):
        raise refuse(
            f"{mark}: this ledger is {place}, which is still there, and {path} is a copy of it. "
            "Two copies would each tell half of what was spent. Set privacy.ledger to "
            f"{place} and remove the copy; only if the ledger was moved, and nothing was charged "
            f"at {place} since, take the three files there away instead."
        )
    return _is_same(Path(place), path)


def _is_copied(place: Path, path: Path, ledger: str) -> bool:
    """Return whether a ledger is also at the place that its mark names, as another file.

    Another population's ledger may have been made there since this one was moved.
    """
    if not os.path.exists(place) or _is_same(place, path):  # Path.exists raises in a barred folder
        return False
    there = read(_file(place))
    return there is None or there.ledger == ledger


def _is_same(place: Path, path: Path) -> bool:
    try:
        return place == path or os.path.samefile(place, path)
    except OSError:
        return False


def _charged_elsewhere(mark: Path, place: str, path: str) -> str:
    """Return what is told of a mark that names another ledger: one that is there, or is lost."""
    there = os.path.exists(place)  # Path.exists raises where a folder is barred
    if there and place != path:
        return (
            f"{mark}: the records here are charged to another ledger, {place}. Set privacy.ledger "
            f"to it instead of {path}."
        )
    lost = (
        f"an earlier ledger, in whose place {path} was made"
        if there
        else f"the ledger {place}, which cannot be found"
    )
    return (
        f"{mark}: the records here are charged to {lost}. If its disk is only not mounted, mount "
        "it; if it was moved, set privacy.ledger to where it is now; if it is lost, put back the "
        "newest backup of its three files (itself, .head, .patients), made after the last private "
        f"task. {WITHOUT_BACKUP}"
    )


def _is_marked_beside(table: Path, path: Path, ledger: str = "") -> bool:
    mark = table_mark(table)
    if mark.exists() and not os.access(mark, os.R_OK):
        log.warning("%s is another account's: it is not known which ledger it names", mark)
        return True
    return _is_marked(mark, path, ledger)


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
