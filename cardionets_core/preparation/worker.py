"""The life of a worker process: private files, a limit of time for every item, no orphans."""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from types import FrameType

from cardionets_core.data.refusal import RecordRefused

ITEM_SECONDS = 300
"""After this long an item is given up."""

GRACE_SECONDS = 60
"""So much later, a worker that is stuck in a decoder's own code is ended."""


def start_worker() -> None:
    """Set up a worker: private files, and no life without its parent."""
    os.umask(0o077)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def time_limit() -> Iterator[None]:
    """Give an item up that takes too long.

    A decoder in C hears of it only when it returns; one that never does loses its process.
    """

    def give_up(number: int, frame: FrameType | None) -> None:
        raise RecordRefused("too_slow")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, ITEM_SECONDS)
    with open(os.devnull, "w") as nowhere:
        if parent_process() is not None:
            faulthandler.dump_traceback_later(ITEM_SECONDS + GRACE_SECONDS, exit=True, file=nowhere)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            if parent_process() is not None:
                faulthandler.cancel_dump_traceback_later()
