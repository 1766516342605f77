"""A file of entries that only grows: one JSON line each, chained by SHA-256, locked, synced.

Three files stand for a ledger: the entries; `.head`, the newest hash, in a file of its own; and
`.patients` (population.py). An entry counts as soon as its line is whole on the disk, so:

- a line that was torn by a crash belongs to an append that never returned: what it would have paid
  for did not happen, and it does not count;
- whole lines always count, also where the process died before it could say so: too much, never
  too little;
- `.head` is renamed into place after the line. It may be behind the entries (a crash between the
  two), never ahead of them: then entries were taken away.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cardionets_core.durable import move_into_place
from cardionets_core.errors import PrivacyError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIRST = "0" * 64
"""What the first entry names as the one before it."""

LOCK_WAIT_S = 60.0
"""How long to wait for another process of the site; it holds the ledger for well under a second."""

_LOOK_S = 0.02

WITHOUT_BACKUP = (
    "Without such a backup nobody can know what was spent. Count the whole budget of that ledger "
    "as spent (it never let in more); these patients then take part in no further private run. "
    "Make no other ledger for them (by another place, cache or data.salt, or without the mark): it "
    "would promise the same budget a second time. docs/privacy.md, Ledger, has what is left to do."
)
"""What a hospital is told that has lost a ledger and has no backup of its newest state."""


@dataclass(frozen=True)
class Entry:
    """One line of a ledger.

    Attributes:
        body: what it says, with `seq` (its number from 0) and `prev` (hash of the one before).
        hash: SHA-256 of the body, 64 hex digits.
    """

    body: dict[str, Any]
    hash: str

    def line(self) -> bytes:
        """Return the entry as it stands in the file."""
        return _canonical({"body": self.body, "hash": self.hash}) + b"\n"


def refuse(message: str) -> PrivacyError:
    """Return the error of a ledger that cannot be trusted or written."""
    return PrivacyError("privacy_ledger", message)


class EntryFile:
    """The entries of one ledger, locked by this process; `opened` makes it.

    Attributes:
        path: of the file.
        entries: oldest first.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._broken = False
        self.entries, self._length = _read(path, descriptor)

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[EntryFile]:
        """Lock the file, read all of it and check every hash.

        Raises:
            PrivacyError: it is missing, edited, shortened, or held by another process for long.
        """
        descriptor = _locked(path)
        try:
            file = cls(path, descriptor)
            _check_head(file)
            yield file
        finally:
            os.close(descriptor)  # and the lock is gone with it

    def append(self, body: dict[str, Any]) -> Entry:
        """Write an entry so that it is still there after a power cut, or not at all.

        Raises:
            PrivacyError: the disk is full, away or broken; then nothing may be done for it.
        """
        if self._broken:
            raise refuse(f"{self.path} could not be written before; open it again.")
        entry = _next(self.entries, body)
        try:
            head = _written_head(self.path, entry)  # where a full disk shows before a charge
            self._write(entry.line())
            move_into_place(head, head_file(self.path))
        except OSError as error:
            self._take_back()
            raise refuse(
                f"{self.path} cannot be written: {error}. Nothing was computed; make room or mend "
                "the disk, then the task can be asked again."
            ) from error
        self.entries.append(entry)
        return entry

    def _write(self, line: bytes) -> None:
        os.ftruncate(self._descriptor, self._length)  # what a torn append left
        rest = line
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        os.fsync(self._descriptor)
        self._length += len(line)

    def _take_back(self) -> None:
        """Remove half a line; a line that was synced stays, since it may have been seen."""
        self._broken = True
        with suppress(OSError):  # if not now, then the next append
            os.ftruncate(self._descriptor, self._length)
            os.fsync(self._descriptor)


def check_new(path: Path) -> None:
    """Refuse a place where a ledger is or was.

    Raises:
        PrivacyError: says which.
    """
    if path.exists() or head_file(path).exists():
        what = "exists" if path.exists() else f"is gone, but its {head_file(path).name} is here"
        raise refuse(
            f"{path} {what}: what was spent must not be forgotten. Go on with that ledger"
            + ("." if path.exists() else f", from the newest backup of it. {WITHOUT_BACKUP}")
        )


def create(path: Path, body: dict[str, Any]) -> Entry:
    """Make a ledger of one entry, in a place that `check_new` has let pass.

    Raises:
        PrivacyError: it cannot be written, or somebody else was faster.
    """
    entry = _next([], body)
    try:
        temporary = _synced(path.with_name(f".{path.name}.tmp"), entry.line())
        os.link(temporary, path)  # unlike a rename, never over another one
        temporary.unlink()
        move_into_place(_written_head(path, entry), head_file(path))  # and syncs the folder
    except OSError as error:
        raise refuse(f"{path} cannot be written: {error}. Choose a folder that can.") from error
    return entry


def head_file(path: Path) -> Path:
    """Return where the newest hash of a ledger is kept a second time."""
    return path.with_name(path.name + ".head")


def _locked(path: Path) -> int:
    """Open and lock the file that has this name now.

    Raises:
        PrivacyError: it is missing, or somebody else keeps the lock.
    """
    until = time.monotonic() + LOCK_WAIT_S
    while True:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            pass
        except OSError as error:
            os.close(descriptor)
            raise refuse(
                f"{path} cannot be locked: {error}. Keep the ledger on a disk that has locks."
            ) from error
        os.close(descriptor)
        if time.monotonic() > until:
            raise refuse(
                f"{path} is held by another process of this site for {LOCK_WAIT_S:.0f} s. See what "
                "hangs there and end it."
            )
        time.sleep(_LOOK_S)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    except FileNotFoundError:
        raise refuse(
            f"{path} does not exist, and a ledger is never made by itself: an empty one would "
            "forget what was spent. `cardionets-site budget init` makes a first one; one that was "
            "there must come back from its newest backup."
        ) from None
    except OSError as error:
        raise refuse(f"{path} cannot be opened: {error}. Mend its rights or its place.") from error


def _read(path: Path, descriptor: int) -> tuple[list[Entry], int]:
    """Return the entries and the length of their lines; a torn line at the end is left out.

    Raises:
        PrivacyError: a line is not what was written.
    """
    data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    *lines, tail = data.split(b"\n")
    if lines and not tail and b"\0" in lines[-1]:
        # Blocks of a line that never reached the disk. Had the append returned, `.head` would name
        # this line, and `_check_head` will miss it.
        tail = lines.pop() + b"\n"
    entries: list[Entry] = []
    for line in lines:
        entry = _parsed(line, entries)
        if entry is None:
            raise refuse(
                f"{path}: line {len(entries) + 1} was changed, or a line before it is gone. Put "
                "back the newest backup that is whole; do not edit a ledger."
            )
        entries.append(entry)
    if not entries:
        raise refuse(f"{path} holds no whole entry; put back its newest backup.")
    return entries, len(data) - len(tail)


def _parsed(line: bytes, before: list[Entry]) -> Entry | None:
    """Return the entry of a line; None where a byte of it is not as it was written."""
    try:
        values = json.loads(line)
        entry = Entry(dict(values["body"]), str(values["hash"]))
        expected = _next(before, entry.body)
    except (ValueError, KeyError, TypeError):
        return None
    return entry if entry == expected and entry.line() == line + b"\n" else None


def _next(before: list[Entry], body: dict[str, Any]) -> Entry:
    """Return the entry that says `body` and follows those before."""
    prev = before[-1].hash if before else FIRST
    body = {**body, "seq": len(before), "prev": prev}
    return Entry(body, hashlib.sha256(_canonical(body)).hexdigest())


def _canonical(values: dict[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _check_head(file: EntryFile) -> None:
    """Refuse entries that were taken away since the newest hash was kept.

    Raises:
        PrivacyError: the kept hash is of no entry.
    """
    path = head_file(file.path)
    try:
        kept = path.read_text("utf-8").strip()
    except FileNotFoundError:
        if len(file.entries) > 1:
            raise refuse(
                f"{path} is missing; it shows whether entries were taken away. Put back the newest "
                "backup of the ledger with all its files."
            ) from None
        return  # a crash at the end of `create`
    except (OSError, UnicodeDecodeError) as error:
        raise refuse(f"{path} cannot be read: {error}. Mend its rights.") from error
    if kept not in {entry.hash for entry in file.entries}:
        raise refuse(
            f"{file.path} lacks entries that it had: it was put back from an older backup, or "
            "shortened. Put back its newest state."
        )


def _written_head(path: Path, entry: Entry) -> Path:
    """Write the newest hash beside its place and return where."""
    temporary = path.with_name(f".{path.name}.head.tmp")
    return _synced(temporary, entry.hash.encode() + b"\n")


def _synced(path: Path, data: bytes) -> Path:
    """Write a file for this account only, sync it, and return its path."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return path
