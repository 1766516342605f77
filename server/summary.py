"""summary.json and the model card: what a run says of itself (keys: docs/summary.md)."""

from __future__ import annotations

import json
import os
import platform
from typing import TYPE_CHECKING, Any

from cardionets_core.checkpoint import read_info
from cardionets_core.config_tree import digest, to_mapping
from cardionets_core.errors import CheckpointError
from cardionets_core.runtime import versions
from cardionets_core.vocabulary import PHENOTYPE_BY_NAME
from server.privacy import card_lines, spent_by_site
from server.quotes import schedule_of, warnings_of
from server.start import start_of

if TYPE_CHECKING:
    from collections.abc import Mapping
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


def model_card(config: RunConfig, state: RunState, summary: dict[str, Any]) -> str:
    """Return a model card in Markdown: what it is, from whom it learned, what it is for."""
    ecg, cine = config.model.ecg, config.model.cine
    names = ", ".join(PHENOTYPE_BY_NAME[p].title for p in config.phenotypes[:6])
    sites = "\n".join(
        f"| {n} | {', '.join(s.modalities)} | {s.counts.get('patients', 0)} |"
        for n, s in sorted(state.sites.items())
    )
    return f"""# Model card: {config.name}

CardioNets, preset `{config.model.preset}`: a 12-lead ECG in; out come {len(config.phenotypes)} CMR
phenotypes ({names} ...), {len(config.diseases)} disease probabilities
and a synthetic four-chamber cine.

**Research use only; not a medical device.** Trained by federated learning (strategy
`{config.strategy.name}`); no record left a site.

| site | modalities | patients |
|---|---|---|
{sites}

- ECG: 12 leads, {ecg.sampling_rate_hz} Hz, {ecg.record_seconds:g} s, zero-phase Butterworth
  order {ecg.filter_order}, {ecg.highpass_hz:g}-{ecg.lowpass_hz:g} Hz.
- Cine: {cine.size_px} px of {cine.pixel_mm:g} mm, {cine.phases} phases.
- Stages: {", ".join(config.stages)}. Seed {config.seed}. Config SHA-256 `{summary["config_hash"]}`.
- Weights SHA-256 `{summary["weights_sha256"]}`.
- {start_line(config)}
{card_lines(config, summary["privacy"]["sites"])}
{memorisation_line(summary["metrics"], private=config.privacy.is_on)}
- Held-out results with 95 % intervals: `summary.json`, key `metrics`.
- Versions: {", ".join(f"{k} {v}" for k, v in summary["versions"].items())}.
"""


def start_line(config: RunConfig) -> str:
    """Return the model card's line on the weights that the run began with."""
    start = config.start
    if not start.is_on:
        return "Began with random weights."
    virtual = ", of a run on virtual hearts in part" if start.virtual else ""
    return (
        f"Began with {', '.join(start.parts)} of the weights with SHA-256\n  `{start.sha256}`"
        f"{virtual}. What is said of privacy here does not cover who trained those."
    )


def memorisation_line(metrics: Mapping[str, Any], *, private: bool = False) -> str:
    """Return the model card's line on how near generated cines come to training cines.

    Args:
        metrics: held-out results (docs/summary.md); empty without the stage `evaluate`.
        private: the run was differentially private, and so looked at no generated cine.
    """
    memory = metrics.get("pooled", {}).get("generation", {}).get("memory", {})
    ratio = memory.get("ratio") or {}
    if ratio.get("value") is None and private:
        return (
            "- Memorisation of training cines by the generator: not measured, since distances to "
            "patients' own cines\n  have no useful bound per patient and would be one more "
            "release. What limits it is epsilon, above.\n  `make privacy`, section attacks, counts "
            "copies of a small generator with and without privacy; to judge\n  this plan, run it "
            "on public or virtual patients (docs/privacy.md, Audit)."
        )
    if ratio.get("value") is None:
        return "- Memorisation of training cines by the generator: not measured."
    low, high = ratio.get("low"), ratio.get("high")
    interval = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
    return (
        f"- Memorisation: generated cines lie {ratio['value']:.2f}{interval} times as far from the "
        "nearest training cine\n  of their site as real held-out cines do; far below 1 is copying."
    )
