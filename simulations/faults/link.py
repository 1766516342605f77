"""A link between a site and the SuperLink that is slow, far, or cut at a chosen byte.

    with Link(folder, superlink_port, cuts=[Cut("up", message=1, at_bytes=50_000)]) as link:
        ...  # the site's SuperNode connects to link.address instead of the SuperLink
    link.events()

A relay in a process of its own passes TCP on, byte for byte. It reads along in the (plain) HTTP to
know how far which transfer is: `up` are a site's replies, `down` its tasks; each is a `message`,
counted from 0, and travels as objects of at most 5 MiB, one HTTP request each. What passed and what
was cut, it writes to `events.jsonl`. For packet loss see packets.py: a relay of streams has none.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from cardionets_core.errors import EngineError
from cardionets_core.flower_command import LOOPBACK
from simulations.process_group import reserved_ports

Way = Literal["up", "down"]

EVENTS = "events.jsonl"
START_S = 30.0


@dataclass(frozen=True)
class Cut:
    """One cut of the link.

    Attributes:
        way: of the transfer that is cut: `up` (a reply) or `down` (a task).
        message: which of the site's replies or tasks, from 0; the handshake's is 0.
        at_bytes: the link goes when this many bytes of its objects have passed.
        seconds: how long it is gone.
        silent: nothing passes and nobody is told, as when a cable is pulled; else connections are
            dropped and new ones refused, as when a proxy restarts.
    """

    way: Way
    message: int
    at_bytes: int
    seconds: float = 1.0
    silent: bool = False


@dataclass(frozen=True)
class LinkPlan:
    """What the relay's process is told.

    Attributes:
        port: where it listens, on loopback.
        target: port of the SuperLink, on loopback.
        events: file that it appends its events to.
        bits_per_s: speed of each direction, shared by all connections; 0 is no limit.
        delay_s: of each direction; the round trip takes twice that.
        loss: share of the IP packets that are lost in either direction; wants root (packets.py).
        cuts: what happens to it, each once.
    """

    port: int
    target: int
    events: str
    bits_per_s: float = 0.0
    delay_s: float = 0.0
    loss: float = 0.0
    cuts: tuple[Cut, ...] = ()


def read_plan(text: str) -> LinkPlan:
    """Return the plan that a relay's process was given as JSON."""
    values = json.loads(text)
    return LinkPlan(**{**values, "cuts": tuple(Cut(**cut) for cut in values["cuts"])})


class Link:
    """The relay's process; a context manager.

    Args:
        folder: for its events; created if needed.
        target: port of the SuperLink, on loopback.
        bits_per_s: see LinkPlan; likewise `delay_s`, `loss` and `cuts`.
        delay_s: see `bits_per_s`.
        loss: see `bits_per_s`.
        cuts: see `bits_per_s`.
    """

    def __init__(
        self,
        folder: Path,
        target: int,
        *,
        bits_per_s: float = 0.0,
        delay_s: float = 0.0,
        loss: float = 0.0,
        cuts: Sequence[Cut] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._undo = ExitStack()
        (port,) = self._undo.enter_context(reserved_ports(1))
        self._events = folder.resolve() / EVENTS
        self._events.unlink(missing_ok=True)
        self.plan = LinkPlan(
            port, target, str(self._events), bits_per_s, delay_s, loss, tuple(cuts)
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """What the site's SuperNode connects to."""
        return f"{LOOPBACK}:{self.plan.port}"

    def __enter__(self) -> Link:
        """Start the relay and return when it listens."""
        plan = json.dumps(asdict(self.plan))
        program = "simulations.faults.packets" if self.plan.loss else "simulations.faults.relay"
        # It ends when its standard input does: also when this process is killed.
        self._process = subprocess.Popen(
            [sys.executable, "-m", program, plan], stdin=subprocess.PIPE
        )
        deadline = time.monotonic() + START_S
        while not self.events():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise EngineError(f"the relay on port {self.plan.port} did not start")
            time.sleep(0.05)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the relay."""
        self.stop()

    def stop(self) -> None:
        """End the relay; may be called twice."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait(timeout=START_S)
        self._undo.close()

    def events(self) -> list[dict[str, Any]]:
        """Return what has happened, oldest first: `listening`, `object`, `cut`, `restored` ...

        An `object` says its `way` and `message`, its `size`, how much of it `passed`, and when it
        `began` and (`time`) ended, in seconds since 1970. An object that passed whole is
        `unanswered`, with its `way`, `message` and `size`, if its answer did not pass.
        """
        if not self._events.is_file():
            return []
        lines = self._events.read_text().split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def sizes(self, way: Way) -> dict[int, int]:
        """Return message -> bytes of its objects that passed whole, each object once."""
        found: dict[int, int] = {}
        for event in self.events():
            if event["event"] == "object" and event["way"] == way:
                whole = event["passed"] == event["size"]
                found[event["message"]] = found.get(event["message"], 0) + whole * event["size"]
        return found
