"""The warm starter: a site's own process that has everything imported, and forks per message.

Flower starts a new Python process for every message, and that process spends seconds on importing
torch before it works for the first time. The starter imports once; then each message still gets
a fresh process of its own, a fork of the clean starter, within milliseconds. Nothing of one
message survives into the next.

Flower starts `flwr-clientapp` by name. `install` puts a program of that name into a folder that
the SuperNode finds first on its PATH (client/warm_shim.py); it hands its arguments, environment and
output to the starter, and starts the plain program if there is no starter to talk to.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import shlex
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from cardionets_core.errors import ConfigError
from cardionets_core.flower_command import Command

PROGRAM = "flwr-clientapp"
SOCKET_ENV = "CARDIONETS_WARM_SOCKET"
APP_MODULES = ("client.client_app", "client.local_training", "client.site")
"""What the ClientApp needs before it can work on a task."""

MAX_SOCKET_PATH = 100
_SHIM = Path(__file__).with_name("warm_shim.py")
_LENGTH_BYTES = 8
_CRASHED = 1


def starter(socket_path: Path, *, home: Path, modules: Sequence[str] = APP_MODULES) -> Command:
    """Return the command of the starter, which serves one user's sites on one machine.

    Args:
        socket_path: where it listens; only its user can connect.
        home: FLWR_HOME while it imports; each message brings its own.
        modules: what to import beforehand.

    Raises:
        ConfigError: the path is longer than the system allows for a socket.
    """
    if len(os.fsencode(socket_path)) > MAX_SOCKET_PATH:
        raise ConfigError(
            f"the path of the warm starter's socket {socket_path} is longer than "
            f"{MAX_SOCKET_PATH} bytes; choose a shorter folder"
        )
    argv = (sys.executable, "-m", "client.warm", str(socket_path), *modules)
    # A check for CUDA while importing must not initialise it: forks could not use it any more.
    return Command(argv, {"FLWR_HOME": str(home), "PYTORCH_NVML_BASED_CUDA_CHECK": "1"})


def install(folder: Path) -> Path:
    """Write the stand-in for `flwr-clientapp` into a folder; return that folder."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / PROGRAM
    # -I -S: no site-packages, no environment; this start costs 20 ms instead of seconds.
    line = shlex.join([sys.executable, "-I", "-S", str(_SHIM)])
    program.write_text(f'#!/bin/sh\nexec {line} "$0" "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    return folder


def serve(socket_path: Path, modules: Sequence[str]) -> None:
    """Import `modules`, then fork a process per request until SIGTERM."""
    from cardionets_core.flower_compat import client_app_program  # slow: the point of this file

    program = client_app_program()
    for module in modules:
        importlib.import_module(module)
    # Children are not waited for: each tells its own exit code to the program that asked.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    socket_path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        previous = os.umask(0o177)
        listener.bind(str(socket_path))
        os.umask(previous)
        listener.listen(64)
        while True:
            link, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _work(link, program)
            link.close()


def _work(link: socket.socket, program: Callable[[], None]) -> None:
    """Become the process of one message: take over its arguments, and leave with its code."""
    code = _CRASHED
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _take_over(link)
        program()
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        # A fork has nobody above it: print as the interpreter would, and leave.
        traceback.print_exc()
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        link.sendall(bytes([code & 0xFF]))
        os._exit(code)


def _take_over(link: socket.socket) -> None:
    header, descriptors, _, _ = socket.recv_fds(link, _LENGTH_BYTES, 3)
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    length, received = int.from_bytes(header, "big"), b""
    while len(received) < length:
        received += link.recv(length - len(received))
    request = json.loads(received)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv = request["argv"]


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2:])
