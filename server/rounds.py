"""One round over Flower's Grid: one open message per site, replies handled as they arrive.

A site that is lost (its node goes offline, its process dies, its message cannot be delivered) is
not refused: it is asked again when it is back, while the round goes on (docs/rounds.md).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cardionets_core.errors import CardioNetsError, WireError
from cardionets_core.faults import fault_point
from cardionets_core.flower_compat import LOST_CODES
from cardionets_core.messages import (
    MISSING_MEMORY,
    Task,
    Update,
    payload_bytes,
)
from server.mail import pause_s, read, send
from server.round_book import LOST, RoundBook

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flwr.app import Message

    from server.attendance import Attendance, Place

Expected = Callable[[Mapping[str, float], Sequence[str]], float]
"""Seconds that each site took which was used, and who has not ended -> when the round may end."""

LOSSES = 3
"""A site that was lost so often in one round is not waited for once there is a quorum."""

AGAIN_S = 5.0
"""Pause before a site is asked again after its second loss; it grows with every further one."""

log = logging.getLogger("cardionets.server")


@dataclass
class RoundResult:
    """What one round brought.

    Attributes:
        accepted: sites whose update was used.
        refused: site -> reason code: its own refusal, a screening reason, `late` or `lost`.
        bytes_down: payload sent to each site.
        bytes_up: payload received from each site.
        seconds: wall time from the first message to the last reply.
        seconds_by_site: from the sending of the task to the update that was used; and of an
            answer that the site had kept, what its training took before.
        losses: how often a site was lost, where it was.
        memory_lost: sites that had lost what they remembered of the run, and began anew.
        longer: whether the round went on beyond `first_s`, since there was no quorum by then.
    """

    accepted: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    bytes_down: dict[str, int] = field(default_factory=dict)
    bytes_up: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    seconds_by_site: dict[str, float] = field(default_factory=dict)
    losses: dict[str, int] = field(default_factory=dict)
    memory_lost: list[str] = field(default_factory=list)
    longer: bool = False


def run_round(
    attendance: Attendance,
    sites: Iterable[str],
    *,
    make_task: Callable[[str, frozenset[str], float], Task],
    accept: Callable[[str, Update], str | None],
    deadline_s: float,
    enough: Callable[[Sequence[str]], bool] = bool,
    rejoin_s: float = 0.0,
    waiting: Callable[[list[str]], None] = lambda sites: None,
    expected_s: Expected | None = None,
    first_s: float = math.inf,
) -> RoundResult:
    """Send every site its task and hand each update to `accept` as it arrives.

    Args:
        attendance: who is there.
        sites: who takes part; one that is away is sent its task when it is back.
        make_task: makes a site's task, from what it has lost (codes of LOST) and the seconds left.
        accept: uses an update and returns None, or says why it must not be used.
        deadline_s: after this the round goes on without the sites that have not answered; their
            messages expire too, so that no site works on a round that is over.
        enough: whether the updates of these sites make a quorum. Until they do, all others are
            waited for until the deadline, lost ones included.
        rejoin_s: with a quorum, a lost site is waited for at most so long after it was lost.
        waiting: told which lost sites are waited for, whenever that changes.
        expected_s: with a quorum, an earlier deadline, from who has answered and who has not.
        first_s: an earlier deadline. Without a quorum by then, the sites that have not answered are
            asked again, and the round goes on until `deadline_s`.
    """
    playing = _Round(
        attendance,
        sites,
        make_task=make_task,
        accept=accept,
        deadline_s=deadline_s,
        enough=enough,
        first_s=first_s,
    )
    return playing.play(rejoin_s, waiting, expected_s)


class _Round:
    """The state of one round; see run_round for the arguments."""

    def __init__(
        self,
        attendance: Attendance,
        sites: Iterable[str],
        *,
        make_task: Callable[[str, frozenset[str], float], Task],
        accept: Callable[[str, Update], str | None],
        deadline_s: float,
        enough: Callable[[Sequence[str]], bool],
        first_s: float,
    ) -> None:
        self._attendance = attendance
        self._make_task, self._accept, self._enough = make_task, accept, enough
        self._started = self._attendance.clock()
        self._deadline_s, self._last_s = min(first_s, deadline_s), deadline_s
        self._book = RoundBook(sites)
        self._result = RoundResult()
        self._asked_at: dict[str, Place] = {}
        self._sent: dict[str, tuple[int, float]] = {}
        self._not_before: dict[str, float] = {}

    def play(
        self,
        rejoin_s: float,
        waiting: Callable[[list[str]], None],
        expected_s: Expected | None,
    ) -> RoundResult:
        told: list[str] = []
        self._attendance.look()
        fault_point("sent_none")
        self._ask_due()
        fault_point("no_replies")
        while True:
            self._collect()
            self._attendance.look()
            if self._elapsed() >= self._deadline_s and self._may_go_on():
                self._go_on()
            self._ask_due()
            quorum = self._has_quorum()
            awaited = self._awaited(rejoin_s if quorum else None)
            if awaited != told:
                waiting(awaited)
                told = awaited
            last_s = self._deadline_s
            if quorum and expected_s is not None:
                last_s = min(last_s, expected_s(self._result.seconds_by_site, self._book.pending))
            if self._elapsed() >= last_s or not (awaited or self._at_work(quorum)):
                break
            self._attendance.sleep(pause_s(self._elapsed()))
        if told:
            waiting([])
        return self._closed()

    def _closed(self) -> RoundResult:
        book, result = self._book, self._result
        memory_lost = [s for s in (*book.accepted, *book.refused) if MISSING_MEMORY in book.lost(s)]
        book.close(away=[s for s in book.pending if not self._is_at_work(s)])
        fault_point("all_replies")
        result.accepted, result.refused = book.accepted, book.refused
        result.memory_lost = sorted(memory_lost)
        result.seconds = self._elapsed()
        return result

    def _has_quorum(self) -> bool:
        return self._enough(sorted(self._book.accepted))

    def _may_go_on(self) -> bool:
        """Return whether the round would go on beyond its present deadline."""
        return self._deadline_s < self._last_s and not self._has_quorum()

    def _go_on(self) -> None:
        """Move the deadline; whoever has not answered is asked again: the messages have expired.

        A site that has done its work meanwhile answers with what it has stored.
        """
        log.warning("no quorum after %.0f s; the round goes on", self._elapsed())
        self._deadline_s, self._result.longer = self._last_s, True
        for site in self._book.pending:
            self._asked_at.pop(site, None)

    def _is_over(self) -> bool:
        return self._elapsed() >= self._deadline_s and not self._may_go_on()

    def _elapsed(self) -> float:
        return self._attendance.clock() - self._started

    def _ask_due(self) -> None:
        """Send the task to every site that has not been asked where, and since, it is there."""
        self._attendance.greet()
        for site in self._book.pending:
            place = self._attendance.place(site)
            if place is None or place == self._asked_at.get(site):
                continue
            if self._attendance.clock() >= self._not_before.get(site, 0.0):
                if site in self._asked_at:
                    self._lose(site)
                self._ask(site, place)
                fault_point("sent_some")

    def _ask(self, site: str, place: Place) -> None:
        left = self._deadline_s - self._elapsed()
        if left <= 0:
            return
        task = self._make_task(site, self._book.lost(site), left)
        message_id, size = send(self._attendance.grid, place.node, task, left)
        if message_id is None:
            self._lose(site)
            return
        self._asked_at[site] = place
        self._result.bytes_down[site] = self._result.bytes_down.get(site, 0) + size
        self._sent[message_id] = (place.node, self._attendance.clock())
        self._book.asked(message_id, site)

    def _collect(self) -> None:
        """Take the replies that are there, one at a time: never two models in memory at once."""
        for message_id in self._book.waiting:
            node, _ = self._sent[message_id]
            if self._attendance.is_online(node) and message_id in self._book.waiting:
                for message in self._attendance.grid.pull_messages([message_id]):
                    self._take(message)
                    del message  # or it would lie here while the next one is fetched
        self._attendance.hear()

    def _take(self, message: Message) -> None:
        message_id = message.metadata.reply_to_message_id
        site = self._book.answered(message_id)
        if site is None:
            return
        if message.has_error() and message.error.code in LOST_CODES:
            log.warning("site %s was lost (Flower's code %d)", site, message.error.code)
            if self._is_over():  # expired, rather than lost
                self._book.settle(site, "late")
            elif site not in self._book.open_sites:
                self._lose(site)
            return
        reason = self._reason(site, message)
        if reason in LOST and self._is_over():
            self._book.settle(site, "late")
        elif reason in LOST and self._book.ask_again(site, reason):
            self._asked_at.pop(site, None)
        else:
            self._book.settle(site, reason)
            fault_point("some_replies")

    def _reason(self, site: str, message: Message) -> str | None:
        """Return None where the update was used, else a reason code."""
        if not message.has_error():
            size = payload_bytes(message.content)
            self._result.bytes_up[site] = self._result.bytes_up.get(site, 0) + size
        update = read(message)
        if isinstance(update, str):
            return update
        try:
            reason = self._accept(site, update)
        except WireError:
            return "unreadable"
        except CardioNetsError as error:
            log.warning("site %s: %s", site, error)
            return "unusable"
        if reason is None:
            sent_at = self._sent[message.metadata.reply_to_message_id][1]
            # Deadlines are learned from it: an answer sent again would seem to take no time.
            taken = self._attendance.clock() - sent_at + update.seconds_before
            self._result.seconds_by_site[site] = taken
        return reason

    def _lose(self, site: str) -> None:
        """Write down that a site was lost; it is asked again where it is, after a while."""
        losses = self._losses(site) + 1
        self._result.losses[site] = losses
        self._not_before[site] = self._attendance.clock() + AGAIN_S * (losses - 1)
        self._asked_at.pop(site, None)

    def _is_at_work(self, site: str) -> bool:
        """Return whether a site is there and has a task of this round."""
        return self._attendance.place(site) is not None and site in self._book.open_sites

    def _at_work(self, quorum: bool) -> bool:
        """Return whether a site is at work that is waited for."""
        most = LOSSES if quorum else float("inf")
        return any(self._is_at_work(s) and self._losses(s) < most for s in self._book.pending)

    def _losses(self, site: str) -> int:
        return self._result.losses.get(site, 0)

    def _awaited(self, patience_s: float | None) -> list[str]:
        """Return the lost sites that are waited for; None: without end."""
        lost = [s for s in self._book.pending if not self._is_at_work(s)]
        if patience_s is None:
            return lost
        now = self._attendance.clock()
        since = self._attendance.away_since
        return [
            s for s in lost if self._losses(s) < LOSSES and now - since.get(s, now) < patience_s
        ]
