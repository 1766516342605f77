"""Which memory each site goes on from: that of its last update that the server used.

It follows from the history, which is saved with the weights; so a restarted server names what the
one before it would have named (client/memory.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cardionets_core.messages import OR_NOTHING
from cardionets_core.training.stages import STAGES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cardionets_core.run_config import RunConfig


def remembers(config: RunConfig) -> bool:
    """Return whether the sites of a run remember anything from round to round."""
    asks = config.wire.codec != "float32" or config.strategy.name == "scaffold"
    return bool(config.local_parts) or asks


def generations(config: RunConfig, history: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return site -> `STAGE/ROUND` of its used updates, oldest first; nothing is remembered: {}."""
    found: dict[str, list[str]] = {}
    for record in history if remembers(config) else ():
        for site in record["accepted"] if record["stage"] in STAGES else ():
            found.setdefault(site, []).append(f"{record['stage']}/{record['round']}")
    return found


def named(used: Sequence[str], *, lost: bool) -> str:
    """Return the memory that a site's task names.

    Args:
        used: the generations of its used updates, oldest first.
        lost: whether it has told that the newest is not whole; then it is asked for the one before,
            as far as that is still of use, or nothing.
    """
    if not lost:
        return used[-1] if used else ""
    return used[-2] + OR_NOTHING if len(used) > 1 else ""
