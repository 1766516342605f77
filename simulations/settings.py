"""SimulationConfig: which hospitals, which engine, where to write."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cardionets_core.config_tree import build
from cardionets_core.errors import ConfigError
from cardionets_core.run_config import CONF as RUN_CONF
from cardionets_core.run_config import RunConfig, compose, run_config_from

if TYPE_CHECKING:
    from collections.abc import Sequence

CONF = "simulations.conf"
SHARED_DATA_ENV = "CARDIONETS_SHARED_DATA"


@dataclass(frozen=True)
class SimulatedSite:
    """One hospital of a scenario.

    Attributes:
        config: its YAML file.
        cohort: preset of virtual patients to write for it; empty: the YAML names its own data.
        patients: how many.
        ecg_only: write no cines.
        cmr_only: write no ECGs.
        ptbxl: real records of PTB-XL; left out where they are not on the machine.
    """

    config: str
    cohort: str = ""
    patients: int = 0
    ecg_only: bool = False
    cmr_only: bool = False
    ptbxl: bool = False

    def __post_init__(self) -> None:
        """Refuse a cohort without patients, or without records."""
        if self.cohort and self.patients < 1:
            raise ValueError(f"patients is {self.patients}; a virtual hospital needs at least 1")
        if self.ecg_only and self.cmr_only:
            raise ValueError("ecg_only and cmr_only leave no records at all; choose one of them")


@dataclass(frozen=True)
class SimulationConfig:
    """A federation on one machine; simulations/conf/simulate.yaml explains each key."""

    sites: tuple[SimulatedSite, ...]
    engine: Literal["processes", "inprocess", "ray"] = "processes"
    output: str = "outputs"
    resume: str = ""
    port: int = 0
    ptbxl: str = "auto"
    workers: int = 0
    cohort_seed: int = 1
    ledger_epsilon: float = 0.0
    run: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        """Refuse an empty federation."""
        if not self.sites:
            raise ValueError("sites is empty; name at least one site file")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}; ports go from 1 to 65535, 0 takes a free one")
        if not 0 <= self.ledger_epsilon < math.inf:
            raise ValueError(f"ledger_epsilon is {self.ledger_epsilon}; 0 makes no ledgers")

    @property
    def ptbxl_folder(self) -> Path | None:
        """Folder of the PTB-XL records, or None where they are absent or left out."""
        if self.ptbxl == "none":
            return None
        if self.ptbxl != "auto":
            if not (Path(self.ptbxl) / "ptbxl_database.csv").is_file():
                raise ConfigError(
                    f"ptbxl={self.ptbxl} holds no ptbxl_database.csv; name the folder of PTB-XL, "
                    "or ptbxl=none to leave it out."
                )
            return Path(self.ptbxl)
        shared = Path(os.environ.get(SHARED_DATA_ENV, "../shared/data"))
        folder = shared / "ptbxl"
        return folder if (folder / "ptbxl_database.csv").is_file() else None


def compose_simulation(overrides: Sequence[str]) -> tuple[SimulationConfig, list[str]]:
    """Compose the simulation and return it with the overrides that belong to the run.

    Raises:
        ConfigError: a word that is no override, or a key that does not exist.
    """
    ours, rest = _split(overrides)
    values = compose("simulate", ours, package=CONF)
    return build(SimulationConfig, values, "simulation"), rest


def compose_run(
    simulation: SimulationConfig, overrides: Sequence[str], *, name: str, sites: int
) -> RunConfig:
    """Compose the run's plan: scenario first, then the command line."""
    virtual = str(any(site.cohort for site in simulation.sites)).lower()
    chosen = [*simulation.run, f"min_sites={sites}", f"virtual={virtual}"]
    if simulation.ledger_epsilon > 0:
        chosen.append("privacy.earlier_runs=false")  # simulations/ledgers.py makes new ledgers
    chosen += overrides
    values = compose("run", chosen, package=RUN_CONF)
    values["name"] = values["name"] or name
    return run_config_from(values)


def run_name(overrides: Sequence[str]) -> str:
    """Return the name that the command line gives the run, or an empty string."""
    return next((o.partition("=")[2] for o in overrides if o.startswith("name=")), "")


def _split(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    keys = {f.name for f in fields(SimulationConfig)} | {"scenario"}
    ours: list[str] = []
    rest: list[str] = []
    for word in overrides:
        key = word.partition("=")[0]
        (ours if key.lstrip("+~").split(".")[0] in keys else rest).append(word)
    return ours, rest
