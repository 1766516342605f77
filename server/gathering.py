"""One round of training: the sites are asked, and their updates folded, until there is a quorum."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cardionets_core.codec import decode
from cardionets_core.faults import fault_point
from cardionets_core.messages import TaskHeader, TrainPlan, Update
from cardionets_core.privacy.central import clipped_update
from server.exchange import Run, send_round
from server.owners import owners_of, part_examples, short_parts, with_quorum
from server.partial import counted, per_step, step_mean, usable_steps
from server.privacy import keeps_to
from server.refusals import in_words, too_few
from server.strategies.combine import Combiner, combining
from server.strategies.scaffold import CONTROL, control_groups, steps_fit, with_moves

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from cardionets_core.errors import IncompleteError
    from cardionets_core.packing import Groups
    from cardionets_core.run_config import RunConfig, StageConfig
    from server.rounds import RoundResult
    from server.screening import Firewall
    from server.state import RunState

TRIES = 2
"""How often a round is tried before too few replies end the run."""

SPOOL = "spool"
"""Folder in the run's folder where robust rules keep the updates of a round."""

NOTICE_S = 60.0
"""What Flower takes to notice a node or a process that is gone; the site then works once more."""

MEASURED_ROUNDS = 5
"""Rounds of the stage that a deadline looks back on."""

OVERRUN = ("late", "budget")
"""Codes of a site that had not done its work at the deadline: it said nothing, or that."""

log = logging.getLogger("cardionets.server")


@dataclass(frozen=True)
class Gathered:
    """What a round brought, when there was a quorum.

    Attributes:
        result: who answered, and how.
        updates: site -> its update without arrays; `examples` holds the weight of each part.
        delta: the combined update.
        chosen: sites that the strategy kept, where it keeps some and drops others.
        tries: how often the sites were asked.
        deadline_s: what the sites were given in the last of them.
        secure: of a secure sum, what the record keeps of how it came about.
    """

    result: RoundResult
    updates: dict[str, Update]
    delta: Groups
    chosen: list[str]
    tries: int
    deadline_s: float
    secure: dict[str, Any] = field(default_factory=dict)


def gather(
    run: Run,
    state: RunState,
    head: TaskHeader,
    heads: Mapping[str, TaskHeader],
    firewall: Firewall,
) -> Gathered:
    """Ask the sites until enough of them answered, for every part.

    Args:
        head: of the whole round; a site's own, in `heads`, asks for the parts that it can train.

    Raises:
        IncompleteError: too few did, TRIES times.
    """
    settings = with_quorum(run.config, head.stage, state.sites)
    control = state.moments.get(CONTROL, {})
    for attempt in range(1, TRIES + 1):
        updates: dict[str, Update] = {}
        firewall.start_try()
        deadline_s = deadline_of(settings, head.stage, state.history, attempt=attempt)
        if head.privacy is not None:
            # Nothing is learned from times, and an update that comes late was charged for in vain.
            deadline_s = settings.deadline_s
        with combining(run.config.strategy, run.folder / SPOOL) as combiner:
            gate = _Gate(settings, state, head, firewall, combiner=combiner, updates=updates)
            gate.clip = run.config.central_privacy.clip if run.config.central_privacy.is_on else 0.0
            enough = quorum(run.config, settings, firewall.parts, updates)
            extra = control_groups(control)
            result = send_round(
                run,
                state,
                heads,
                gate.accept,
                settings.deadline_s,
                extra,
                enough=enough,
                first_s=deadline_s,
            )
            if enough(result.accepted):
                delta = gate.combined()
                return Gathered(result, updates, delta, combiner.chosen(), attempt, deadline_s)
        log.warning(
            "stage %s round %d: try %d had too few replies", head.stage, head.round, attempt
        )
        if result.longer:
            break  # the sites were asked twice within it
    raise _too_few(run.config, settings, head, result, owners_of(firewall.parts, _shares(updates)))


def deadline_of(
    settings: StageConfig, stage: str, history: Sequence[Mapping[str, Any]], *, attempt: int
) -> float:
    """Return the seconds that a try of a round may take.

    NOTICE_S, and `patience` times what the slowest site took whose update was used in the last
    rounds of the stage, training before a restart included; a site that was late took no less than
    it was given. The first round of a stage, and the second try of any, `deadline_s`.
    """
    rounds = [record for record in history if record["stage"] == stage][-MEASURED_ROUNDS:]
    taken = [float(s) for record in rounds for s in record.get("seconds_by_site", {}).values()]
    if attempt > 1 or settings.patience <= 0 or not taken:
        return settings.deadline_s
    slowest = max([*taken, *_overrun(rounds, settings.deadline_s)])
    return min(settings.deadline_s, NOTICE_S + settings.patience * slowest)


def _overrun(rounds: Sequence[Mapping[str, Any]], planned_s: float) -> list[float]:
    """Return the deadlines that were too short for a site.

    Learned from the others alone, the deadline would shut a slow site out for good. One that was
    late although it had all that the plan gives is hung, rather than slow: it is not waited for so
    long in every round.
    """
    late = [
        (site, float(record["deadline_s"]))
        for record in rounds
        for site, code in record.get("refused", {}).items()
        if code in OVERRUN and "deadline_s" in record
    ]
    hung = {site for site, given_s in late if given_s >= planned_s}
    return [given_s for site, given_s in late if site not in hung]


def quorum(
    config: RunConfig, settings: StageConfig, parts: Iterable[str], updates: Mapping[str, Update]
) -> Callable[[Sequence[str]], bool]:
    """Return what says whether the updates of some sites are enough, for every part.

    Args:
        config: the run's plan.
        settings: of the stage.
        parts: that travel back.
        updates: those used so far; the function returned looks at what is in it then.
    """
    needed, parts = sites_needed(config, settings), tuple(parts)

    def enough(sites: Sequence[str]) -> bool:
        owners = owners_of(parts, {site: updates[site].examples for site in sites})
        return len(sites) >= needed and not short_parts(config, settings, owners)

    return enough


def _shares(updates: Mapping[str, Update]) -> dict[str, dict[str, int]]:
    return {site: update.examples for site, update in updates.items()}


def sites_needed(config: RunConfig, settings: StageConfig) -> int:
    """Return how many sites must give a usable update, whatever its parts."""
    return max(1, settings.min_sites, config.strategy.sites_needed()[0])


def _too_few(
    config: RunConfig,
    settings: StageConfig,
    head: TaskHeader,
    result: RoundResult,
    owners: Mapping[str, Iterable[str]],
) -> IncompleteError:
    short = short_parts(config, settings, owners)
    parts = "".join(f" {part} came back from {few} sites needed." for part, few in short.items())
    came, needed = len(result.accepted), sites_needed(config, settings)
    return too_few(
        f"stage {head.stage}, round {head.round}: {came} of {needed} sites needed gave a usable "
        f"update (refused: {in_words(result.refused)}).{parts}",
        result.refused,
        private=config.privacy.is_on,
        lacking=needed - came,
    )


class _Gate:
    """Takes updates into the sum of one try, or says why one must stay out."""

    def __init__(
        self,
        settings: StageConfig,
        state: RunState,
        head: TaskHeader,
        firewall: Firewall,
        *,
        combiner: Combiner,
        updates: dict[str, Update],
    ) -> None:
        assert head.train is not None
        self._plan: TrainPlan = head.train
        self._private = head.privacy
        self._nova = settings.partial == "fednova"
        self._sites, self._firewall = state.sites, firewall
        self._control = state.moments.get(CONTROL, {})
        self._combiner, self._updates = combiner, updates
        self.clip = 0.0  # above 0: client-level privacy, every site's update counts alike

    def accept(self, site: str, update: Update) -> str | None:
        """Fold an update in and return None, or return why it must not be used."""
        # Raises WireError, which the round turns into `unreadable`.
        update = replace(update, delta=decode(update.delta, self._plan.codec))
        if not keeps_to(update, self._private, self._sites[site]):
            return "privacy"
        if not self._counts_steps(update):
            return "steps"
        most = self._sites[site].counts.get("train_studies", 0)
        reason = self._firewall.judge(site, update, max_examples=most)
        if reason is not None:
            return reason
        delta, studies = update.delta, part_examples(update)
        if self._nova:
            delta = per_step(delta, update.steps, self._firewall.learned)
        else:
            studies = counted(studies, update)
        weights = studies
        if self.clip:
            delta, weights = clipped_update(delta, self.clip), dict.fromkeys(delta, 1)
        if self._control:
            delta, weights = with_moves(delta, studies, steps=update.steps, learned=self._control)
        self._combiner.fold(site, delta, weights)
        self._updates[site] = replace(update, delta={}, examples=studies)
        fault_point("mid_aggregation")
        return None

    def _counts_steps(self, update: Update) -> bool:
        if self._control and not steps_fit(update, self._plan, partial=self._plan.partial):
            return False
        return usable_steps(update, needed=self._nova)

    def combined(self) -> Groups:
        """Return the update of the round."""
        delta = self._combiner.combined()
        if self._nova:
            step_mean(delta, self._updates, self._firewall.learned)
        return delta
