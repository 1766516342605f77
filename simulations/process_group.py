"""Start processes with a log file each, and leave none of them behind, however we end.

Three layers: `stop` ends the whole family in order; SIGTERM and SIGHUP are turned into exceptions,
so that `stop` runs; and a watchdog process ends the family when this process was killed outright.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

import psutil

from cardionets_core.errors import EngineError
from cardionets_core.flower_command import LOOPBACK, Command
from cardionets_core.ports import held_by
from cardionets_core.supervision import signals_afterwards, signals_to
from simulations import watchdog

TAIL_LINES = 15


class ProcessGroup:
    """Named child processes, each a session of its own, that end together.

    Args:
        logs: folder of the log files, `<name>.log`; created if needed.
        env: environment of every child, before its command's own variables.
        cwd: working folder of every child.
    """

    def __init__(self, logs: Path, *, env: Mapping[str, str], cwd: Path) -> None:
        self.logs = logs
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._token = uuid.uuid4().hex
        self._env = {**env, watchdog.TOKEN: self._token}
        self._cwd = cwd
        self._sessions: set[int] = set()
        self._watchdog: subprocess.Popen[bytes] | None = None
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, command: Command) -> None:
        """Start a process under a name; its output goes to `<logs>/<name>.log`.

        Raises:
            EngineError: the program is not there, or a process of this name still runs.
        """
        if name in self.processes and self.ended(name) is None:
            raise EngineError(f"{name} still runs; end it before it is started again")
        if self._watchdog is None:
            self._watchdog = self._start_watchdog()
        with self.log_path(name).open("ab") as log:
            process = self._spawn(command, log)
        self.processes[name] = process
        self._sessions.add(process.pid)
        self._tell_watchdog(process.pid)

    def run(self, command: Command, *, seconds: float) -> subprocess.CompletedProcess[str]:
        """Run a short command of the family to its end and return its output.

        Raises:
            EngineError: the program is not there, or takes longer than `seconds`.
        """
        try:
            return subprocess.run(
                command.argv,
                env=command.environment(self._env),
                cwd=self._cwd,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                timeout=seconds,
                check=False,
            )
        except FileNotFoundError as missing:
            raise _not_installed(command) from missing
        except subprocess.TimeoutExpired as late:
            raise EngineError(
                f"`{' '.join(command.argv[:3])}` did not answer within {seconds:g} s; "
                f"the logs in {self.logs} may say why"
            ) from late

    def stop(self, *, patience: float = watchdog.TERMINATE_S) -> None:
        """End every process of the family, grandchildren included; may be called twice.

        Raises:
            EngineError: something survived SIGKILL.
        """
        with signals_afterwards():  # a second Ctrl-C must not leave orphans
            gone = watchdog.end_family(self._token, self._sessions, patience=patience)
            gone = all([_reap(process) for process in self.processes.values()]) and gone
            self._dismiss_watchdog()
        if not gone:
            raise EngineError(f"processes of {self.logs.parent} could not be ended; see `ps -ef`")

    def members(self) -> list[psutil.Process]:
        """Return all living processes of the family, grandchildren included."""
        return watchdog.family(self._token, self._sessions)

    def ended(self, name: str) -> int | None:
        """Return the exit code of a process that has ended, or None while it lives."""
        return self.processes[name].poll()

    def runs_below(self, name: str, program: str) -> bool:
        """Return whether a process has a descendant whose command line names a program."""
        try:
            children = psutil.Process(self.processes[name].pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return False
        return any(program in word for child in children for word in _command_line(child))

    def log_path(self, name: str) -> Path:
        """Return the log file of a process."""
        return self.logs / f"{name}.log"

    def tail(self, name: str) -> str:
        """Return where a process's log is and its last lines, for an error message."""
        path = self.log_path(name)
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        last = "\n".join(f"    {line}" for line in lines[-TAIL_LINES:] if line.strip())
        return f"its log {path} ends with:\n{last}" if last else f"its log {path} is empty"

    def _spawn(self, command: Command, log: IO[bytes]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                command.argv,
                env=command.environment(self._env),
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except FileNotFoundError as missing:
            raise _not_installed(command) from missing

    def _start_watchdog(self) -> subprocess.Popen[bytes]:
        # Not a member: it gets no token. -P keeps this folder's modules out of its path.
        return subprocess.Popen(
            [sys.executable, "-P", watchdog.__file__, self._token, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _tell_watchdog(self, session: int) -> None:
        if self._watchdog is not None and self._watchdog.stdin is not None:
            self._watchdog.stdin.write(f"{session}\n".encode())
            self._watchdog.stdin.flush()

    def _dismiss_watchdog(self) -> None:
        if self._watchdog is not None and self._watchdog.stdin is not None:
            self._watchdog.stdin.close()
            self._watchdog.wait(timeout=2 * watchdog.KILL_S)
            self._watchdog = None


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Let SIGTERM and SIGHUP leave through `finally` blocks, with the shell's exit code."""
    with signals_to(_exit_like_a_shell, (signal.SIGTERM, signal.SIGHUP)):
        yield


def _exit_like_a_shell(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextmanager
def reserved_ports(count: int) -> Iterator[list[int]]:
    """Hold free TCP ports of loopback for processes that will listen on them.

    It takes a server seconds until it listens, and another program that asks for any free port
    could be given the same one meanwhile. Linux hands out no port that a socket holds, and yet
    lets a server that sets SO_REUSEADDR, as all do, listen on one that is held so and not
    listened on. Elsewhere the ports are let go at once.
    """
    with ExitStack() as holding:
        sockets = [holding.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            if sys.platform == "linux":
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((LOOPBACK, 0))
        ports = [int(one.getsockname()[1]) for one in sockets]
        if sys.platform != "linux":
            holding.close()
        yield ports


def check_port(port: int) -> None:
    """Raise EngineError if somebody listens on a loopback port, naming the process if we may."""
    holder = held_by(port)
    if holder:
        raise EngineError(
            f"port {port} is in use by {holder}; stop that process, choose another "
            "port, or use port=0 to let CardioNets pick a free one"
        )


def _reap(process: subprocess.Popen[bytes]) -> bool:
    """Collect an ended child; its last threads may outlive its first one for a moment."""
    try:
        process.wait(timeout=watchdog.KILL_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _not_installed(command: Command) -> EngineError:
    return EngineError(
        f"{command.argv[0]} was not found; Flower is not installed in this environment: "
        "pip install cardionets"
    )
