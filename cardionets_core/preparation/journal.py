"""What is done already: one row per item, so that a preparation goes on where it was stopped.

SQLite with a write-ahead log: a killed process loses the rows since the last commit (a second of
work) and never the file. Keys are salted hashes and rows hold `Outcome` alone: no id, date, path
or text of a patient.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

from cardionets_core.errors import ConfigError, DataError
from cardionets_core.preparation.outcome import Outcome

FILE_NAME = "journal.sqlite"
FORMAT = "2"
"""Raised when the tables below change."""

COMMIT_SECONDS = 1.0

_USED = "json_extract(outcome, '$.status') <> 'refused'"

_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outcomes (
    item TEXT PRIMARY KEY, state TEXT NOT NULL, modality TEXT NOT NULL, outcome TEXT NOT NULL,
    file TEXT NOT NULL DEFAULT '', named TEXT NOT NULL DEFAULT '', listed TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS other_files (
    file TEXT PRIMARY KEY, state TEXT NOT NULL, label TEXT NOT NULL
) WITHOUT ROWID;
"""

_OF_FORMAT_2 = ("file", "named", "listed")


@dataclass(frozen=True)
class Trace:
    """Where an outcome came from, in salted keys.

    Attributes:
        file: of the file or folder that the item lies in, perhaps with others.
        named: of the patient id that the recording gives.
        listed: digest of what the hospital's table says of it.
    """

    file: str = ""
    named: str = ""
    listed: str = ""


@dataclass(frozen=True)
class Kept:
    """What the journal knows of an item besides its outcome: its state, trace and neutral files."""

    state: str
    trace: Trace
    files: tuple[str, ...]


class Journal:
    """The journal of one prepared folder. Use it as a context; one process at a time has it.

    Args:
        out: the prepared folder, which exists.
        mark: `Salt.mark`; a journal that was begun with another salt is refused.

    Raises:
        ConfigError: another salt or version made it, or another preparation is at work.
        DataError: the file is damaged, or the disk is full.
    """

    def __init__(self, out: Path, *, mark: str) -> None:
        self._path = out / FILE_NAME
        self._written = monotonic()
        with self._told_plainly():
            self._file = sqlite3.connect(self._path, timeout=2.0, isolation_level=None)
            # from the first transaction to the end: nobody gets in between two of them
            self._file.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=NORMAL")
            self._path.chmod(0o600)
            self._file.executescript(_TABLES)
            self._file.execute("BEGIN IMMEDIATE")
            self._bring_up_to_date()
            self._claim("format", FORMAT, "version of CardioNets")
            self._claim("salt", mark, "salt")

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Keep what was put, whatever ended the work."""
        try:
            with self._told_plainly():
                self._file.commit()
        finally:
            self._file.close()

    def put(self, outcome: Outcome, state: str, trace: Trace = Trace()) -> None:
        """Keep what became of an item in this state; in place of what was there."""
        row = (outcome.item, state, outcome.modality, _text(outcome), *astuple(trace))
        with self._told_plainly():
            self._file.execute("INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        self._commit_now_and_then()

    def get(self, item: str, state: str) -> Outcome | None:
        """Return what became of the item in exactly this state, None where that is not known."""
        with self._told_plainly():
            found = self._file.execute(
                "SELECT outcome FROM outcomes WHERE item = ? AND state = ?", (item, state)
            ).fetchone()
        return _outcome(found[0]) if found else None

    def holds(self, item: str, state: str) -> bool:
        """Return whether the item in this state is done."""
        with self._told_plainly():
            query = "SELECT 1 FROM outcomes WHERE item = ? AND state = ?"
            return self._file.execute(query, (item, state)).fetchone() is not None

    def kept(self, item: str) -> Kept | None:
        """Return what is known of an item in whatever state, None where it is new."""
        query = "SELECT state, file, named, listed, outcome FROM outcomes WHERE item = ?"
        with self._told_plainly():
            found = self._file.execute(query, (item,)).fetchone()
        if found is None:
            return None
        state, *trace, text = found
        return Kept(state, Trace(*trace), tuple(json.loads(text)["files"].values()))

    def try_again(self, item: str) -> None:
        """Keep what an item was, and have the next run read it."""
        with self._told_plainly():
            self._file.execute("UPDATE outcomes SET state = '' WHERE item = ?", (item,))

    def used_of_file(self, file: str) -> list[str]:
        """Return the items of a file that can be used."""
        query = f"SELECT item FROM outcomes WHERE file = ? AND {_USED}"
        with self._told_plainly():
            return [item for (item,) in self._file.execute(query, (file,))]

    def used(self, modality: str) -> Iterator[str]:
        """Yield the keys of all items of a modality that can be used."""
        query = f"SELECT item FROM outcomes WHERE modality = ? AND {_USED}"
        with self._told_plainly():
            yield from (item for (item,) in self._file.execute(query, (modality,)))

    def rows(self) -> Iterator[Outcome]:
        """Yield every outcome in the order of the item keys, a few at a time."""
        with self._told_plainly():
            # A cursor of its own: other statements may run while this one is read.
            for (text,) in self._file.execute("SELECT outcome FROM outcomes ORDER BY item"):
                yield _outcome(text)

    def of_items(self, items: tuple[str, ...]) -> list[Outcome]:
        """Return the outcomes of these items, in their order."""
        query = "SELECT outcome FROM outcomes WHERE item = ?"
        with self._told_plainly():
            return [_outcome(self._file.execute(query, (item,)).fetchone()[0]) for item in items]

    def keys(self, modality: str) -> Iterator[str]:
        """Yield the keys of all items of a modality."""
        query = "SELECT item FROM outcomes WHERE modality = ?"
        with self._told_plainly():
            yield from (item for (item,) in self._file.execute(query, (modality,)))

    def forget(self, item: str) -> None:
        """Drop an item that is no longer there."""
        with self._told_plainly():
            self._file.execute("DELETE FROM outcomes WHERE item = ?", (item,))
        self._commit_now_and_then()

    def label_of_other(self, file: str, state: str) -> str | None:
        """Return the label that `put_other` was given for this file in this state."""
        query = "SELECT label FROM other_files WHERE file = ? AND state = ?"
        with self._told_plainly():
            found = self._file.execute(query, (file, state)).fetchone()
        return str(found[0]) if found else None

    def put_other(self, file: str, state: str, label: str) -> None:
        """Keep that a file is no recording of its own, so that it is not opened again."""
        with self._told_plainly():
            row = (file, state, label)
            self._file.execute("INSERT OR REPLACE INTO other_files VALUES (?, ?, ?)", row)
        self._commit_now_and_then()

    def fact(self, name: str) -> str:
        """Return a fact about the whole folder, "" where it was never put."""
        with self._told_plainly():
            query = "SELECT value FROM facts WHERE name = ?"
            found = self._file.execute(query, (name,)).fetchone()
        return str(found[0]) if found else ""

    def put_fact(self, name: str, value: str) -> None:
        """Keep a fact about the whole folder."""
        with self._told_plainly():
            self._file.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def commit(self) -> None:
        """Make everything that was put last."""
        with self._told_plainly():
            self._file.commit()
            self._file.execute("BEGIN IMMEDIATE")
        self._written = monotonic()

    def _bring_up_to_date(self) -> None:
        """Add what format 2 has more than format 1, for which nothing need be known."""
        if self.fact("format") == "1":
            for name in _OF_FORMAT_2:
                self._file.execute(f"ALTER TABLE outcomes ADD {name} TEXT NOT NULL DEFAULT ''")
            self.put_fact("format", FORMAT)
        self._file.execute("CREATE INDEX IF NOT EXISTS of_file ON outcomes (file)")

    def _commit_now_and_then(self) -> None:
        if monotonic() - self._written >= COMMIT_SECONDS:
            self.commit()

    def _claim(self, name: str, value: str, title: str) -> None:
        """Put a fact that must never change; another value was put by another preparation."""
        kept = self.fact(name)
        if kept and kept != value:
            raise ConfigError(
                f"{self._path.parent} was prepared with another {title}; give that one, "
                "or choose a new --out."
            )
        if not kept:
            self.put_fact(name, value)

    @contextmanager
    def _told_plainly(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise ConfigError(
                    f"Another `cardionets prepare` is at work in {self._path.parent}; "
                    "wait for its end."
                ) from None
            raise DataError(_trouble(self._path, str(error))) from None
        except sqlite3.DatabaseError as error:
            raise DataError(_trouble(self._path, str(error))) from None


def _trouble(path: Path, cause: str) -> str:
    if "full" in cause or "disk I/O" in cause:
        return (
            f"The disk of {path.parent} is full or fails ({cause}). Nothing that was prepared is "
            "lost: make room and start the same command again."
        )
    return (
        f"The journal {path} cannot be used ({cause}). Remove it (the next run reads everything "
        "again), or choose a new --out."
    )


def _text(outcome: Outcome) -> str:
    values = {}
    for name, value in asdict(outcome).items():
        if isinstance(value, float) and math.isnan(value):
            continue
        values[name] = value
    values["quality"] = {k: v for k, v in outcome.quality.items() if v == v}
    return json.dumps(values, separators=(",", ":"), sort_keys=True, allow_nan=False)


def _outcome(text: str) -> Outcome:
    values: dict[str, Any] = json.loads(text)
    values["refused"] = tuple((what, code) for what, code in values["refused"])
    known = {f.name for f in fields(Outcome)}
    return Outcome(**{name: value for name, value in values.items() if name in known})
