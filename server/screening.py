"""The update firewall: judges every update before a number of it reaches the sum.

What is checked, in which order, and what each check cannot see: docs/screening.md. The firewall
keeps no state of its own: what it must know of earlier rounds (norms and hashes of the updates that
were used) stands in the run's history, which is saved with the weights. So a restarted server
judges as the one before it would have.
"""

from __future__ import annotations

import hashlib
import logging
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cardionets_core.packing import fingerprint
from server.aggregation import LIMIT, magnitude
from server.norms import judged_rounds, norms_of, part_of, travel, usual_sizes

if TYPE_CHECKING:
    from cardionets_core.messages import Update
    from cardionets_core.packing import Groups
    from cardionets_core.run_config import StageConfig
    from cardionets_core.screening_config import ScreeningConfig

History = Sequence[Mapping[str, Any]]
"""Records of the finished rounds, oldest first (`RunState.history`)."""

MARK_DIGITS = 32
"""Hexadecimal digits of an update's hash that are kept: 128 bits."""

log = logging.getLogger("cardionets.server")


@dataclass(frozen=True)
class Asked:
    """What a training task asked for; an update must answer exactly that.

    Attributes:
        run: name of the run.
        stage: its stage.
        round: 1-based within the stage.
        expected: the weights that were sent for the trained parts: names, shapes and dtypes.
        sites: how many sites were asked; the range of the exact sum is shared among them.
        learned: see `learned_names` (norms.py); a part that is not named is all learned.
        shares: site -> part that it was asked to train -> training studies that it declared for
            it; a site that is not named was asked for every part of `expected`.
        together: parts that one objective trains: an update holds all of them or none.
    """

    run: str
    stage: str
    round: int
    expected: Groups
    sites: int = 1
    learned: Mapping[str, Collection[str]] = field(default_factory=dict)
    shares: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    together: Sequence[Collection[str]] = ()


def misdirected(update: Update, *, site: str, run: str, stage: str, number: int) -> str | None:
    """Return how an update answers something else than `site` was asked, or None.

    Args:
        update: what came back.
        site: whose node was asked.
        run: the run, stage and round (`number`) of the task.
        stage: see `run`.
        number: see `run`.
    """
    if update.site != site:
        return "wrong_site"
    if update.run != run:
        return "wrong_run"
    if update.stage != stage:
        return "wrong_stage"
    if update.round != number:
        return "wrong_round"
    return None


def due_parts(update: Update, asked: Asked) -> Groups | None:
    """Return what the parts of an update must look like, or None: it holds others than asked.

    A site may leave out what it has too few patients for, but never half of what belongs together.
    """
    # A part of which nothing travels (it stays at the sites) is never part of an update.
    due = set(asked.shares.get(update.site, asked.expected)) & set(asked.expected)
    groups = [set(g) & set(asked.expected) for g in asked.together] or [due]
    held = set(update.delta)
    whole = {part for group in groups if group <= held & due for part in group}
    if not held or held != whole:
        return None
    return {part: arrays for part, arrays in asked.expected.items() if part in held}


def counts_allowed(update: Update, *, max_examples: int, shares: Mapping[str, int]) -> bool:
    """Return whether an update counts no more studies than its site declared, part by part.

    Args:
        update: a site's answer to a training task.
        max_examples: training studies that the site declared in the handshake.
        shares: part -> those of them that have what the part is trained on.
    """
    if not 1 <= update.num_examples <= max_examples:
        return False
    if update.examples:
        counts = update.examples
        is_whole = set(counts) == set(update.delta)
        if not is_whole or not max(counts.values()) <= update.num_examples <= sum(counts.values()):
            return False
    else:
        counts = dict.fromkeys(update.delta, update.num_examples)
    return all(1 <= n <= shares.get(part, max_examples) for part, n in counts.items())


def screen(update: Update, *, expected: Groups, max_examples: int, sites: int = 1) -> str | None:
    """Return why an update cannot be added to a sum, or None; looks at nothing but the update.

    Args:
        update: a site's answer to a training task.
        expected: see Asked.
        max_examples: training studies that the site declared in the handshake.
        sites: how many sites share the range of the exact sum.
    """
    if not counts_allowed(update, max_examples=max_examples, shares={}):
        return "num_examples"
    if set(update.delta) != set(expected):
        return "parts"
    largest = LIMIT / max(64, sites) / max_examples
    for part, arrays in expected.items():
        got = update.delta[part]
        if set(got) != set(arrays):
            return "keys"
        for name, array in arrays.items():
            if got[name].shape != array.shape or got[name].dtype != array.dtype:
                return "shape"
            size = magnitude(got[name])  # NaN where one number is
            if not math.isfinite(size):
                return "not_finite"
            if size > largest:
                return "too_large"
    return None


def mark_of(delta: Groups) -> str:
    """Return the hash that a replayed update is known by: parts, names, shapes and numbers."""
    total = hashlib.sha256()
    for part in sorted(delta):
        total.update(f"{part}|{fingerprint(delta[part])}|".encode())
    return total.hexdigest()[:MARK_DIGITS]


def used_marks(records: History, remembered: int) -> list[str]:
    """Return the hashes of the newest updates that a sum holds, at most `remembered`."""
    screened = [r["screening"] for r in records if "screening" in r]
    marks = [mark for s in screened for mark in s["sha256"].values()]
    return marks[-remembered:] if remembered else []


def outvoted(reasons: Iterable[str | None], asked: int) -> bool:
    """Return whether most of the sites that were asked broke the median bound.

    Then the bound is wrong and not the sites; a minority can never bring that about.

    Args:
        reasons: why sites were refused; None for one whose update was used.
        asked: how many sites were asked.
    """
    return 2 * list(reasons).count("norm") > asked


class Firewall:
    """Judges the updates of one round.

    What it decides follows from the finished rounds alone, never from the other updates of this
    round (but for copies of one another): so it is the same in every order of arrival.

    Args:
        asked: what the sites were asked.
        config: the run's screening.
        settings: the stage's; a norm is judged by the steps and the learning rate behind it.
        records: the finished rounds.
    """

    def __init__(
        self, asked: Asked, *, config: ScreeningConfig, settings: StageConfig, records: History
    ) -> None:
        self._asked, self._config, self._settings = asked, config, settings
        self._used = set(used_marks(records, config.remembered))
        self._passed: dict[str, tuple[dict[str, float], str]] = {}
        self._reasons: dict[str, str | None] = {}
        self._usual: dict[str, float] = {}
        rounds = judged_rounds(records, asked.stage)
        self._lifted = bool(rounds) and _was_outvoted(rounds[-1])
        own: dict[str, float] = {}
        if config.norm_factor > 0 and rounds and not self._lifted:
            own = norms_of(asked.expected, asked.learned)
            self._usual = self._medians(rounds[-config.norm_rounds :], own)
        self._floor = {key: config.norm_floor * norm for key, norm in own.items()}

    def _medians(self, rounds: History, own: Mapping[str, float]) -> dict[str, float]:
        """Return key -> median size, for what the median bound can judge."""
        sizes = usual_sizes(rounds, self._settings, own)
        return {
            key: statistics.median(seen)
            for key, seen in sizes.items()
            if len(seen) >= self._config.norm_after
        }

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that travel back in this round."""
        return tuple(self._asked.expected)

    @property
    def learned(self) -> Mapping[str, Collection[str]]:
        """Part -> names of the arrays that an optimizer moves."""
        return self._asked.learned

    def start_try(self) -> None:
        """Begin a try of the round: what the last one passed was thrown away with its sum."""
        if outvoted(self._reasons.values(), self._asked.sites):
            log.warning(
                "stage %s: most sites broke the norm bound, so it is lifted", self._asked.stage
            )
            self._lifted, self._usual = True, {}
        self._passed, self._reasons = {}, {}

    def judge(self, site: str, update: Update, *, max_examples: int) -> str | None:
        """Return why the update of `site` must not be used, or None: then it counts as used."""
        reason = self._reason(site, update, max_examples)
        self._reasons.setdefault(site, reason)
        return reason

    def _reason(self, site: str, update: Update, max_examples: int) -> str | None:
        asked = self._asked
        reason = misdirected(
            update, site=site, run=asked.run, stage=asked.stage, number=asked.round
        ) or self._unfit(update, max_examples)
        if reason is not None:
            return reason
        if site in self._passed:
            return "duplicate"
        norms = norms_of(update.delta, asked.learned)
        mark = mark_of(update.delta)
        # Zeros are the same every time (a learning rate of 0, a site that is done): no replay.
        if any(norms.values()) and mark in self._used | {m for _, m in self._passed.values()}:
            return "replay"
        if 0 < self._config.max_norm < max(norms.values(), default=0.0):
            return "max_norm"
        for key, norm in norms.items():
            studies = update.examples.get(part_of(key), update.num_examples)
            if norm > self.bound(key, studies):
                return "norm"
        self._passed[site] = (norms, mark)
        return None

    def _unfit(self, update: Update, max_examples: int) -> str | None:
        """Return why an update of the site that was asked cannot be added to a sum, or None."""
        asked = self._asked
        shares = asked.shares.get(update.site, {})
        if not counts_allowed(update, max_examples=max_examples, shares=shares):
            return "num_examples"
        expected = due_parts(update, asked)
        if expected is None:
            return "parts"
        return screen(update, expected=expected, max_examples=max_examples, sites=asked.sites)

    def bound(self, key: str, num_examples: int) -> float:
        """Return the largest norm that the median bound lets through; infinite while it is silent.

        Args:
            key: of `norms_of`: a model part, or its statistics.
            num_examples: training studies behind it; more steps go further.
        """
        usual = self._usual.get(key, 0.0)
        if usual <= 0:
            return math.inf
        far = travel(key, num_examples, settings=self._settings, number=self._asked.round)
        return max(self._config.norm_factor * usual * far, self._floor.get(key, 0.0))

    def record(self, accepted: Iterable[str]) -> dict[str, Any]:
        """Return what the round's record keeps of the updates that were used."""
        used = {site: self._passed[site] for site in sorted(accepted)}
        return {
            "lifted": self._lifted,
            "norms": {site: norms for site, (norms, _) in used.items()},
            "sha256": {site: mark for site, (_, mark) in used.items()},
        }


def _was_outvoted(record: Mapping[str, Any]) -> bool:
    refused = record["refused"]
    return outvoted(refused.values(), len(refused) + len(record["accepted"]))
