"""Ends a family of processes: on request, or when the process that started it is gone.

Flower starts processes of its own (a SuperExec below each SuperNode, an app process per message),
so ending the ones we started is not enough. A family is known by a token in the environment, which
every descendant inherits, however it was started and whoever its parent is by now.

Run as a script, this file is the watchdog: it outlives a parent that was killed with SIGKILL and
ends the family then. It needs psutil and nothing else.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

import psutil

TOKEN = "CARDIONETS_FEDERATION"  # name of the environment variable, not a secret
TERMINATE_S = 4.0
KILL_S = 10.0
_SCAN_S = 0.1
_STDIN = 0
_PIPE_BYTES = 65536


def family(token: str, sessions: set[int]) -> list[psutil.Process]:
    """Return the living processes of a family, this process left out.

    Args:
        token: value of the variable `TOKEN` in their environment.
        sessions: ids of sessions that belong to the family. They decide where an environment
            cannot be read: flower-superexec hides its own from all but root.
    """
    members = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and _belongs(process, token, sessions):
                members.append(process)
        except (psutil.Error, ProcessLookupError):
            continue  # ended meanwhile, or somebody else's
    return members


def _belongs(process: psutil.Process, token: str, sessions: set[int]) -> bool:
    if process.status() == psutil.STATUS_ZOMBIE:
        return False
    try:
        environment = process.environ()
    except psutil.AccessDenied:
        environment = {}
    if environment:
        return environment.get(TOKEN) == token
    return bool(sessions) and os.getsid(process.pid) in sessions


def end_family(token: str, sessions: set[int], *, patience: float = TERMINATE_S) -> bool:
    """End a family: SIGTERM, then SIGKILL to what is left; True if nobody is left.

    Args:
        token: see `family`.
        sessions: see `family`.
        patience: seconds between the two signals.
    """
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, KILL_S)):
        deadline = time.monotonic() + seconds
        told: set[int] = set()
        while members := family(token, sessions):
            for process in members:
                if number == signal.SIGKILL or process.pid not in told:
                    _send(process, number)
                    told.add(process.pid)
            if time.monotonic() > deadline:
                break
            time.sleep(_SCAN_S)
        else:
            return True
    return False


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def watch(token: str, parent: int) -> None:
    """Read session ids from stdin until the parent closes it or dies, then end the family.

    Args:
        token: see `family`.
        parent: process id of the parent; a change of our own parent means that it died while some
            other process holds the pipe open.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    heard = b""
    while os.getppid() == parent:
        if _can_read(0.5):
            said = os.read(_STDIN, _PIPE_BYTES)
            if not said:
                break
            heard += said
    # Who holds the pipe open closes it never: what the parent said last may still lie in it.
    while _can_read(0.0) and (said := os.read(_STDIN, _PIPE_BYTES)):
        heard += said
    end_family(token, {int(line) for line in heard.splitlines()})


def _can_read(seconds: float) -> bool:
    """Wait for a word of the parent; past Python's own buffer, which `select` cannot see into."""
    return bool(select.select([_STDIN], [], [], seconds)[0])


if __name__ == "__main__":
    watch(sys.argv[1], int(sys.argv[2]))
