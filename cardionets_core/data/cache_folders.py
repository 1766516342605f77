"""The folders of a site's caches: made under another name, published, swept, forgotten.

    <specs>-<rows>     a finished cache
    .building-<random> one that a process is making; while it lives it holds a lock in there

A lock and no process number: it ends with its process, also where that was killed, and means the
same in every container that sees the folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from cardionets_core.errors import DataError

KEPT = 2
"""Caches of the same specs that stay on disk: the newest, and one that a run may still read."""

_BUILDING = ".building-"
_LOCK = "lock"
_FINISHED = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}")


def finished(folder: Path, specs: str) -> list[Path]:
    """Return the finished caches of these specs, newest first."""
    return sorted(folder.glob(f"{specs}-*"), key=lambda p: p.stat().st_mtime_ns, reverse=True)


def remove_old(folder: Path, specs: str, *, keep: Path) -> None:
    """Remove what is more than `KEPT` caches of the same specs."""
    # A run that has one of these open keeps its pages: unlinking does not take them away.
    for old in [p for p in finished(folder, specs) if p != keep][KEPT - 1 :]:
        shutil.rmtree(old, ignore_errors=True)


def file_keys(names: Iterable[str], specs: str) -> NDArray[np.uint8]:
    """Return uint8 [files, 16]: a digest of the name of each file, sorted."""
    digests = {hashlib.sha256(f"{specs}\n{name}".encode()).digest()[:16] for name in names if name}
    return np.frombuffer(b"".join(sorted(digests)), dtype=np.uint8).reshape(-1, 16)


def forget_files(folder: Path, names: Iterable[str]) -> int:
    """Remove every finished cache that holds a file besides these, of whatever specs.

    Arrays cannot be taken out of a cache that a run may be reading, so the whole cache goes; it is
    built again where it is asked for.

    Args:
        folder: where caches lie.
        names: the files that the site has, as its manifest names them.

    Returns:
        How many caches were removed.

    Raises:
        DataError: one of them cannot be removed.
    """
    known, removed = set(names), 0
    for cache in sorted(p for p in folder.glob("*-*") if _FINISHED.fullmatch(p.name)):
        if _holds_only(cache, known):
            continue
        try:
            shutil.rmtree(cache)
        except OSError as error:
            raise DataError(
                f"{cache} holds arrays of recordings that are gone and cannot be removed "
                f"({error.strerror}); delete it."
            ) from None
        removed += 1
    return removed


def _holds_only(cache: Path, names: set[str]) -> bool:
    known = {bytes(key) for key in file_keys(names, cache.name.partition("-")[0])}
    try:
        with (cache / "masks.npz").open("rb") as file, np.load(file) as masks:
            held = masks["file_keys"]
    except (
        OSError,
        KeyError,
        ValueError,
        EOFError,
        BadZipFile,
    ):  # of an earlier version, or torn: nobody can tell
        return False
    return {bytes(key) for key in held} <= known


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Make a folder to build a cache in, which is gone in the end unless it was published.

    Raises:
        DataError: `folder` cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(folder) as is_alone:
            building = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=folder))
            lock = os.open(building / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
            if is_alone:
                fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise DataError(
            f"The cache folder {folder} cannot be written ({error.strerror}); "
            "choose another or correct its permissions."
        ) from None
    try:
        yield building
    finally:
        os.close(lock)
        shutil.rmtree(building, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what processes that were killed have left of the caches that they were building."""
    if not any(folder.glob(f"{_BUILDING}*")):
        return
    with _locked(folder) as is_alone:
        if not is_alone:
            return
        for left in folder.glob(f"{_BUILDING}*"):
            if left.is_dir() and not _is_being_built(left):
                shutil.rmtree(left, ignore_errors=True)
        for left in folder.glob(f"{_BUILDING}*.csv"):
            if not left.with_suffix("").is_dir():
                with suppress(OSError):
                    left.unlink()


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Keep others from sweeping; False where the file system has no locks: then nobody sweeps."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def _is_being_built(building: Path) -> bool:
    try:
        lock = os.open(building / _LOCK, os.O_RDWR)
    except FileNotFoundError:  # killed before it had one, or of an earlier version
        return False
    except OSError:  # of another account, which sweeps its own
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def publish(building: Path, ready: Path) -> None:
    """Rename the finished folder into place; whoever was faster wins, both built the same."""
    newest = building.parent / f"{building.name}.csv"
    shutil.copyfile(building / "quarantine.csv", newest)
    os.replace(newest, building.parent / "quarantine.csv")
    try:
        os.rename(building, ready)
    except OSError:
        if not ready.is_dir():
            raise
    else:
        (ready / _LOCK).unlink(missing_ok=True)
