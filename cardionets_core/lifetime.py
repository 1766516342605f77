"""The end of a process that works for one message and hangs: the kernel brings it.

A driver that waits for a card, or a file system that is gone, can hold a process for ever. Flower
waits as long as its heartbeat comes, and a site works on one message at a time: so one that hangs
would keep its hospital out of the run until a person ends it.
"""

from __future__ import annotations

import signal

HANG_S = 600.0
"""Seconds that a process may take beyond its time: the step in hand, a pass over the training
studies that measures statistics, packing."""

_for_one_message = False


def work_for_one_message() -> None:
    """Say that nobody else is served by this process: a fork of the warm starter says so."""
    global _for_one_message
    _for_one_message = True


def end_hung(seconds: float) -> None:
    """Have the kernel end this process HANG_S after so many seconds, whatever its threads do.

    A process that serves others, too, is left alone: a simulation of all sites, a test.
    """
    if _for_one_message:
        # No handler of ours: it would need the interpreter, which may be what hangs.
        signal.setitimer(signal.ITIMER_REAL, seconds + HANG_S)
