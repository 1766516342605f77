"""One preparation at a time in a prepared folder, from before its salt is made to the end."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cardionets_core.errors import ConfigError

LOCK_FILE = ".lock"


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Hold the lock of a folder, which exists. The kernel lets go of it when the process ends.

    Raises:
        ConfigError: another process holds it, or the disk knows no locks.
    """
    descriptor = os.open(out / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"Another `cardionets prepare` is at work in {out}; wait for its end."
            ) from None
        except OSError as error:
            raise ConfigError(
                f"--out {out} lies on a disk that cannot be locked ({error.strerror}); choose a "
                "local disk."
            ) from None
        yield
    finally:
        os.close(descriptor)
