"""What a person asks of a preparation, judged before anything is read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from cardionets_core.errors import ConfigError
from cardionets_core.preparation.convert import Modality
from cardionets_core.preparation.identity import SALT_FILE, has_salt
from cardionets_core.preparation.journal import FILE_NAME as JOURNAL
from cardionets_core.preparation.lock import LOCK_FILE
from cardionets_core.preparation.studies import PAIR_DAYS

MARK = "prepared_site"
"""A file that says whose folder this is, so that nothing else is ever swept."""


@dataclass(frozen=True)
class PrepareRequest:
    """One call of `cardionets prepare`.

    Attributes:
        out: the prepared folder.
        ecg, cmr: the hospital's folders; at least one.
        table: the hospital's table (CSV), None where there is none.
        salt_file: a salt of the site's own, None to make or keep that of `out`.
        presets: models whose arrays are built.
        workers: processes; 0 is one per core.
        pair_days: a CMR and an ECG farther apart are studies of their own.
        keep_source_names: whether quarantine.csv names the files.
        accept_losses: whether much of what was prepared may be forgotten at once.
    """

    out: Path
    ecg: Path | None = None
    cmr: Path | None = None
    table: Path | None = None
    salt_file: Path | None = None
    presets: tuple[str, ...] = ()
    workers: int = 0
    pair_days: int = PAIR_DAYS
    keep_source_names: bool = False
    accept_losses: bool = False

    @property
    def roots(self) -> dict[Modality, Path]:
        """The folders that were given, by modality, links resolved."""
        given = {"ecg": self.ecg, "cmr": self.cmr}
        return {cast(Modality, m): p.resolve() for m, p in given.items() if p is not None}

    @property
    def processes(self) -> int:
        """How many workers to start."""
        return self.workers or os.cpu_count() or 1


def check_request(request: PrepareRequest) -> None:
    """Judge the folders of a request.

    Raises:
        ConfigError: a folder is missing, closed or empty, they lie in each other, or `out` holds
            something else.
    """
    if not request.roots:
        raise ConfigError("Name a folder of ECGs (--ecg DIR), of CMRs (--cmr DIR), or both.")
    if request.pair_days < 0 or request.workers < 0:
        raise ConfigError("--pair-days and --workers cannot be negative.")
    out = request.out.resolve()
    for modality, root in request.roots.items():
        _check_source(f"--{modality}", root)
        if out == root or root in out.parents or out in root.parents:
            raise ConfigError(
                f"--out {request.out} and --{modality} {root} lie in each other: the prepared "
                "files would be read as recordings. Choose a folder outside."
            )
    if request.table is not None and not request.table.is_file():
        raise ConfigError(f"--table {request.table} is not a file; correct the path.")
    check_out(out)


def _check_source(option: str, root: Path) -> None:
    if not root.is_dir():
        raise ConfigError(f"{option} {root} is not a folder; correct the path or mount it.")
    try:
        is_empty = not any(root.iterdir())
    except OSError as error:
        raise ConfigError(
            f"{option} {root} cannot be opened ({error.strerror}); give the account that prepares "
            "the right to read it."
        ) from None
    if is_empty:
        raise ConfigError(f"{option} {root} is empty; correct the path or mount it.")


def check_out(out: Path) -> None:
    """Judge the prepared folder; it may not be there yet.

    Raises:
        ConfigError: it holds something else, or has lost its salt.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; choose a folder.")
    try:
        entries = {entry.name for entry in out.iterdir()} if out.exists() else set()
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be opened ({error.strerror}).") from None
    ours = {MARK, SALT_FILE, JOURNAL, LOCK_FILE}
    if entries and not entries & ours:
        raise ConfigError(
            f"--out {out} holds other files and was not made by `cardionets prepare`; choose a new "
            "or empty folder."
        )
    if JOURNAL in entries and not has_salt(out):  # without one nothing was prepared with it yet
        raise ConfigError(
            f"{out} has lost its {SALT_FILE}: without it every patient would change id and split. "
            "Put it back from a backup, or choose a new --out."
        )


def make_out(out: Path) -> None:
    """Make the prepared folder, for its owner only. It is marked once it has its salt.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True, mode=0o700)
        out.chmod(0o700)
    except OSError as error:
        raise ConfigError(
            f"--out {out} cannot be written ({error.strerror}); choose another place."
        ) from None


def mark_out(out: Path) -> None:
    """Say whose folder this is."""
    if not (out / MARK).exists():
        (out / MARK).touch(mode=0o600)
