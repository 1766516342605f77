"""How long a round of the evaluation waits for its last sites: from how fast they were before.

Such a round comes once in a run, so nothing is known of it when it begins. Once others have
answered it can be said what a site may take: what they took, times how much slower it trained, and
how many more patients it scores. Wherever there is a choice the longer time is taken, because
a hospital that is left out is missing in the result, and a wait is only a wait.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from server.gathering import MEASURED_ROUNDS, NOTICE_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cardionets_core.run_config import RunConfig
    from server.rounds import Expected
    from server.state import RunState, SiteRecord

SHORTEST_S = 0.1
"""Rounds that were shorter are compared as if they had taken this long."""


def expectation(config: RunConfig, state: RunState) -> Expected:
    """Return what says until when a round waits for its last sites, once it has a quorum.

    NOTICE_S, and the largest `patience` of the plan times what the slowest of them is expected to
    take; without end where there is no patience, or nobody whose work can be compared.
    """
    planned = [config.stage[n].patience for n in config.stages if n in config.stage]
    patience = max(planned, default=0.0)
    sites, history = state.sites, state.history

    def last_s(taken: Mapping[str, float], pending: Sequence[str]) -> float:
        if patience <= 0 or not pending:
            return math.inf
        return NOTICE_S + patience * max(longest_s(p, taken) for p in pending)

    def longest_s(site: str, taken: Mapping[str, float]) -> float:
        compared = [
            seconds
            * max(1.0, slowness(history, site, other))
            * max(1.0, more_work(sites[site], sites[other]))
            for other, seconds in taken.items()
            # One that has no pairs generates nothing, and says nothing of one that does.
            if set(sites[site].modalities) <= set(sites[other].modalities)
        ]
        return max(compared, default=math.inf)

    return last_s


def slowness(history: Sequence[Mapping[str, Any]], site: str, other: str) -> float:
    """Return how many times as long as another one a site took, in the last rounds that used both.

    Infinite where there was none.
    """
    rounds = [r.get("seconds_by_site", {}) for r in history if r["stage"] != "handshake"]
    both = [taken for taken in rounds if {site, other} <= taken.keys()]
    ratios = [taken[site] / max(taken[other], SHORTEST_S) for taken in both[-MEASURED_ROUNDS:]]
    return max(ratios, default=math.inf)


def more_work(site: SiteRecord, other: SiteRecord) -> float:
    """Return how many times as many held-out studies a site has, of the kind where it is most."""
    counts = {k: n for k, n in site.counts.items() if k.startswith(("validation_", "test_"))}
    return max((n / max(1, other.counts.get(k, 0)) for k, n in counts.items()), default=1.0)
