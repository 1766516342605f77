"""Whether a run had the sites that its plan asks for, in every round that it used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cardionets_core.errors import IncompleteError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cardionets_core.run_config import RunConfig


def require_participation(
    config: RunConfig, history: Sequence[dict[str, Any]], sites: Iterable[str]
) -> None:
    """Check a run that has come to its end.

    Args:
        config: the plan.
        history: the records of its rounds.
        sites: names of the sites that answered a handshake.

    Raises:
        IncompleteError: a round was closed with fewer sites than the plan asks for.
    """
    known = set(sites)
    for record in history:
        stage = record["stage"]
        needed = _needed(config, record)
        there = set(record["accepted"])
        if len(there) < needed:
            missing = known - there
            raise IncompleteError(
                f"stage {stage}, round {record['round']} had {len(there)} of the {needed} sites "
                f"that the plan asks for; missing: {', '.join(sorted(missing)) or 'unknown'}. "
                "Look into their logs, then start a new run.",
                missing,
                resume_helps=False,  # the round is done, and would not be played again
            )


def _needed(config: RunConfig, record: Mapping[str, Any]) -> int:
    """Return how many sites a round had to have; a stage's own number, or what it was then."""
    if record["stage"] not in config.stage:
        return config.min_sites
    then = int(record.get("sites_needed", 0))  # not in records of runs that are older than it
    return max(1, config.stage[record["stage"]].min_sites, then)
