"""An engine that plays every way in which sites, lines and replies fail, on a clock of its own.

It stands in for Flower's Grid and keeps Flower's habits: who is offline is not listed; asked for
the reply of a node that is offline it answers with error 5 and forgets the message; a node that was
away has another life when it is back. All that happens is drawn from one seed, and no real time
passes, so that thousands of schedules take seconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from flwr.app import Error, Message

from cardionets_core.flower_compat import NodeInfo, stamp_message_id
from cardionets_core.messages import (
    CONFIG,
    MISSING_PARTS,
    Update,
    refusal,
    update_to_records,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flwr.app import RecordDict

DEADLINE_S = 60.0
"""Of a round, on the engine's clock."""

FATES = (
    *("answers",) * 6,
    "answers twice",
    "is silent",
    "answers late",
    "refuses",
    "lacks a part",
    "process dies",
    "message expires",
    "node dies",
    "node moves",
    "line is cut",
    "sends another's update",
    "sends an old update",
)
"""What may become of a task at a site; drawn for every message."""

NODE_UNAVAILABLE, MESSAGE_UNAVAILABLE, CLIENT_APP_CRASHED = 5, 3, 8


LOOK_S = 2.0
"""Seconds of the engine's clock between two looks, at least: fewer looks, the same order."""


class Clock:
    """Seconds that pass only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += max(seconds, LOOK_S)


@dataclass
class Node:
    """A node: whose it is, its life, and when it is back if it is away."""

    site: str
    life: int = 1
    back_at: float = 0.0


@dataclass
class Sent:
    """A task on its way: who has it, what becomes of it, and when."""

    message: Message
    node: int
    fate: str
    due: float


@dataclass
class FickleEngine:
    """See the module.

    Args:
        seed: of everything.
        sites: names; each has one node at a time.
        work: makes the update of a site for the task of a round, a new one at every call.

    Attributes:
        fates: what was drawn so far.
        past: updates that a sum holds, for whoever sends one again; kept by who plays.
    """

    seed: int
    sites: list[str]
    work: Callable[[str, int], Update]
    clock: Clock = field(default_factory=Clock)
    fates: list[str] = field(default_factory=list)
    past: list[Update] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Let every site have its first node."""
        self._draw = Random(self.seed)
        self._nodes = {100 + i: Node(site) for i, site in enumerate(self.sites)}
        self._open: dict[str, Sent] = {}
        self._sent = 0

    def places(self) -> dict[str, int]:
        """Return site -> node, as a handshake would find them."""
        return {node.site: number for number, node in self._nodes.items()}

    def get_nodes(self) -> list[NodeInfo]:
        """Return the nodes that are online."""
        return [
            NodeInfo(node_id=number, last_activated_at=str(node.life))
            for number, node in self._nodes.items()
            if node.back_at <= self.clock.now
        ]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Take messages and decide what becomes of them."""
        ids = []
        for message in messages:
            self._sent += 1
            message_id = f"m{self._sent}"
            stamp_message_id(message, message_id)
            node = message.metadata.dst_node_id
            self._open[message_id] = self._fated(message, node)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there; strays of former rounds come with them."""
        replies = []
        for message_id in [*message_ids, *self._strays()]:
            sent = self._open.get(message_id)
            if sent is None:
                continue
            node = self._nodes.get(sent.node)
            if node is None or node.back_at > self.clock.now:
                del self._open[message_id]
                replies.append(_error(sent.message, NODE_UNAVAILABLE))
            elif sent.due <= self.clock.now:
                del self._open[message_id]
                replies += self._replies(sent)
        return replies

    def _fated(self, message: Message, node: int) -> Sent:
        now, draw = self.clock.now, self._draw
        if message.metadata.message_type == "query":
            return Sent(message, node, "answers", now + draw.uniform(0, 3))
        fate = draw.choice(FATES)
        self.fates.append(fate)
        due = now + draw.uniform(0, DEADLINE_S / 3)
        if fate == "answers late":
            due = now + draw.uniform(DEADLINE_S, 2 * DEADLINE_S)
        if fate in ("node dies", "node moves", "line is cut"):
            self._goes(node, moves=fate == "node moves")
        if fate in ("is silent", "node dies", "node moves"):
            due = float("inf")
        return Sent(message, node, fate, due)

    def _goes(self, number: int, *, moves: bool) -> None:
        """Take a node away for a while; it comes back in a new life, or under a new id."""
        node = self._nodes[number]
        back_at = self.clock.now + self._draw.uniform(0, DEADLINE_S)
        if moves:
            del self._nodes[number]
            number = 1000 + self._sent
        self._nodes[number] = Node(node.site, node.life + 1, back_at)

    def _strays(self) -> list[str]:
        """Return replies that nobody asks for any more, and that come all the same."""
        late = [i for i, sent in self._open.items() if sent.fate == "answers late"]
        return [i for i in late if self._open[i].due <= self.clock.now]

    def _replies(self, sent: Sent) -> list[Message]:
        header = json.loads(str(sent.message.content.config_records[CONFIG]["header"]))
        site = self._nodes[sent.node].site
        if header["action"] == "describe":
            update = Update(site, header["run"], header["stage"], header["round"])
            return [Message(update_to_records(update), reply_to=sent.message)]
        if sent.fate == "process dies":
            return [_error(sent.message, CLIENT_APP_CRASHED)]
        if sent.fate == "message expires":
            return [_error(sent.message, MESSAGE_UNAVAILABLE)]
        content = self._answer(sent.fate, site, header["round"])
        copies = 2 if sent.fate == "answers twice" else 1
        return [Message(content, reply_to=sent.message) for _ in range(copies)]

    def _answer(self, fate: str, site: str, number: int) -> RecordDict:
        if fate == "refuses":
            return refusal("internal")
        if fate == "lacks a part":
            return refusal(MISSING_PARTS)
        update = self.work(site, number)
        if fate == "sends another's update" and self.past:
            update = self._draw.choice(self.past)
        elif fate == "sends an old update" and self.past:
            old = self._draw.choice(self.past)
            update = Update(**{**vars(old), "site": site, "round": number})
        return update_to_records(update)


def _error(message: Message, code: int) -> Message:
    return Message(Error(code=code, reason="planned"), reply_to=message)
