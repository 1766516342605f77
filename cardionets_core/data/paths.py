"""Paths that come out of files: none may lead out of the data folder."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path

from cardionets_core.data.refusal import RecordRefused

_FORBIDDEN = re.compile(r"[\x00-\x1f\\:]|^~")
"""Control characters, backslashes, drive letters and addresses (`C:`, `s3://`), home folders."""


def inside(root: Path, relative: str) -> Path:
    """Return the path of `relative` below `root`, after following every link.

    Args:
        root: the data folder; may itself be a link.
        relative: a POSIX path relative to it, as found in a manifest or a header.

    Raises:
        RecordRefused: `path_escape` for an absolute path, a `..`, a drive, an address, or a link
            that leads out of `root`. The file need not exist.
    """
    parts = relative.split("/")
    if not relative or _FORBIDDEN.search(relative) or relative.startswith("/") or ".." in parts:
        raise RecordRefused("path_escape")
    base = _real(os.fspath(root))
    path = os.path.join(base, relative)
    folder = _real(os.path.dirname(path))
    real = os.path.join(folder, os.path.basename(path))
    if os.path.islink(real):
        real = os.path.realpath(real)
    if os.path.commonpath([base, real]) != base:
        raise RecordRefused("path_escape")
    return Path(real)


def file_inside(root: Path, relative: str) -> Path:
    """Return `inside(root, relative)`, which must be a regular file.

    Raises:
        RecordRefused: `path_escape`, or `missing_file`.
    """
    path = inside(root, relative)
    if not path.is_file():
        raise RecordRefused("missing_file")
    return path


def sibling(file: Path, name: str, root: Path) -> Path:
    """Return the regular file `name` in the folder of `file`, as a header may refer to it.

    Raises:
        RecordRefused: `path_escape` if `name` is more than a file name or leads out of `root`,
            `missing_file`.
    """
    if "/" in name or name in ("", ".", ".."):
        raise RecordRefused("path_escape")
    folder = os.path.realpath(file.parent)
    base = os.path.realpath(root)
    if os.path.commonpath([base, folder]) != base:
        raise RecordRefused("path_escape")
    below = os.path.relpath(os.path.join(folder, name), base)
    return file_inside(root, below)


@lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    """Resolve a folder once: a hundred thousand records live in a few hundred folders."""
    return os.path.realpath(folder)
