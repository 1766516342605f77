"""The book of a round: every site ends once, whatever arrives, and whenever."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from cardionets_core.messages import MISSING_MEMORY, MISSING_PARTS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

LOST = (MISSING_PARTS, MISSING_MEMORY)
"""Codes of a site that can serve the task once it is sent, or told to do without, what it lost."""

log = logging.getLogger("cardionets.server")


class RoundBook:
    """Who takes part in a round and how each of them ended: every site once, whatever arrives.

    Knows message ids and names only, no engine and no clock. A site may have been sent its task
    more than once; the first reply to any of them that ends the site is the one that counts.

    Args:
        sites: who takes part.
    """

    def __init__(self, sites: Iterable[str]) -> None:
        self._pending = set(sites)
        self._open: dict[str, str] = {}
        self._lost: dict[str, set[str]] = {}
        self.accepted: list[str] = []
        self.refused: dict[str, str] = {}

    @property
    def pending(self) -> list[str]:
        """Sites that have not ended, sorted."""
        return sorted(self._pending)

    @property
    def waiting(self) -> list[str]:
        """Ids of the messages whose answer could still count, oldest first."""
        return list(self._open)

    @property
    def open_sites(self) -> set[str]:
        """Sites that have a message whose answer could still count."""
        return set(self._open.values())

    def asked(self, message_id: str, site: str) -> None:
        """Write down that a site was sent the task."""
        if site in self._pending:
            self._open[message_id] = site

    def answered(self, message_id: str) -> str | None:
        """Return whose task a reply answers; None for a copy, or for what no longer counts."""
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
        self._pending.discard(site)
        self._open = {m: s for m, s in self._open.items() if s != site}
        if reason is None:
            self.accepted.append(site)
        else:
            self.refused[site] = reason
            log.warning("site %s: %s", site, reason)

    def close(self, away: Collection[str] = ()) -> None:
        """End the round: who has not ended is late, or lost; what comes later counts nowhere.

        Args:
            away: sites that are lost.
        """
        for site in self.pending:
            self.settle(site, "lost" if site in away else "late")
        self.accepted.sort()
