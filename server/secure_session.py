"""One try of a secure round: who answered which question, and the sum of the masked residues."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from cardionets_core.errors import IncompleteError, RunError, WireError
from cardionets_core.faults import fault_point
from cardionets_core.messages import Task, Update
from cardionets_core.privacy.secure_aggregation.protocol import (
    PUBLIC_BYTES,
    SEALED_BYTES,
    ProtocolError,
    Terms,
    unmask,
)
from cardionets_core.privacy.secure_aggregation.quantiser import (
    CHECKS,
    Quantiser,
    check_sum,
    size_of,
)
from cardionets_core.privacy.secure_aggregation.shamir import SHARE_BYTES
from cardionets_core.privacy.secure_aggregation.signatures import SIGNATURE_BYTES
from cardionets_core.secure_config import AGREEMENTS, KEYS, RESIDUES, SECURE, SHARES, SecureTask
from server.exchange import Run, send_round, within
from server.gathering import TRIES, Gathered, quorum, sites_needed
from server.owners import with_quorum
from server.privacy import keeps_to
from server.rounds import RoundResult, run_round
from server.screening import counts_allowed, misdirected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    from cardionets_core.messages import TaskHeader
    from cardionets_core.packing import Groups
    from cardionets_core.secure_config import Phase
    from server.state import RunState

SHORT_S = 300.0
"""Seconds that a question without training may take, at most."""


@dataclass
class SecureSession:
    """One try of a round.

    Attributes:
        threshold: sites that the sum must be over.
        needed: sites that must answer, the quorum of the stage included.
        came: sites whose residues are in it.
        refused: site -> why it is not.
        dropped: phase -> sites that did not answer it.
    """

    run: Run
    state: RunState
    head: TaskHeader
    heads: Mapping[str, TaskHeader]
    expected: Groups
    threshold: int
    needed: int = field(init=False)
    came: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = [self.state.sites[site].counts.get("train_studies", 0) for site in self.heads]
        plan = self.run.config.secure_aggregation
        # Of those that are asked: a sum that is repeated is asked of the same sites only.
        asked = {site: self.state.sites[site] for site in self.heads}
        self._settings = with_quorum(self.run.config, self.head.stage, asked)
        self.needed = max(self.threshold, sites_needed(self.run.config, self._settings))
        self._asked = SecureTask(
            session=secrets.token_hex(16),
            phase="keys",
            threshold=self.threshold,
            clip=plan.clip,
            clips=plan.clips,
            largest=max(1, *counts),
        )
        self._total = np.zeros(size_of(self.expected) + CHECKS, dtype=np.uint32)
        self._updates: dict[str, Update] = {}
        self._results: list[RoundResult] = []
        self._keys: dict[str, bytes] = {}
        self._sealed: dict[str, NDArray[np.uint8]] = {}
        self._agreed: dict[str, NDArray[np.uint8]] = {}
        self._signing = False

    def collect(self) -> bool:
        """Return whether enough sites have sent keys, shares and residues, and agreed on them."""
        size: tuple[int, ...] = (PUBLIC_BYTES + SIGNATURE_BYTES,)
        keys = self._ask(self._asked, self.heads, KEYS, size)
        if len(keys) < self.needed:
            return False
        self._keys = {site: keys[site][:PUBLIC_BYTES].tobytes() for site in sorted(keys)}
        self._signing = all(row[PUBLIC_BYTES:].any() for row in keys.values())
        roster = tuple(self._keys)
        asked = replace(self._asked, phase="shares", roster=roster)
        rows = np.stack([keys[site] for site in roster])
        size = (len(roster), SEALED_BYTES)
        self._sealed = self._ask(asked, roster, SHARES, size, lambda site: {KEYS: rows})
        if len(self._sealed) < self.needed:
            return False
        masked = self._train(replace(self._asked, phase="train", present=self._masked))
        self.came = masked.accepted
        enough = quorum(self.run.config, self._settings, self.expected, self._updates)
        return len(self.came) >= self.threshold and enough(self.came) and self._agree()

    def opened(self) -> Groups:
        """Return the weighted mean of the updates that came.

        Raises:
            IncompleteError: fewer sites than the threshold gave their shares, TRIES times.
            RunError: the shares do not open the sum.
        """
        fault_point("opening")
        terms = Terms(self._asked.session, self.threshold, self._keys)
        asked = replace(self._asked, phase="unmask", present=tuple(self.came))
        size = (len(self._keys), SHARE_BYTES)
        asked_sites = list(self._agreed) if self._signing else self.came
        for _ in range(TRIES):
            answers = self._ask(asked, asked_sites, SHARES, size, self._opening_for)
            if len(answers) >= self.threshold:
                break
        else:
            raise IncompleteError(
                f"stage {self.head.stage}, round {self.head.round}: {len(answers)} of "
                f"{self.threshold} sites needed gave the shares that open the secure sum. Await "
                f"the sites ({', '.join(asked_sites)}), then resume the run.",
                set(asked_sites) - set(answers),
            )
        revealed = {
            site: {s: row.tobytes() for s, row in zip(self._keys, rows, strict=True)}
            for site, rows in answers.items()
        }
        try:
            unmask(self._total, terms, revealed, masked=self._masked, came=self.came)
            check_sum(self._total, len(self.came))
        except (ProtocolError, WireError) as error:
            raise RunError(
                f"stage {self.head.stage}, round {self.head.round}: the secure sum does not open: "
                f"{error}. A site broke the protocol; find it in its log, then resume the run."
            ) from None
        return self._quantiser().mean(self._total, self.expected, self._weight())

    def gathered(self, delta: Groups, tries: int) -> Gathered:
        """Return what the round brought."""
        result = RoundResult(accepted=self.came, refused=self.refused)
        for part in self._results:
            result.seconds += part.seconds
            for name in ("bytes_down", "bytes_up", "losses"):
                mine, theirs = getattr(result, name), getattr(part, name)
                mine |= {site: mine.get(site, 0) + more for site, more in theirs.items()}
            result.seconds_by_site |= part.seconds_by_site
            result.memory_lost += part.memory_lost
        facts = {"threshold": self.threshold, "roster": list(self._keys), "dropped": self.dropped}
        return Gathered(
            result,
            {site: self._updates[site] for site in self.came},
            delta,
            [],
            tries,
            self._settings.deadline_s,
            secure=facts,
        )

    @property
    def _masked(self) -> tuple[str, ...]:
        """Sites whose shares came, in the order of the roster: their masks are in the residues."""
        return tuple(site for site in self._keys if site in self._sealed)

    def _agree(self) -> bool:
        """Return whether enough sites have signed who came; none need to, where not all sign."""
        if not self._signing:
            return True
        asked = replace(self._asked, phase="agree", present=tuple(self.came))
        given = self._ask(asked, self.came, AGREEMENTS, (SIGNATURE_BYTES,))
        # A site whose key is gone since signs with nothing: known before the sum is bound to it.
        self._agreed = {site: row for site, row in given.items() if row.any()}
        if len(self._agreed) >= self.threshold:
            return True
        self.came = list(self._agreed)  # fewer than needed: nothing is opened
        self.refused |= self._results[-1].refused
        return False

    def _opening_for(self, site: str) -> dict[str, NDArray[np.uint8]]:
        """Return what every site has sealed for this one and signed, in the order of the roster."""
        column = list(self._keys).index(site)
        arrays = {SHARES: self._rows({s: r[column] for s, r in self._sealed.items()}, SEALED_BYTES)}
        if self._signing:
            arrays[AGREEMENTS] = self._rows(self._agreed, SIGNATURE_BYTES)
        return arrays

    def _rows(self, rows: Mapping[str, NDArray[np.uint8]], width: int) -> NDArray[np.uint8]:
        nothing = np.zeros(width, dtype=np.uint8)
        return np.stack([rows.get(site, nothing) for site in self._keys])

    def _ask(
        self,
        asked: SecureTask,
        sites: Iterable[str],
        name: str,
        shape: tuple[int, ...],
        arrays: Callable[[str], dict[str, NDArray[np.uint8]]] = lambda site: {},
    ) -> dict[str, NDArray[np.uint8]]:
        """Ask a question without training; return site -> its array of this name and shape."""
        answers: dict[str, NDArray[np.uint8]] = {}

        def make(site: str, lost: frozenset[str], left_s: float) -> Task:
            head = replace(self.heads[site], secure=asked, parts={})
            return Task(within(head, left_s), {SECURE: arrays(site)})

        def accept(site: str, update: Update) -> str | None:
            reason = self._misdirected(site, update)
            array = update.delta.get(SECURE, {}).get(name)
            if reason is not None:
                return reason
            if array is None:
                return "keys"
            if array.dtype != np.uint8 or array.shape != shape:
                return "shape"
            answers[site] = array
            return None

        sites = list(sites)
        result = run_round(
            self.run.attendance,
            sites,
            make_task=make,
            accept=accept,
            deadline_s=min(SHORT_S, self._settings.deadline_s),
            enough=lambda there: len(there) >= self.needed,
            rejoin_s=self.run.config.rejoin_s,
            waiting=self.run.waiting,
        )
        self._note(asked.phase, result)
        return answers

    def _train(self, asked: SecureTask) -> RoundResult:
        """Ask for masked residues and add them up."""
        asked = replace(asked, roster=tuple(self._keys))
        heads = {site: replace(self.heads[site], secure=asked) for site in self._masked}
        enough = quorum(self.run.config, self._settings, self.expected, self._updates)
        result = send_round(
            self.run,
            self.state,
            heads,
            self._fold,
            self._settings.deadline_s,
            enough=lambda there: len(there) >= self.threshold and enough(there),
        )
        self._note("train", result)
        return result

    def _fold(self, site: str, update: Update) -> str | None:
        """Add a site's residues to the sum and return None, or return why they are not used."""
        record = self.state.sites[site]
        reason = self._misdirected(site, update)
        if reason is None and not keeps_to(update, self.head.privacy, record):
            reason = "privacy"
        most = record.counts.get("train_studies", 0)
        if reason is None and not counts_allowed(update, max_examples=most, shares={}):
            reason = "num_examples"
        if reason is None and set(update.delta) != {SECURE}:
            reason = "parts"
        residues = update.delta.get(SECURE, {}).get(RESIDUES)
        if reason is None and (residues is None or residues.nbytes != 4 * len(self._total)):
            reason = "shape"
        if reason is not None or residues is None:
            return reason
        self._total += np.frombuffer(residues.tobytes(), dtype="<u4")
        counts = dict.fromkeys(self.expected, update.num_examples)
        self._updates[site] = replace(update, delta={}, metrics={}, examples=counts)
        fault_point("mid_aggregation")
        return None

    def _misdirected(self, site: str, update: Update) -> str | None:
        head = self.head
        return misdirected(update, site=site, run=head.run, stage=head.stage, number=head.round)

    def _note(self, phase: Phase, result: RoundResult) -> None:
        self._results.append(result)
        if result.refused:
            self.dropped[phase] = sorted(result.refused)
        if phase not in ("agree", "unmask"):  # whoever is lost then is in the sum all the same
            self.refused |= result.refused

    def _quantiser(self) -> Quantiser:
        asked = self._asked
        return Quantiser(len(self._keys), asked.clip, asked.clips, asked.largest)

    def _weight(self) -> int:
        return sum(self._updates[site].num_examples for site in self.came)
