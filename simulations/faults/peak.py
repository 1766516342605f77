"""The largest memory that this process ever held."""

from __future__ import annotations

import re
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_bytes() -> int:
    """Return the peak resident memory of this process in bytes (Linux).

    Not getrusage's ru_maxrss: a process inherits that of the one that started it.
    """
    found = re.search(r"^VmHWM:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"{STATUS} has no VmHWM; peak memory is read on Linux only")
    return int(found[1]) * 1024
