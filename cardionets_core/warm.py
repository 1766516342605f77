"""The warm starter: a process that has everything imported, and forks for each app process.

Flower starts a new Python process for every message at a site, and one for a run at the server;
each spends seconds on importing torch before it works for the first time. The starter imports once;
then each of them is still a fresh process of its own, a fork of the clean starter, within
milliseconds. Nothing of one survives into the next.

Flower starts `flwr-clientapp` and `flwr-serverapp` by name. `install` puts a program of that name
into a folder that Flower finds first on its PATH (warm_shim.py); it hands its arguments,
environment and output to the starter, and starts the plain program if there is no starter to talk
to.
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import shlex
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from cardionets_core.errors import ConfigError
from cardionets_core.flower_command import Command
from cardionets_core.lifetime import work_for_one_message

CLIENT_PROGRAM, SERVER_PROGRAM = "flwr-clientapp", "flwr-serverapp"
SOCKET_ENV = "CARDIONETS_WARM_SOCKET"
LATE_MODULES = (
    "torch._inductor.config",
    "hydra.core.override_parser.overrides_parser",
    "pyarrow.pandas_compat",
)
"""What libraries import at the first use only: by torch.use_deterministic_algorithms (a second of
CPU), by a site's YAML (0.1 s), and by a table. Every fork would pay for it again."""

MAX_SOCKET_PATH = 100
_SHIM = Path(__file__).with_name("warm_shim.py")
_LENGTH_BYTES = 8
_CRASHED = 1


def socket_below(home: Path) -> Path:
    """Return where a starter may listen: below `home`, unless that is too long for a socket."""
    place = home / "warm.sock"
    if len(os.fsencode(place)) <= MAX_SOCKET_PATH:
        return place
    return Path(tempfile.mkdtemp(prefix="cardionets-")) / "warm"


def starter(program: str, socket_path: Path, *, home: Path, modules: Sequence[str]) -> Command:
    """Return the command of the starter, which serves one user on one machine.

    Args:
        program: what its forks run, `CLIENT_PROGRAM` or `SERVER_PROGRAM`.
        socket_path: where it listens; only its user can connect.
        home: FLWR_HOME while it imports; each fork is given its own.
        modules: what to import beforehand.

    Raises:
        ConfigError: the path is longer than the system allows for a socket.
    """
    if len(os.fsencode(socket_path)) > MAX_SOCKET_PATH:
        raise ConfigError(
            f"the path of the warm starter's socket {socket_path} is longer than "
            f"{MAX_SOCKET_PATH} bytes; choose a shorter folder"
        )
    argv = (sys.executable, "-m", "cardionets_core.warm", program, str(socket_path), *modules)
    # A check for CUDA while importing must not initialise it: forks could not use it any more.
    return Command(argv, {"FLWR_HOME": str(home), "PYTORCH_NVML_BASED_CUDA_CHECK": "1"})


def install(program: str, folder: Path, *, log: Path | None = None) -> Path:
    """Write the stand-in for a program of Flower into a folder; return that folder.

    Args:
        program: its name.
        folder: created if needed.
        log: file that the program's output is added to; None: where Flower sends it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / program
    # -I -S: no site-packages, no environment; this start costs 20 ms instead of seconds.
    line = shlex.join([sys.executable, "-I", "-S", str(_SHIM)])
    output = f" >>{shlex.quote(str(log))} 2>&1" if log is not None else ""
    path.write_text(f'#!/bin/sh\nexec {line} "$0" "$@"{output}\n', encoding="utf-8")
    path.chmod(0o755)
    return folder


def serve(name: str, socket_path: Path, modules: Sequence[str]) -> None:
    """Import a program and `modules`, then fork a process per request until SIGTERM."""
    from cardionets_core import flower_compat, flower_site  # slow: the point of this file

    server = name == SERVER_PROGRAM
    program = flower_compat.server_app_program() if server else flower_compat.client_app_program()
    for module in modules:
        importlib.import_module(module)
    gc.freeze()  # what is there now is never collected, so forks need not copy its pages
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
                _work(link, program, None if server else flower_site.keep_task_input)
            link.close()


def _work(
    link: socket.socket, program: Callable[[], None], keep_input: Callable[[int], None] | None
) -> None:
    """Become the process of one app: take over its arguments, and leave with its code."""
    code = _CRASHED
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        kept = _take_over(link)
        if keep_input is not None:
            keep_input(kept)
            work_for_one_message()
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


def _take_over(link: socket.socket) -> int:
    """Take arguments, environment and output over; return where a task's input is kept."""
    header, descriptors, _, _ = socket.recv_fds(link, _LENGTH_BYTES, 4)
    *outputs, kept = descriptors
    for target, descriptor in enumerate(outputs):
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
    return kept


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
