"""Who is there: which site is at which node, since when a site is away, and who comes in.

Flower knows nodes. A site that was killed may come back under another node id, and is known again
by the name that it says when it is asked to describe itself.
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cardionets_core.flower_compat import LOST_CODES
from cardionets_core.messages import Task, Update, payload_bytes
from server.mail import read, send

if TYPE_CHECKING:
    from collections.abc import Callable

    from flwr.serverapp import Grid

    from cardionets_core.flower_compat import NodeInfo

DESCRIBE_S = 1200.0
"""Seconds that a site may take to describe itself: the first time it reads all of its files."""

NAME_TAKEN = "name_taken"
"""Why a node stays out that says it is a site which is online under another node."""

log = logging.getLogger("cardionets.server")


@dataclass(frozen=True)
class Place:
    """A node in one of its lives: Flower writes down when it came online.

    Attributes:
        node: its id.
        since: when it came online, in Flower's words; another one: it was away in between.
    """

    node: int
    since: str


class Attendance:
    """Which site is at which node of the engine, and since when a site has been away.

    Before the reply of a node is asked for, the node is looked for in the engine's list. Asked for
    the reply of a node that is offline, Flower answers with an error and deletes the message: what
    a site worked on while its line was cut would be lost.

    Args:
        grid: Flower's message door.
        nodes: site name -> node id; changed here as sites come in.
        clock: gives seconds from any fixed moment, also to the rounds.
        sleep: waits so many seconds of that clock.

    Attributes:
        away_since: site -> monotonic time at which it was first missed.
        describe: makes the task that a node of this id is greeted with; None: nobody is greeted.
        welcome: takes what a node said of itself in; returns None, or why it must stay out.
        refused: node -> why it stays out.
        bytes_down: node -> payload of its greeting.
        bytes_up: node -> payload of its answer.
    """

    def __init__(
        self,
        grid: Grid,
        nodes: dict[str, int],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.grid = grid
        self.nodes = nodes
        self.clock = clock
        self.sleep = sleep
        self.away_since: dict[str, float] = {}
        self.describe: Callable[[int], Task] | None = None
        self.welcome: Callable[[int, Update], str | None] | None = None
        self.refused: dict[int, str] = {}
        self.bytes_down: dict[int, int] = {}
        self.bytes_up: dict[int, int] = {}
        self._online: dict[int, NodeInfo] = {}
        self._looks = 0
        self._first_seen: dict[int, int] = {}  # node -> number of the look
        self._displaced: dict[int, str] = {}  # node -> site that is at another node now
        self._greeted: dict[int, str] = {}
        self._greetings: dict[str, int] = {}
        self._claims: dict[int, Update] = {}  # of nodes that say they are a site that is here

    @property
    def online(self) -> list[int]:
        """Ids of the nodes that are online, sorted; without those that another has displaced."""
        return sorted(self._online.keys() - self._displaced.keys())

    @property
    def claimed_twice(self) -> list[str]:
        """Sites that are at one node, while another one that says it is them is listed as well."""
        claims = self._displaced | {node: update.site for node, update in self._claims.items()}
        return sorted({site for node, site in claims.items() if node in self._online})

    def look(self) -> None:
        """Ask the engine who is online."""
        self._online = {info.node_id: info for info in self.grid.get_nodes()}
        self._looks += 1
        for node in self._online:
            self._first_seen.setdefault(node, self._looks)
        now = self.clock()
        for site in self.nodes:
            if self.place(site) is None:
                self.away_since.setdefault(site, now)
            else:
                self.away_since.pop(site, None)

    def expect(self, sites: list[str]) -> None:
        """Take sites that are known from before as away until they come in."""
        now = self.clock()
        for site in sites:
            if site not in self.nodes:
                self.away_since.setdefault(site, now)

    def is_online(self, node: int) -> bool:
        """Return whether a node is online."""
        return node in self._online

    def place(self, site: str) -> Place | None:
        """Return where a site is now; None where it is away."""
        info = self._online.get(self.nodes.get(site, -1))
        return None if info is None else Place(info.node_id, info.last_activated_at)

    def label(self, node: int) -> str:
        """Return what a node is called that has not said whose it is: as registered, or node-N."""
        info = self._online.get(node)
        named = info.name if info is not None else ""
        return named or f"node-{sorted({*self._online, *self._greeted, node}).index(node)}"

    def is_enrolled(self, node: int) -> bool:
        """Return whether the coordinator has registered a node by name, and so knows whose it is.

        A SuperNode that nobody registered makes itself a new key, and gets a new id, at each start.
        """
        info = self._online.get(node)
        return info is not None and bool(info.name)

    def key_of(self, node: int) -> str:
        """Return a digest of the public key of a node that is online; empty where it has none."""
        info = self._online.get(node)
        key = info.public_key if info is not None else b""
        return hashlib.sha256(key).hexdigest()[:32] if key else ""

    def came_after(self, node: int, other: int) -> bool:
        """Return whether one node was first seen at a later look than another one.

        Two that were first seen at one look, and have both answered since, are two that live.
        """
        return self._first_seen[node] > self._first_seen[other]

    def displace(self, node: int, site: str) -> None:
        """Note that another node has taken over the site of this one, which is waited for no more.

        It is greeted again only in another life.
        """
        self._displaced[node] = site

    def unanswered(self) -> bool:
        """Return whether a node is online of which it is not known yet whose it is."""
        known = {*self.nodes.values(), *self.refused, *self._displaced}
        return any(node not in known for node in self._online)

    def greet(self) -> None:
        """Ask every node that nobody knows yet to describe itself."""
        if self.describe is None:
            return
        known = set(self.nodes.values())
        for node in sorted(self._online):
            since = self._online[node].last_activated_at
            if node in known or self._greeted.get(node) == since:
                continue
            self._greeted[node] = since
            message_id, size = send(self.grid, node, self.describe(node), DESCRIBE_S)
            if message_id is not None:
                self._greetings[message_id] = node
                self.bytes_down[node] = size

    def hear(self) -> None:
        """Take in what greeted nodes have answered since the last time."""
        self._admit_successors()
        for message_id, node in list(self._greetings.items()):
            if node not in self._online:
                continue
            for message in self.grid.pull_messages([message_id]):
                if self._greetings.pop(message.metadata.reply_to_message_id, None) is None:
                    continue  # a second copy
                if message.has_error() and message.error.code in LOST_CODES:
                    self._greeted.pop(node)  # it is greeted again when it is seen again
                    continue
                if not message.has_error():
                    self.bytes_up[node] = payload_bytes(message.content)
                self._take(node, read(message))

    def _admit_successors(self) -> None:
        """Let a node in that came too early: Flower lists a killed node for another minute."""
        for node, update in list(self._claims.items()):
            if node in self._online and self.place(update.site) is not None:
                continue
            del self._claims[node]
            if node in self._online:
                self._take(node, update)

    def _take(self, node: int, update: Update | str) -> None:
        if isinstance(update, str):
            reason: str | None = update
        elif self.welcome is None:
            return
        else:
            reason = self.welcome(node, update)
        if reason == NAME_TAKEN and not isinstance(update, str):
            self._claims[node] = update
        if reason is None:
            self.refused.pop(node, None)
            self._displaced.pop(node, None)
        else:
            self.refused[node] = reason
            log.warning("%s stays out: %s", self.label(node), reason)
