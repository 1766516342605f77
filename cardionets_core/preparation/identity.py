"""Who and what a recording is, said with keyed hashes: the names stay in the hospital's archive.

HMAC-SHA256 under the site's salt: without the salt nobody can try out patient numbers, and two
sites never give one patient the same key. Ages stay whole years and end at 90, as the safe harbour
of HIPAA asks (45 CFR 164.514(b)(2)(i)(C)). Days move by an offset of the patient's own, so that
intervals within a patient stay true and no date can be read.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import secrets
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path

from cardionets_core.errors import ConfigError

SALT_FILE = "site_salt"
SHORTEST_SALT = 16
"""Characters; with fewer, salts could be guessed and patient numbers tried out."""

OLDEST = 90.0
"""Every age above 89 is given as this."""

KEY_DIGITS = 20
_CONTENT_DIGITS = 32
_CALENDAR_DAYS = 3_652_425
"""Days of a hundred centuries: where a patient's calendar begins, is drawn from this many.

The wider, the fewer patients stand so near an end that their shifted days tell when they came.
"""


@dataclass(frozen=True)
class Salt:
    """The site's secret, and what is made with it."""

    text: str = field(repr=False)

    def patient_key(self, raw: str) -> str:
        """Return the key of a patient id as the hospital writes it, without blanks around it."""
        return self._key("patient", _bytes(raw.strip()))[:KEY_DIGITS]

    def named_key(self, raw: str) -> str:
        """Return the key of a patient id to the letter, as tables are asked for it; "" for none."""
        return self._key("named", _bytes(raw))[:KEY_DIGITS] if raw else ""

    def person_of_content(self, content: str) -> str:
        """Return the key of the unknown person whose recording has this content.

        Not drawn from the path, so that copies of one recording stay one person.
        """
        return self._key("person of", _bytes(content))[:KEY_DIGITS]

    def item_key(self, path: str, part: str = "") -> str:
        """Return the key of a recording by where it lies: relative POSIX path and part."""
        return self._key("item", _bytes(f"{path}\0{part}"))[:KEY_DIGITS]

    def file_key(self, path: str) -> str:
        """Return the key of a file or folder that several recordings may lie in."""
        return self._key("file", _bytes(path))[:KEY_DIGITS]

    def content_key(self, content: bytes) -> str:
        """Return the key of a signal: equal ones have the same, whatever format they came in."""
        return self._key("content", content)[:_CONTENT_DIGITS]

    def state_key(self, facts: str) -> str:
        """Return a digest of an item's state (sizes, times, settings)."""
        return self._key("state", _bytes(facts))[:KEY_DIGITS]

    def study_key(self, items: tuple[str, ...]) -> str:
        """Return the id of the study that these items make."""
        return self._key("study", "\0".join(sorted(items)).encode())[:KEY_DIGITS]

    def moment_key(self, patient: str, recorded: datetime | None) -> str:
        """Return the key of the second at which a patient was recorded, "" where it is unknown.

        Midnight stands for a day without a time, and is no moment.
        """
        if recorded is None or (recorded.hour, recorded.minute, recorded.second) == (0, 0, 0):
            return ""
        second = recorded.replace(tzinfo=None, microsecond=0).isoformat()
        return self._key("moment", f"{patient} {second}".encode())[:KEY_DIGITS]

    def shifted_day(self, patient: str, recorded: datetime | date | None) -> int | None:
        """Return the day of a recording on the patient's own calendar, None where it is unknown.

        Args:
            patient: key of the patient.
            recorded: when.
        """
        if recorded is None:
            return None
        offset = int(self._key("calendar", patient.encode())[:16], 16) % _CALENDAR_DAYS
        return recorded.toordinal() + offset

    @property
    def mark(self) -> str:
        """A value that tells whether a salt is this one, and nothing else about it."""
        return self._key("mark", b"")[:KEY_DIGITS]

    def _key(self, purpose: str, content: bytes) -> str:
        keyed = hmac.new(self.text.encode(), purpose.encode() + b"\0", hashlib.sha256)
        keyed.update(content)
        return keyed.hexdigest()


def _bytes(text: str) -> bytes:
    """Return UTF-8, also of what is none: a name in Latin-1, half a character in an id.

    Python shows bytes of a name that are not UTF-8 as lone surrogates.
    """
    return text.encode("utf-8", "surrogatepass")


def read_or_make_salt(out: Path, given: Path | None = None) -> Salt:
    """Return the salt of a prepared folder; made from 32 random bytes on first use, mode 0600.

    Args:
        out: the prepared folder, which keeps the salt that it was made with.
        given: a file with a salt of the site's own.

    Raises:
        ConfigError: the file is missing or too short, or another than the folder was made with.
    """
    kept = out / SALT_FILE
    is_kept = has_salt(out)
    if given is not None:
        salt = Salt(_read(given))
        if is_kept and _read(kept) != salt.text:
            raise ConfigError(
                f"{out} was prepared with another salt than {given.name} holds: patients would "
                "change their ids and splits. Give the salt of then, or choose a new --out."
            )
    elif is_kept:
        return Salt(_read(kept))
    else:
        salt = Salt(secrets.token_hex(32))
    if not is_kept:
        _write(kept, salt)
    return salt


def has_salt(out: Path) -> bool:
    """Whether a folder has a salt; an empty file, which a crash can leave, is none."""
    kept = out / SALT_FILE
    return kept.exists() and kept.stat().st_size > 0


def _write(place: Path, salt: Salt) -> None:
    """Write a salt that is there wholly or not at all, whenever the process or the power ends."""
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(salt.text + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, place)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> str:
    try:
        text = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            f"The salt file {path} cannot be read as text; correct the path or its permissions, "
            "or leave --site-salt out on the first run: a salt is then made."
        ) from None
    if len(text) < SHORTEST_SALT:
        raise ConfigError(
            f"The salt of {path} is shorter than {SHORTEST_SALT} characters and could be guessed; "
            "leave --site-salt out on the first run: a salt of 32 random bytes is then made."
        )
    return text


def stated_age(age: float, born: date | None, recorded: date | None) -> float:
    """Return the age in whole years, at most `OLDEST`; NaN where it is unknown.

    Args:
        age: as the source states it, NaN where it does not.
        born: date of birth, used where there is no age.
        recorded: day of the recording.
    """
    years = age
    if math.isnan(years) and born is not None and recorded is not None:
        had_birthday = (recorded.month, recorded.day) >= (born.month, born.day)
        years = float(recorded.year - born.year - (not had_birthday))
    if math.isnan(years) or years < 0:
        return math.nan
    return min(float(math.floor(years)), OLDEST)
