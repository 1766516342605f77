"""Keep what a planned fault makes a logger say off the table."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def silenced(name: str, *, below: int = logging.CRITICAL) -> Iterator[None]:
    """Let a logger say nothing for a while.

    Args:
        name: of the logger, and of those below it that have no level of their own.
        below: level of the least that it still says.
    """
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(below)
    try:
        yield
    finally:
        logger.setLevel(before)
