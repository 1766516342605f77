"""What a library raises over a file -> why the record is refused."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from cardionets_core.data.refusal import RecordRefused

_NOT_THE_FILES_FAULT = frozenset(
    {errno.EIO, errno.EACCES, errno.EPERM, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE,
     errno.ENFILE, errno.ENOLCK, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN}
)  # fmt: skip
"""Permissions, disk and network; libraries raise OSError with other numbers for damaged files."""


@contextmanager
def refusing(code: str = "unreadable") -> Iterator[None]:
    """Turn whatever is raised into `RecordRefused(code)`.

    What the disk is to blame for is `io_error`, which the next run tries again, and what does not
    fit into memory `too_large`. The cause is not chained: its text may quote a value or a path.
    """
    try:
        yield
    except RecordRefused:
        raise
    except MemoryError:
        raise RecordRefused("too_large") from None
    except OSError as error:
        is_disk = error.errno in _NOT_THE_FILES_FAULT
        raise RecordRefused("io_error" if is_disk else code) from None
    except Exception:  # libraries raise whatever they trip over
        raise RecordRefused(code) from None
