"""A file that was written beside its place is moved there so that a power cut does not undo it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

WITHOUT_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP)
"""What file systems say that have nothing to sync of a folder (some network and FUSE mounts)."""


def move_into_place(temporary: Path, path: Path) -> None:
    """Rename a file that was synced, and sync the folder, which holds its name.

    Raises:
        OSError: the disk is full, away or broken.
    """
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in WITHOUT_FOLDER_SYNC:
            raise
    finally:
        os.close(folder)
