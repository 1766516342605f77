"""One node per home and per port on a machine: said before anything of the other is touched."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cardionets_core.errors import EngineError
from cardionets_core.ports import held_by

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK_FILE = ".lock"
_OWN = "give this one --home and --port of its own"


@contextmanager
def held(home: Path, port: int) -> Iterator[None]:
    """Hold a node's home, which is made if needed, after a look at its port.

    The kernel lets go of it when this process ends; one that this process is replaced by (exec)
    goes on holding it, and children do not.

    Args:
        home: folder of the node's own files.
        port: loopback port of the node's own API.

    Raises:
        EngineError: another process has the home or the port; nothing was written.
    """
    if not home.is_dir():
        _require_free(port)  # first, so that nothing is made for a start that cannot be
    try:
        home.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(home / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        why = f"--home {home} cannot be used ({error.strerror})"
        raise EngineError(f"{why}; choose another folder.") from None
    try:
        _lock(descriptor, home)
        _require_free(port)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        os.set_inheritable(descriptor, True)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, home: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
        raise EngineError(
            f"another `cardionets-site start`{f' (pid {holder})' if holder else ''} has its files "
            f"in --home {home}. If it is this site, it runs already; if it is another site, {_OWN}."
        ) from None
    except OSError as error:
        raise EngineError(
            f"--home {home} lies on a disk that cannot be locked ({error.strerror}); choose a "
            "local disk."
        ) from None


def _require_free(port: int) -> None:
    holder = held_by(port)
    if holder:
        raise EngineError(
            f"port {port} is in use by {holder}. If another site runs on this machine, {_OWN}; "
            "else end that process first."
        )
