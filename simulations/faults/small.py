"""The federation that faults are tried on: small virtual hospitals and a very small model.

A round of it takes seconds, so that hundreds of faults take minutes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cardionets_core.cohort.write import write_site
from cardionets_core.run_config import CONF, RunConfig, compose, run_config_from
from cardionets_core.site_config import write_yaml

if TYPE_CHECKING:
    from collections.abc import Sequence

NANO = (
    # `tiny` made smaller still: every part and every stage, at a tenth of the time.
    "model.cine.size_px=32",
    "model.cine.pixel_mm=5.0",
    "model.cine.phases=4",
    "model.ecg_encoder.width=48",
    "model.ecg_encoder.depth=2",
    "model.ecg_decoder.width=32",
    "model.cmr_encoder.width=48",
    "model.cmr_encoder.depth=2",
    "model.cmr_decoder.width=32",
    "model.alignment.width=32",
    "model.tokenizer.widths=[16,32]",
    "model.generator.patch=[2,2,2]",
    "model.generator.width=48",
    "model.generator.encoder_depth=1",
    "model.generator.decoder_depth=1",
    "model.generator.head_width=48",
    "model.generator.noise_draws=2",
)
NAMES = ("north", "river", "hill", "coast", "valley", "marsh", "ridge", "shore")


def write_hospital(
    folder: Path,
    name: str,
    preset: str,
    *,
    patients: int,
    ecg_only: bool = False,
    cmr_only: bool = False,
) -> Path:
    """Write a virtual hospital and its YAML; return the YAML."""
    seed = sum(map(ord, name))
    write_site(
        preset,
        patients=patients,
        seed=seed,
        out=folder / name / "data",
        ecg_only=ecg_only,
        cmr_only=cmr_only,
    )
    data = {
        "root": str(folder / name / "data"),
        "manifest": str(folder / name / "data" / "manifest.csv"),
        "cache": str(folder / name / "cache"),
        "salt": f"salt-of-{name}",
    }
    path = folder / f"{name}.yaml"
    write_yaml(path, {"site": name, "title": f"Hospital {name}", "device": "cpu", "data": data})
    return path


def ecg_hospitals(folder: Path, count: int, *, patients: int = 24) -> dict[str, Path]:
    """Write `count` virtual hospitals with ECGs only; return site name -> YAML."""
    return {
        name: write_hospital(folder, name, "ABC"[i % 3], patients=patients, ecg_only=True)
        for i, name in enumerate(NAMES[:count])
    }


def plan(name: str, overrides: Sequence[str], *, sites: int) -> RunConfig:
    """Compose a run's plan as the commands do."""
    words = [f"name={name}", f"min_sites={sites}", *overrides]
    return run_config_from(compose("run", words, package=CONF))
