"""Stands in for a program of Flower: asks the warm starter to run it (see warm.py).

Runs without site-packages, so it imports nothing but the standard library.
"""

from __future__ import annotations

import json
import os
import socket
import sys


def main() -> int:
    """Hand this process's arguments, environment and output over; return the exit code.

    Without a starter the plain program runs in this process's place: slower, same result. A process
    that was killed while it worked on a task is started once more, with the input that the first
    one was given; Flower would notice its end after a minute, and give the task up.
    """
    program, arguments = sys.argv[1], sys.argv[2:]
    kept = keep_in_memory()
    request = {"argv": [program, *arguments], "env": dict(os.environ), "cwd": os.getcwd()}
    body = json.dumps(request).encode()
    try:
        code = ask_starter(body, kept)
    except (KeyError, OSError) as missing:
        return run_plain(program, arguments, missing)
    if code is None and any(os.pread(kept, 8, 0)):
        print(f"{os.path.basename(program)} was killed; starting it once more", file=sys.stderr)
        try:
            code = ask_starter(body, kept)
        except OSError:
            code = None  # the starter is gone, too
    return 128 + 9 if code is None else code


def keep_in_memory() -> int:
    """Return a file without a name, in memory where the system can; it goes with this process."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("task-input")
    import tempfile

    return os.dup(tempfile.TemporaryFile().fileno())


def ask_starter(body: bytes, kept: int) -> int | None:
    """Let the starter run the program; return its exit code, or None where it was killed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.connect(os.environ["CARDIONETS_WARM_SOCKET"])
        socket.send_fds(link, [len(body).to_bytes(8, "big")], [0, 1, 2, kept])
        link.sendall(body)
        try:
            answer = link.recv(1)
        except ConnectionError:
            return None
        return answer[0] if answer else None


def run_plain(program: str, arguments: list[str], missing: Exception) -> int:
    """Replace this process by the next program of this name on PATH."""
    print(f"no warm starter ({missing!r}); starting {program} as Flower does", file=sys.stderr)
    own = os.path.dirname(os.path.abspath(program))
    folders = os.environ.get("PATH", "").split(os.pathsep)
    name = os.path.basename(program)
    for folder in folders:
        candidate = os.path.join(folder, name)
        if os.path.abspath(folder) != own and os.access(candidate, os.X_OK):
            os.execv(candidate, [candidate, *arguments])
    print(f"{name} was not found on PATH; install Flower", file=sys.stderr)
    return 127


if __name__ == "__main__":
    sys.exit(main())
