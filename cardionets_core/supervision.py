"""Keep child processes alive: started again when they end, with a pause that grows.

    processes = Processes()
    kept = [Kept("superlink", command, processes, say=print)]
    with ended_by_signals():
        while True:
            for one in kept:
                one.tick(time.monotonic())
            time.sleep(TICK_S)

Nothing here waits: `tick` looks once and returns, so that one loop can look after all of them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import psutil

from cardionets_core.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

    from cardionets_core.flower_command import Command

TICK_S = 0.25
"""Seconds between two looks."""

TERMINATE_S = 6.0
"""Seconds that a process may take to end by itself; Flower's own processes force an end after 5."""


class Starts(Protocol):
    """Starts processes by name and knows which have ended (`Processes`, or a test's fake)."""

    def start(self, name: str, command: Command) -> None:
        """Start a process under a name that no living process has."""

    def ended(self, name: str) -> int | None:
        """Return the exit code of a process that has ended, None while it lives."""


@dataclass(frozen=True)
class Backoff:
    """How long to wait before a process is started again.

    Attributes:
        first_s: the first pause; each one that follows without a healthy time is twice as long.
        longest_s: no pause is longer.
        healthy_s: a process that was up this long starts again with the first pause.
    """

    first_s: float = 0.5
    longest_s: float = 20.0
    healthy_s: float = 10.0

    def pause(self, failures: int) -> float:
        """Return the pause after this many ends in a row (from 1), in seconds."""
        return float(min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 30)))


class Kept:
    """One process that is started again whenever it ends.

    Args:
        name: of the process; part of what is said.
        command: how it is started.
        processes: starts it.
        say: is told each end and each start that follows, one line each.
        backoff: how long to wait in between.
        explain: of an end that is special, given its exit code: the pause in seconds, and what to
            say (nothing, if empty).
        is_up: whether the running process has come up. Time counts as healthy from then only: on a
            slow machine a process that never comes up can spend a minute on its imports. None:
            from its start.

    Attributes:
        restarts: how often it was started again.
    """

    def __init__(
        self,
        name: str,
        command: Command,
        processes: Starts,
        *,
        say: Callable[[str], None],
        backoff: Backoff | None = None,
        explain: Callable[[int], tuple[float, str] | None] = lambda code: None,
        is_up: Callable[[], bool] | None = None,
    ) -> None:
        self.name = name
        self.restarts = 0
        self._command = command
        self._processes = processes
        self._say = say
        self._backoff = backoff or Backoff()
        self._explain = explain
        self._is_up = is_up
        self._since: float | None = None  # started at; None: not running
        self._up_since: float | None = None  # None: not yet up
        self._next: float | None = None  # start at; None: at once
        self._failures = 0

    @property
    def running(self) -> bool:
        """Whether it was alive at the last look."""
        return self._since is not None

    def tick(self, now: float) -> None:
        """Look once: note an end, or start what is due.

        Args:
            now: seconds of a clock that only goes forward.
        """
        if self._since is not None:
            code = self._processes.ended(self.name)
            if self._up_since is None and self._is_up is not None and self._is_up():
                self._up_since = now
            if code is not None:
                self._note_end(code, now)
        elif self._next is None or now >= self._next:
            self._processes.start(self.name, self._command)
            self._since = now
            self._up_since = now if self._is_up is None else None

    def _note_end(self, code: int, now: float) -> None:
        up_s = 0.0 if self._up_since is None else now - self._up_since
        self._failures = 1 if up_s >= self._backoff.healthy_s else self._failures + 1
        pause = self._backoff.pause(self._failures)
        words = f"{self.name} ended with {exit_words(code)}; it is started again in {pause:g} s"
        special = self._explain(code)
        if special is not None:
            pause, words = special
        self._since, self._next = None, now + pause
        self.restarts += 1
        if words:
            self._say(words)


class Processes:
    """Named child processes, each a session of its own, whose output goes to this terminal."""

    def __init__(self) -> None:
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: Command) -> None:
        """Start a process under a name.

        Raises:
            EngineError: the program is not there.
        """
        try:
            with signals_afterwards():  # or one that comes between the two leaves an orphan
                self._running[name] = self.launch(command)
        except FileNotFoundError:
            raise EngineError(
                f"{command.argv[0]} was not found; Flower is not installed in this environment: "
                "pip install cardionets"
            ) from None

    def launch(self, command: Command) -> subprocess.Popen[bytes]:
        """Start a process in a session of its own: Ctrl-C is for the one that supervises it."""
        return subprocess.Popen(
            command.argv,
            env=command.environment(os.environ),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def ended(self, name: str) -> int | None:
        """Return the exit code of a process that has ended, None while it lives."""
        return self._running[name].poll()

    def alive(self, name: str) -> bool:
        """Return whether a process of this name was started and lives."""
        return name in self._running and self._running[name].poll() is None

    def pid(self, name: str) -> int:
        """Return the id of the process that was last started under a name."""
        return self._running[name].pid

    def stop(self) -> None:
        """End all: SIGTERM in the reverse order of their start, SIGKILL to what is left."""
        for process in reversed(self._running.values()):
            if process.poll() is None:
                process.terminate()
        for process in self._running.values():
            try:
                process.wait(timeout=TERMINATE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Stopped(BaseException):
    """A service manager or a person asked this process to end; no error."""


ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The signals that ask a process to end."""


@contextmanager
def signals_to(
    handler: Callable[[int, FrameType | None], object],
    numbers: Iterable[signal.Signals] = ENDING,
) -> Iterator[None]:
    """Hand signals to a handler while the body runs; then the former handlers are put back.

    Does nothing outside the main thread, where Python allows no signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextmanager
def signals_afterwards() -> Iterator[None]:
    """Hold back what asks this process to end while the body runs.

    None is lost: the first that came is delivered at the end.
    """
    came: list[int] = []
    try:
        with signals_to(lambda number, _frame: came.append(number)):
            yield
    finally:
        for first in came[:1]:
            signal.raise_signal(first)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Turn SIGTERM, SIGINT and SIGHUP into `Stopped`, so that `finally` blocks run."""
    with signals_to(_stop):
        yield


def _stop(number: int, _frame: FrameType | None) -> None:
    # A second signal must not break off the ending of the children.
    for one in ENDING:
        signal.signal(one, signal.SIG_IGN)
    raise Stopped(signal.Signals(number).name)


def process_start(pid: int) -> float | None:
    """Return when a living process was started (seconds since 1970), or None without one.

    An id is given again to another process some day; together with its start it never is.
    A process that has ended and was not yet collected by its parent does not live.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.create_time()
    except (psutil.Error, ValueError):
        return None


def exit_words(code: int) -> str:
    """Return an exit code in words: `exit code 1`, or the signal that ended the process."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
