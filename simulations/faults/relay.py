"""The process behind link.py: passes TCP on, slowly, and drops it where it is told to.

python -m simulations.faults.relay PLAN      (LinkPlan as JSON; it ends when its stdin does)
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TextIO

from cardionets_core.flower_command import LOOPBACK
from simulations.faults.link import Cut, LinkPlan, Way, read_plan

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]

PIECE = 4096
"""Bytes that pass at a time; no cut is more exact."""

IN_FLIGHT = 64
"""Pieces that may be under way in one direction of a connection."""

BUFFER, SEGMENT = 64 * 1024, 1460
"""Bytes that the near side may hold, and bytes of a packet, as on Ethernet."""

ANNOUNCE = "/v1/fleet/push-messages"
UPLOAD = "/v1/fleet/push-object"
DOWNLOAD = "/v1/fleet/pull-object"
RECEIVED = "/v1/fleet/confirm-message-received"


@dataclass
class Body:
    """An HTTP message under way."""

    path: str
    size: int
    passed: int = 0
    began: float = field(default_factory=time.time)


class Follower:
    """Reads along in one direction of an HTTP/1.1 connection: which body is under way, how far."""

    def __init__(self) -> None:
        self._head = b""
        self.body = Body("", 0)

    def feed(self, data: bytes) -> list[Body]:
        """Take the next bytes and return the messages that begin in them."""
        begun = []
        while data:
            left = self.body.size - self.body.passed
            if left:
                self.body.passed += min(left, len(data))
                data = data[left:]
                continue
            head, end, rest = (self._head + data).partition(b"\r\n\r\n")
            if not end:
                self._head = head
                break
            self._head, data, self.body = b"", rest, _read_head(head)
            begun.append(self.body)
        return begun


def _read_head(head: bytes) -> Body:
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
    return Body(first.split(" ")[1], int(fields.get("content-length", 0)))


class Connection:
    """One TCP connection: a follower for either direction, and how to drop both of its ends."""

    def __init__(self, *ends: asyncio.StreamWriter) -> None:
        self._ends = ends
        self.followers: dict[Way, Follower] = {"up": Follower(), "down": Follower()}
        self.asked = ""
        self.upload: Body | None = None  # the last one that was sent and is not answered

    def drop(self) -> None:
        """Reset both ends."""
        for end in self._ends:
            end.transport.abort()


class Relay:
    """All connections of one link, its clock and its cuts.

    Args:
        plan: what it is told.
        events: file that gets its events.
        connect: opens a connection to the other side; by default to the SuperLink itself.
    """

    def __init__(self, plan: LinkPlan, events: TextIO, connect: Connect | None = None) -> None:
        self._plan = plan
        self._events = events
        self._connect = connect or (lambda: asyncio.open_connection(LOOPBACK, plan.target))
        self._cuts = list(plan.cuts)
        self._connections: set[Connection] = set()
        self._free: dict[Way, float] = {"up": 0.0, "down": 0.0}
        self._message: dict[Way, int] = {"up": -1, "down": 0}
        self._whole: dict[Way, int] = {"up": 0, "down": 0}
        self._up = asyncio.Event()
        self._up.set()
        self._refusing = False

    async def serve(self, door: socket.socket) -> None:
        """Take connections for ever."""
        server = await asyncio.start_server(self._accept, sock=door)
        self._tell("listening", port=self._plan.port)
        async with server:
            await server.serve_forever()

    async def _accept(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        if self._refusing:
            back.transport.abort()
            return
        await asyncio.sleep(2 * self._plan.delay_s)  # the handshake of TCP
        await self._up.wait()
        try:
            far, forth = await self._connect()
        except OSError:
            back.transport.abort()
            return
        connection = Connection(forth, back)
        self._connections.add(connection)
        ways = self._pass(near, forth, "up", connection), self._pass(far, back, "down", connection)
        try:
            await asyncio.gather(*ways)
        except OSError:  # a peer went, or we dropped it
            pass
        finally:
            connection.drop()
            self._connections.discard(connection)
            for way in ("up", "down"):
                self._note_broken(way, connection)
            self._note_unanswered(connection)

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        way: Way,
        connection: Connection,
    ) -> None:
        """Carry one direction of a connection to its end."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(IN_FLIGHT)
        carrier = asyncio.create_task(self._carry(queue, writer, way, connection))
        try:
            while data := await reader.read(PIECE):
                await queue.put((await self._serialise(data, way) + self._plan.delay_s, data))
                if carrier.done():
                    break
            await queue.put((0.0, b""))
            await carrier
        finally:
            carrier.cancel()

    async def _serialise(self, data: bytes, way: Way) -> float:
        """Wait until the link has taken these bytes in; return when that was."""
        now = time.monotonic()
        if not self._plan.bits_per_s:
            return now
        self._free[way] = max(now, self._free[way]) + 8 * len(data) / self._plan.bits_per_s
        await asyncio.sleep(self._free[way] - now)
        return self._free[way]

    async def _carry(
        self,
        queue: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
        way: Way,
        connection: Connection,
    ) -> None:
        while True:
            due, data = await queue.get()
            if not data:
                writer.write_eof()
                return
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self._up.wait()
            self._follow(data, way, connection)
            cut = self._due_cut(way)
            if cut is not None:
                await self._cut(cut)
            writer.write(data)
            await writer.drain()

    def _follow(self, data: bytes, way: Way, connection: Connection) -> None:
        follower = connection.followers[way]
        before = follower.body
        begun = follower.feed(data)
        for body in [before, *begun[:-1]]:
            if begun and body.size:
                self._note_whole(body, way, connection)
        for body in begun:
            if way == "up":
                connection.asked = body.path
                connection.upload = body if self._is_object(body, way) else None
                self._count_message(body.path)
            else:
                body.path = connection.asked
        whole = follower.body.passed == follower.body.size
        if way == "down" and whole and (begun or follower.body.size):
            connection.upload = None
        if follower.body.size and whole:
            self._note_whole(follower.body, way, connection)
            follower.body = Body("", 0)

    def _count_message(self, path: str) -> None:
        """Count a task when it was received, and its reply when it is announced the first time."""
        received = self._message["down"]
        if path == RECEIVED:
            self._message["down"], self._whole["down"] = received + 1, 0
        elif path == ANNOUNCE and self._message["up"] < received - 1:
            self._message["up"], self._whole["up"] = received - 1, 0

    def _note_whole(self, body: Body, way: Way, connection: Connection) -> None:
        if self._is_object(body, way):
            self._whole[way] += body.size
            self._tell_object(body, way)

    def _note_broken(self, way: Way, connection: Connection) -> None:
        body = connection.followers[way].body
        if self._is_object(body, way) and body.size:
            self._tell_object(body, way)

    def _note_unanswered(self, connection: Connection) -> None:
        """Tell of an upload that passed whole and whose answer did not: it is sent again."""
        body = connection.upload
        if body is not None and body.passed == body.size:
            self._tell("unanswered", way="up", message=self._message["up"], size=body.size)

    @staticmethod
    def _is_object(body: Body, way: Way) -> bool:
        return body.path == (UPLOAD if way == "up" else DOWNLOAD)

    def _due_cut(self, way: Way) -> Cut | None:
        """Return the cut that the bytes now under way have reached, and forget it."""
        bodies = [c.followers[way].body for c in self._connections]
        passed = self._whole[way] + sum(b.passed for b in bodies if self._is_object(b, way))
        for cut in self._cuts:
            if (cut.way, cut.message) == (way, self._message[way]) and passed >= cut.at_bytes:
                self._cuts.remove(cut)
                return cut
        return None

    async def _cut(self, cut: Cut) -> None:
        self._tell("cut", way=cut.way, message=cut.message, seconds=cut.seconds)
        if cut.silent:
            self._up.clear()
            await asyncio.sleep(cut.seconds)
            self._restore()
            return
        self._refusing = True
        asyncio.get_running_loop().call_later(cut.seconds, self._restore)
        for connection in list(self._connections):
            connection.drop()
        raise ConnectionResetError

    def _restore(self) -> None:
        self._tell("restored")
        self._refusing = False
        self._up.set()

    def _tell_object(self, body: Body, way: Way) -> None:
        facts = {"size": body.size, "passed": body.passed, "began": body.began}
        self._tell("object", way=way, message=self._message[way], **facts)

    def _tell(self, event: str, **more: Any) -> None:
        self._events.write(json.dumps({"event": event, "time": time.time(), **more}) + "\n")
        self._events.flush()


def listener(port: int) -> socket.socket:
    """Return the socket where SuperNodes connect: like one at the near end of a real line.

    Loopback has packets of 64 kB and buffers of megabytes: Flower would take what lies there for
    sent, and wait for an answer while the slow side has hardly begun.
    """
    door = socket.socket()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    door.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
    door.bind((LOOPBACK, port))
    return door


def end_with_stdin() -> None:
    """End this process when its standard input ends: whoever started it is gone."""
    sys.stdin.read()
    os._exit(0)


async def _main(plan: LinkPlan) -> None:
    with open(plan.events, "a", encoding="utf-8") as events:
        await Relay(plan, events).serve(listener(plan.port))


if __name__ == "__main__":
    threading.Thread(target=end_with_stdin, daemon=True).start()
    asyncio.run(_main(read_plan(sys.argv[1])))
