"""One round over Flower's Grid: one message per site, replies handled as they arrive."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flwr.app import Message

from cardionets_core.errors import CardioNetsError, SiteError, WireError
from cardionets_core.faults import fault_point
from cardionets_core.messages import (
    MESSAGE_TYPES,
    MISSING_MEMORY,
    MISSING_PARTS,
    Task,
    Update,
    payload_bytes,
    task_to_records,
    update_from_records,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flwr.serverapp import Grid

LOST = (MISSING_PARTS, MISSING_MEMORY)
"""Codes of a site that can serve the task once it is sent, or told to do without, what it lost."""

POLL_S = 0.1
"""Seconds between two looks for replies."""

log = logging.getLogger("cardionets.server")


@dataclass
class RoundResult:
    """What one round brought.

    Attributes:
        accepted: sites whose update was used.
        refused: site -> reason code: the site's own refusal, a screening reason, or `late`.
        bytes_down: payload sent to each site.
        bytes_up: payload received from each site.
        seconds: wall time from the first message to the last reply.
        memory_lost: sites that had lost what they remembered of the run, and began anew.
    """

    accepted: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    bytes_down: dict[str, int] = field(default_factory=dict)
    bytes_up: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    memory_lost: list[str] = field(default_factory=list)


class RoundBook:
    """Who was asked in a round and how each of them ended: every site once, whatever arrives.

    Knows message ids and names only, no engine and no clock.
    """

    def __init__(self) -> None:
        self._open: dict[str, str] = {}
        self._lost: dict[str, set[str]] = {}
        self.accepted: list[str] = []
        self.refused: dict[str, str] = {}

    @property
    def waiting(self) -> list[str]:
        """Ids of the messages that have no answer yet."""
        return list(self._open)

    def asked(self, message_id: str, site: str) -> None:
        """Write down that a site was sent a task."""
        self._open[message_id] = site

    def answered(self, message_id: str) -> str | None:
        """Return whose task a reply answers; None for a second copy or one of another round."""
        return self._open.pop(message_id, None)

    def ask_again(self, site: str, code: str = MISSING_PARTS) -> bool:
        """Return whether a site that lost this may be asked again; true only once."""
        known = self._lost.setdefault(site, set())
        first = code not in known
        known.add(code)
        return first

    def lost(self, site: str) -> frozenset[str]:
        """Return the codes of what a site has told to have lost in this round."""
        return frozenset(self._lost.get(site, ()))

    def settle(self, site: str, reason: str | None) -> None:
        """Write down how a site ended: with an update that was used, or with a reason."""
        if reason is None:
            self.accepted.append(site)
        else:
            self.refused[site] = reason
            log.warning("site %s: %s", site, reason)

    def close(self) -> None:
        """End the round: who has not answered is late, and what comes later counts nowhere."""
        self.refused.update(dict.fromkeys(self._open.values(), "late"))
        self._open.clear()
        self.accepted.sort()


def run_round(
    grid: Grid,
    nodes: Mapping[str, int],
    *,
    make_task: Callable[[str, frozenset[str]], Task],
    accept: Callable[[str, Update], str | None],
    deadline_s: float,
) -> RoundResult:
    """Send every site its task and hand each update to `accept` as it arrives.

    Args:
        nodes: site name -> Flower node id.
        make_task: makes a site's task; the second argument says what it has lost (codes of LOST).
        accept: uses an update and returns None, or says why it must not be used.
        deadline_s: after this the round goes on without the sites that have not answered; their
            messages expire too, so that no site works on a round that is over.
    """
    result, book = RoundResult(), RoundBook()
    started = time.monotonic()

    def ask(site: str, left: float) -> None:
        task = make_task(site, book.lost(site))
        book.asked(_send(grid, site, nodes[site], task, left, result), site)

    fault_point("sent_none")
    for site in sorted(nodes):
        ask(site, deadline_s)
        fault_point("sent_some")
    fault_point("no_replies")
    while book.waiting and time.monotonic() - started < deadline_s:
        for message in list(grid.pull_messages(book.waiting)):
            who = book.answered(message.metadata.reply_to_message_id)
            if who is None:
                continue
            reason = _take(message, who, accept, result)
            left = deadline_s - (time.monotonic() - started)
            if reason in LOST and left <= 0:
                book.settle(who, "late")
            elif reason in LOST and book.ask_again(who, reason):
                ask(who, left)
            else:
                book.settle(who, reason)
                fault_point("some_replies")
        if book.waiting:
            time.sleep(POLL_S)
    book.close()
    fault_point("all_replies")
    result.accepted, result.refused = book.accepted, book.refused
    result.memory_lost = sorted(s for s in nodes if MISSING_MEMORY in book.lost(s))
    result.seconds = time.monotonic() - started
    return result


def _send(grid: Grid, site: str, node: int, task: Task, ttl: float, result: RoundResult) -> str:
    content = task_to_records(task)
    kind = MESSAGE_TYPES.get(task.header.stage, "train")
    result.bytes_down[site] = result.bytes_down.get(site, 0) + payload_bytes(content)
    message = Message(content, dst_node_id=node, message_type=kind, ttl=ttl)
    (message_id,) = grid.push_messages([message])
    return message_id


def _take(
    message: Message,
    site: str,
    accept: Callable[[str, Update], str | None],
    result: RoundResult,
) -> str | None:
    """Return None where the update was used, else a reason code."""
    if message.has_error():
        # Flower's own text may hold anything; only its number is kept.
        return f"flower_{message.error.code}"
    result.bytes_up[site] = result.bytes_up.get(site, 0) + payload_bytes(message.content)
    try:
        return accept(site, update_from_records(message.content))
    except SiteError as error:
        return error.code
    except WireError:
        return "unreadable"
    except CardioNetsError as error:
        log.warning("site %s: %s", site, error)
        return "unusable"
