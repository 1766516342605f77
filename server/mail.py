"""One task to a node and one reply back, and what the replies of the engine itself mean."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from flwr.app import Message

from cardionets_core.errors import SiteError, WireError
from cardionets_core.messages import (
    MESSAGE_TYPES,
    Task,
    Update,
    payload_bytes,
    task_to_records,
    update_from_records,
)

if TYPE_CHECKING:
    from flwr.serverapp import Grid

log = logging.getLogger("cardionets.server")

POLL_S = 0.1
"""Seconds between two looks for replies at first."""

LONGEST_POLL_S = 1.0
"""Seconds between two looks when the wait has been long: each look is work for the SuperLink."""


def pause_s(elapsed: float) -> float:
    """Return how long to pause before the next look: 1 % of the wait so far, within bounds."""
    return min(max(POLL_S, elapsed / 100), LONGEST_POLL_S)


def send(grid: Grid, node: int, task: Task, ttl: float) -> tuple[str | None, int]:
    """Send a task to a node.

    Args:
        ttl: seconds after which the engine no longer delivers it, nor takes a reply to it.

    Returns:
        the message's id, None where the engine did not take it; and the bytes of its payload.
    """
    content = task_to_records(task)
    size = payload_bytes(content)
    kind = MESSAGE_TYPES.get(task.header.stage, "train")
    message = Message(content, dst_node_id=node, message_type=kind, ttl=ttl)
    ids = list(grid.push_messages([message]))
    if not ids or not ids[0]:
        log.warning("Flower did not take the task of stage %s for a node", task.header.stage)
        return None, 0
    return ids[0], size


def read(message: Message) -> Update | str:
    """Return the update of a reply, or the code of why there is none."""
    if message.has_error():
        # Flower's own text may hold anything; only its number is kept.
        return f"flower_{message.error.code}"
    try:
        return update_from_records(message.content)
    except SiteError as error:
        return error.code
    except WireError:
        return "unreadable"
