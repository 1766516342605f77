"""summary.json: what a run says of itself (keys: docs/summary.md)."""

from __future__ import annotations

import json
import os
import platform
from typing import TYPE_CHECKING, Any

from cardionets_core.checkpoint import read_info
from cardionets_core.config_tree import digest, to_mapping
from cardionets_core.errors import CheckpointError
from cardionets_core.runtime import versions
from server.model_card import model_card
from server.privacy import spent_by_site
from server.quotes import schedule_of, warnings_of
from server.start import start_of

if TYPE_CHECKING:
    from pathlib import Path

    from cardionets_core.run_config import RunConfig
    from server.state import RunState
    from server.status_file import Status

SCHEMA = 1


def write_summary(
    folder: Path, config: RunConfig, state: RunState, *, final: Status, seconds: float
) -> None:
    """Write `summary.json` into the run's folder, and of a complete run also `model_card.md`."""
    summary = summarise_run(folder, config, state, final=final, seconds=seconds)
    temporary = folder / ".summary.json.tmp"
    temporary.write_text(json.dumps(summary, indent=1, allow_nan=False))
    temporary.replace(folder / "summary.json")
    if final.state == "COMPLETED":
        (folder / "model_card.md").write_text(model_card(config, state, summary))


def summarise_run(
    folder: Path, config: RunConfig, state: RunState, *, final: Status, seconds: float
) -> dict[str, Any]:
    """Return the summary as JSON values."""
    return {
        "schema": SCHEMA,
        "run": config.name,
        "status": final.state,
        "code": final.code,
        "reason": final.reason,
        "missing": list(final.sites),
        "seed": config.seed,
        "config_hash": digest(config),
        "weights_sha256": _weights(folder),
        "preset": config.model.preset,
        "virtual": config.virtual,
        "versions": versions(),
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
        "seconds": round(seconds, 1),
        "strategy": {"name": config.strategy.name, "options": config.strategy.numbers()},
        "start": start_of(config),
        "privacy": _privacy(config, state),
        "stages": [_stage(name, state) for name in config.stages],
        "sites": {name: _site(name, state) for name in sorted(state.sites)},
        "rounds": list(state.history),
        "metrics": state.metrics,
    }


def _privacy(config: RunConfig, state: RunState) -> dict[str, Any]:
    """Return the plan's section, what its schedule costs, and what each ledger said last."""
    told: dict[str, Any] = {"sites": spent_by_site(config, state)}
    if config.privacy.is_on:
        told["schedule"] = schedule_of(config)
        told["warnings"] = warnings_of(config, state.sites.values())
    return to_mapping(config.privacy) | told


def _weights(folder: Path) -> str | None:
    """Return the SHA-256 of the saved weights; None where there are none that can be used."""
    try:
        return read_info(folder / "checkpoint").sha256
    except CheckpointError:
        return None


def _stage(name: str, state: RunState) -> dict[str, Any]:
    rounds = [r for r in state.history if r["stage"] == name]
    return {
        "name": name,
        "rounds": len(rounds),
        "seconds": round(sum(r["seconds"] for r in rounds), 1),
        "sites": sorted({s for r in rounds for s in r["accepted"]}),
        "bytes_down": sum(sum(r["bytes_down"].values()) for r in rounds),
        "bytes_up": sum(sum(r["bytes_up"].values()) for r in rounds),
    }


def _site(name: str, state: RunState) -> dict[str, Any]:
    record = state.sites[name]
    return {
        "modalities": list(record.modalities),
        "counts": record.counts,
        "versions": record.versions,
        "bytes_down": sum(r["bytes_down"].get(name, 0) for r in state.history),
        "bytes_up": sum(r["bytes_up"].get(name, 0) for r in state.history),
    }
