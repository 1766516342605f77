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

    Without a starter the plain program runs in this process's place: slower, same result.
    """
    program, arguments = sys.argv[1], sys.argv[2:]
    try:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.connect(os.environ["CARDIONETS_WARM_SOCKET"])
    except (KeyError, OSError) as missing:
        return run_plain(program, arguments, missing)
    request = {"argv": [program, *arguments], "env": dict(os.environ), "cwd": os.getcwd()}
    body = json.dumps(request).encode()
    socket.send_fds(link, [len(body).to_bytes(8, "big")], [0, 1, 2])
    link.sendall(body)
    answer = link.recv(1)
    return answer[0] if answer else 128 + 9  # no answer: the process was killed


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
