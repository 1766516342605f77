"""What tests ask of processes that may end at any moment, between two questions too."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil


def living(pids: Iterable[int]) -> list[int]:
    """Return those of some processes that still run; one that nobody has waited for is dead."""
    found = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


def names(processes: Iterable[psutil.Process]) -> list[str]:
    """Return the sorted names of those processes that still run."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found.append(process.name())
    return sorted(found)


def command_line(process: psutil.Process) -> list[str]:
    """Return the words of a process's command; none if it has ended or is somebody else's."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def members(folder: Path) -> list[psutil.Process]:
    """Return every other living process that names a folder.

    In its command, its environment or as its working folder.
    """
    found = []
    for process in psutil.process_iter():
        try:
            said = [*process.cmdline(), *process.environ().values(), process.cwd()]
            dead = process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid()
        except psutil.Error:
            continue
        if not dead and any(str(folder) in word for word in said):
            found.append(process)
    return found


def kill_members(folder: Path) -> None:
    """Kill what `members` finds."""
    for process in members(folder):
        with suppress(psutil.NoSuchProcess):
            process.kill()
