"""The folder of a small run: real files, model and evaluation; only training is left out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cardionets_core.cohort.sites import Missing
from cardionets_core.cohort.write import write_site
from cardionets_core.data.dataset import Scaler
from cardionets_core.evaluation.evaluate import (
    fit_sums,
    merge,
    score_sums,
    solve_probes,
    summarise,
)
from cardionets_core.evaluation.options import EvaluationOptions
from cardionets_core.model_config import (
    CineSpec,
    CmrEncoderConfig,
    EcgEncoderConfig,
    GeneratorConfig,
    ModelConfig,
    TokenizerConfig,
)
from cardionets_core.models.cardionet import build_model
from cardionets_core.run_config import RunConfig, StageConfig
from cardionets_core.site_config import site_config_from
from client.site import open_dataset
from server.server_app import write_config
from server.state import RunState, SiteRecord, fresh_state, save_state
from server.status_file import Status
from server.summary import write_summary
from simulations.hospitals import Hospital

STAGES = ("ecg_masked", "contrastive", "generative", "phenotypes", "diseases")
DISEASES = ("hypertrophic_cardiomyopathy", "myocardial_infarction", "hypertrophy")
SMALL = ModelConfig(
    preset="small-for-tests",
    cine=CineSpec(size_px=16, phases=4, pixel_mm=10.0),
    ecg_encoder=EcgEncoderConfig(width=24, depth=1, heads=2),
    cmr_encoder=CmrEncoderConfig(patch_px=4, width=24, depth=1, heads=2),
    tokenizer=TokenizerConfig(channels=4, stem=(1, 2, 2), widths=(8, 16), groups=4),
    generator=GeneratorConfig(patch=(2, 2, 2), width=24, heads=2, ar_steps=2, head_steps=2),
)


@dataclass(frozen=True)
class Made:
    """A run folder with its hospitals."""

    folder: Path
    config: RunConfig
    hospitals: list[Hospital]


def _hospital(place: Path, name: str, preset: str, *, patients: int, ecg_only: bool) -> Hospital:
    missing = Missing(0.0, 0.0, 0.0, 0.0, 0.0)
    root = place / name
    write_site(preset, patients=patients, seed=7, out=root, ecg_only=ecg_only, missing=missing)
    values = {
        "site": name,
        "title": f"{name.title()} & Sons (virtual)",
        "data": {
            "root": str(root),
            "manifest": str(root / "manifest.csv"),
            "cache": str(place / f"{name}-cache"),
            "salt": f"salt-of-{name}",
        },
        "policy": {"min_patients": 1},
    }
    return Hospital(site_config_from(values), values)


def _record(stage: str, number: int, sites: list[str]) -> dict[str, Any]:
    own = {s: {"train_loss": 1.0 / number + i, "validation_loss": 1.2 / number + i}
           for i, s in enumerate(sites)}  # fmt: skip
    means = {k: float(np.mean([m[k] for m in own.values()])) for k in own[sites[0]]}
    return {
        "stage": stage,
        "round": number,
        "rounds": 2,
        "seconds": 1.5,
        "accepted": sites,
        "refused": {"hill": "refused_cohort"} if stage == "generative" else {},
        "bytes_down": dict.fromkeys(sites, 2_000_000),
        "bytes_up": dict.fromkeys(sites, 1_000_000),
        "num_examples": dict.fromkeys(sites, 20),
        "metrics": means,
        "site_metrics": own,
    }


def _history() -> list[dict[str, Any]]:
    """Return the records of a run of two rounds a stage; `hill` has no pairs."""
    bare: dict[str, Any] = {"metrics": {}, "site_metrics": {}}
    both, paired = ["hill", "north"], {"contrastive", "generative"}
    trained = [_record(s, n, ["north"] if s in paired else both) for s in STAGES for n in (1, 2)]
    return [
        _record("handshake", 1, both) | bare,
        *trained,
        _record("evaluate", 1, both) | bare,
    ]


def _opened(config: RunConfig, hospitals: list[Hospital], scaler: Scaler | None) -> dict[str, Any]:
    """Return site -> its dataset."""
    return {
        h.config.site: open_dataset(
            h.config,
            config.sized_model(),
            phenotypes=config.phenotypes,
            diseases=config.diseases,
            scaler=scaler,
        )
        for h in hospitals
    }


def _ended(config: RunConfig, hospitals: list[Hospital]) -> RunState:
    """Return the state after the last stage, as it would be if no round had changed the model."""
    options = config.evaluation
    model = build_model(config.sized_model(), seed=config.seed)
    datasets = _opened(config, hospitals, None)
    scaler = Scaler.from_statistics(merge(d.statistics() for d in datasets.values()))
    records = {
        n: SiteRecord(tuple(sorted(d.modalities)), d.counts(), {"cardionets": "0"})
        for n, d in datasets.items()
    }
    datasets = _opened(config, hospitals, scaler)
    probes = solve_probes(merge(fit_sums(model, d, options) for d in datasets.values()), options)
    sums = {n: score_sums(model, d, probes, options, seed=1) for n, d in datasets.items()}
    return replace(
        fresh_state(config),
        sites=records,
        scaler_mean=tuple(scaler.mean.tolist()),
        scaler_sd=tuple(scaler.sd.tolist()),
        residual_sd=(0.5,) * len(config.phenotypes),
        history=tuple(_history()),
        metrics=summarise(sums, merge(sums.values()), config.phenotypes, config.diseases),
        stage=len(config.stages),
    )


def evaluated_run(place: Path) -> Made:
    """Make two virtual hospitals and the folder of a complete run of them in `place`."""
    hospitals = [
        _hospital(place, "north", "B", patients=30, ecg_only=False),
        _hospital(place, "hill", "C", patients=24, ecg_only=True),
    ]
    config = RunConfig(
        name="fake",
        seed=3,
        model=SMALL,
        stages=("handshake", *STAGES, "evaluate"),
        stage={s: StageConfig(rounds=2) for s in STAGES},
        diseases=DISEASES,
        evaluation=EvaluationOptions(
            replicates=20, generated_patients=4, samples=2, feature_dim=4, minimum_patients=2
        ),
    )
    folder = place / "fake"
    write_config(folder, config)
    state = save_state(_ended(config, hospitals), config, folder / "checkpoint")
    write_summary(folder, config, state, final=Status("COMPLETED"), seconds=63.0)
    return Made(folder, config, hospitals)
