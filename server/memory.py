"""Which memory each site goes on from: that of its last update that the server used.

It follows from the history, which is saved with the weights; so a restarted server names what the
one before it would have named (client/memory.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cardionets_core.training.stages import STAGES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cardionets_core.run_config import RunConfig


def remembers(config: RunConfig) -> bool:
    """Return whether the sites of a run remember anything from round to round."""
    asks = config.wire.codec != "float32" or config.strategy.name == "scaffold"
    return bool(config.local_parts) or asks


def generations(config: RunConfig, history: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return site -> `STAGE/ROUND` of its last used update; empty where nothing is remembered."""
    if not remembers(config):
        return {}
    return {
        site: f"{record['stage']}/{record['round']}"
        for record in history
        if record["stage"] in STAGES
        for site in record["accepted"]
    }
