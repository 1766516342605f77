"""The largest memory that this process ever held."""

from __future__ import annotations

import re
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_bytes() -> int:
    """Return the peak resident memory of this process in bytes (Linux).

    Not getrusage's ru_maxrss: a process inherits that of the one that started it.
    """
    return _read("VmHWM")


def forget_peak() -> int:
    """Set the peak back to what is resident now, and return that in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _read("VmRSS")


def _read(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"{STATUS} has no {name}; memory is read on Linux only")
    return int(found[1]) * 1024
