"""Keep this hospital's SuperNode alive, and say why it could not come in.

A SuperNode ends when the coordinator sends it away: its key is not registered, the coordinator has
lost its database, or an earlier life of the same node is still taken for alive. All of these pass,
most by themselves; so it is started again, and the administrator is told once what is the matter.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

from cardionets_core.supervision import TICK_S, Kept, Processes, Stopped, ended_by_signals
from client import warm

if TYPE_CHECKING:
    from collections.abc import Callable

    from cardionets_core.flower_command import Command

NODE = "SuperNode"
SEEN = "admitted"
"""File in the node's home that is touched while the coordinator has let the node in."""

AGAIN_S = 10.0
"""Seconds until a node that was sent away asks again."""

LAST_WORDS_S = 2.0
"""Seconds to wait for the last words of a node that has ended, if others hold its pipe."""

FORGOTTEN_S = 90.0
"""Seconds after which a coordinator no longer takes a killed node for alive (Flower: 60 s)."""

ADMITTED_WORDS = b"SuperNode ID:"
REFUSED_WORDS = b"Failed to activate SuperNode"
"""What Flower prints when a node was let in, and when it was sent away."""

TAKEN_WORDS = b"address already in use"
"""What it prints when another process listens on the port of the node's own API."""

STILL_ALIVE = (
    "the coordinator still takes this site's earlier start for alive; it will be let in within a "
    "minute"
)
UNKNOWN_KEY = (
    "the coordinator does not let this site in: its key is not registered there, or the "
    "coordinator has lost its database. Ask it to register the public half of the key"
)

PORT_TAKEN = (
    "another process listens on this node's --port: end that process, or start this site with a "
    "--port and a --home of its own"
)


class NodeProcesses(Processes):
    """Starts the SuperNode, passes its output on, and notes whether it was let in.

    Args:
        out: where the output goes.
        seen: the file that is touched while the node is in.
    """

    def __init__(self, seen: Path, out: IO[bytes] | None = None) -> None:
        super().__init__()
        self._seen, self._out = seen, out or sys.stdout.buffer
        self.refused = self.admitted = self.port_taken = False
        self._reader: threading.Thread | None = None

    def launch(self, command: Command) -> subprocess.Popen[bytes]:
        """Start the SuperNode with a thread that reads its output."""
        self._reader = None
        self.refused = self.admitted = self.port_taken = False
        process = subprocess.Popen(
            command.argv,
            env=command.environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if process.stdout is not None:
            reads = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
            self._reader = reads
            reads.start()
        return process

    def ended(self, name: str) -> int | None:
        """Return the exit code of a node that has ended, once its last words are read.

        On a busy machine they are read later than the end is seen, and they say why it ended.
        """
        code = super().ended(name)
        if code is not None and self._reader is not None:
            self._reader.join(LAST_WORDS_S)
        return code

    def _read(self, lines: IO[bytes]) -> None:
        with lines:
            for line in lines:
                if threading.current_thread() is self._reader:  # of this life
                    self.admitted = self.admitted or ADMITTED_WORDS in line
                    self.refused = self.refused or REFUSED_WORDS in line
                    self.port_taken = self.port_taken or TAKEN_WORDS in line
                self._out.write(line)
                self._out.flush()

    def sign(self) -> None:
        """Note that the node is in, for a later start that may be refused because of it."""
        if self.admitted and self.alive(NODE):
            self._seen.touch()

    def is_in(self) -> bool:
        """Return whether the coordinator has let this life of the node in."""
        return self.admitted

    def was_in(self) -> bool:
        """Return whether a life of this node was in so lately that it may be taken for alive."""
        return self._seen.exists() and time.time() - self._seen.stat().st_mtime < FORGOTTEN_S


class Explained:
    """Says once why the node was sent away, and that it asks again quietly from then on."""

    def __init__(self, processes: NodeProcesses) -> None:
        self._processes = processes
        self._said = ""

    def __call__(self, code: int) -> tuple[float, str] | None:
        """Return the pause and what to say; None: an end like any other."""
        words = self._reason()
        said, self._said = self._said, words
        if not words:
            return None
        more = f"{words}. It tries again every {AGAIN_S:g} s"
        return AGAIN_S, "" if words == said else more

    def _reason(self) -> str:
        if self._processes.port_taken:
            return PORT_TAKEN
        if not self._processes.refused:
            return ""
        return STILL_ALIVE if self._processes.was_in() else UNKNOWN_KEY


class StarterProcesses(Processes):
    """Starts the warm starter, and knows when it can be asked.

    Args:
        socket_path: where it listens.
    """

    def __init__(self, socket_path: Path) -> None:
        super().__init__()
        self._socket_path = socket_path

    def launch(self, command: Command) -> subprocess.Popen[bytes]:
        """Start it; the socket of an earlier life goes first, for nobody listens there."""
        self._socket_path.unlink(missing_ok=True)
        return super().launch(command)

    def listens(self) -> bool:
        """Return whether this life of the starter has made its socket."""
        return self._socket_path.exists()


def keep_node(node: Command, starter: Command, home: Path, *, say: Callable[[str], None]) -> None:
    """Keep the SuperNode and the warm starter of its apps alive until a signal ends both.

    Args:
        node: how the SuperNode is started, with the starter's socket among its variables.
        starter: how the warm starter is started.
        home: the node's folder.
        say: is told each end and why the node was sent away, one line each.
    """
    others = StarterProcesses(Path(node.env[warm.SOCKET_ENV]))
    processes = NodeProcesses(home / SEEN)
    explain = Explained(processes)
    kept = [
        Kept("warm starter", starter, others, say=say, is_up=others.listens),
        Kept(NODE, node, processes, say=say, explain=explain, is_up=processes.is_in),
    ]
    try:
        with ended_by_signals():
            while True:
                for one in kept:
                    one.tick(time.monotonic())
                processes.sign()
                time.sleep(TICK_S)
    except Stopped:
        say("stopping")
    finally:
        processes.stop()
        others.stop()
