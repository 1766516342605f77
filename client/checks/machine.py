"""What the checks ask of this computer, in one place, so that a test can answer instead."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Machine:
    """This computer.

    Attributes:
        now: the time, with its zone.
        free_bytes: (folder) -> bytes that this account may still write there.
        readable: (path) -> whether this account may read it.
        resolve: (host, port) -> addresses, as socket.getaddrinfo gives them.
        cores: CPU cores that this process may use.
        memory_bytes: main memory in all; 0 where the system does not say.
        has_cuda: whether PyTorch finds a usable GPU.
        version_of: (distribution) -> its version, or "" where it is not installed.
        python: version of the interpreter.
        environment: the environment variables.
    """

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free
    readable: Callable[[Path], bool] = lambda path: os.access(path, _needed(path))
    resolve: Callable[[str, int], list[Any]] = lambda host, port: socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    )
    cores: int = field(default_factory=lambda: _cores())
    memory_bytes: int = field(default_factory=lambda: _memory_bytes())
    has_cuda: Callable[[], bool] = lambda: _has_cuda()
    version_of: Callable[[str], str] = lambda name: _version_of(name)
    python: str = platform.python_version()
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


def _needed(path: Path) -> int:
    return os.R_OK | os.X_OK if path.is_dir() else os.R_OK


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux: what a container or a scheduler leaves us
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # a system without these names
        return 0


def _has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _version_of(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
