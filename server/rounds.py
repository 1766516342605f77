"""One round over Flower's Grid: one message per site, replies handled as they arrive."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flwr.app import Message

from cardionets_core.errors import CardioNetsError, SiteError, WireError
from cardionets_core.messages import (
    MESSAGE_TYPES,
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
    """

    accepted: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    bytes_down: dict[str, int] = field(default_factory=dict)
    bytes_up: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


def run_round(
    grid: Grid,
    nodes: Mapping[str, int],
    *,
    make_task: Callable[[str, bool], Task],
    accept: Callable[[str, Update], str | None],
    deadline_s: float,
) -> RoundResult:
    """Send every site its task and hand each update to `accept` as it arrives.

    Args:
        nodes: site name -> Flower node id.
        make_task: makes a site's task; the second argument asks for all weights (it lost some).
        accept: uses an update and returns None, or says why it must not be used.
        deadline_s: after this the round goes on without the sites that have not answered; their
            messages expire too, so that no site works on a round that is over.
    """
    result = RoundResult()
    started = time.monotonic()
    waiting = {
        _send(grid, n, nodes[n], make_task(n, False), deadline_s, result): n for n in sorted(nodes)
    }
    resent: set[str] = set()
    while waiting and time.monotonic() - started < deadline_s:
        for message in list(grid.pull_messages(list(waiting))):
            site = waiting.pop(message.metadata.reply_to_message_id, None)
            if site is None:
                continue  # a second copy, or an answer to nothing that is still open
            reason = _take(message, site, accept, result)
            left = deadline_s - (time.monotonic() - started)
            if reason == MISSING_PARTS and left <= 0:
                result.refused[site] = "late"
            elif reason == MISSING_PARTS and site not in resent:
                resent.add(site)
                task = make_task(site, True)
                waiting[_send(grid, site, nodes[site], task, left, result)] = site
            elif reason is None:
                result.accepted.append(site)
            else:
                result.refused[site] = reason
                log.warning("site %s: %s", site, reason)
        if waiting:
            time.sleep(POLL_S)
    result.refused.update(dict.fromkeys(waiting.values(), "late"))
    result.accepted.sort()
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
        return "wire"
    except CardioNetsError as error:
        log.warning("site %s: %s", site, error)
        return "unusable"
