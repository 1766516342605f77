"""Virtual hospitals, written once per session, and a way to run a federation over them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cardionets_core.cohort.write import write_site
from cardionets_core.config_tree import digest
from cardionets_core.run_config import CONF, RunConfig, compose, run_config_from
from cardionets_core.site_config import write_yaml
from client.client_app import app as client_app
from server.server_app import app as server_app
from server.server_app import load_config, write_config
from simulations.grid import run_in_process

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
STAGES = ("ecg_masked", "tokenizer", "contrastive", "generative", "phenotypes", "diseases")
BRIEF = (
    *(f"stage.{name}.rounds=1" for name in STAGES),
    *(f"stage.{name}.local_epochs=1" for name in STAGES),
    "evaluation.replicates=20",
    "evaluation.generated_patients=4",
    "evaluation.samples=2",
)
"""Every stage once: enough for anything but learning."""

Federate = Callable[..., Path]


def pytest_configure(config: pytest.Config) -> None:
    """Let MLflow do what SQLAlchemy 2.1 deprecates; nothing of ours."""
    config.addinivalue_line("filterwarnings", "ignore:The ``noload`` loader strategy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest files: the other core would wait for them at the end."""
    items.sort(key=lambda item: item.path.parent.name != "simulations")


def write_hospital(folder: Path, name: str, preset: str, *, patients: int, **how: bool) -> Path:
    """Write a virtual hospital and its YAML; return the YAML."""
    seed = sum(map(ord, name))
    write_site(preset, patients=patients, seed=seed, out=folder / name / "data", **how)
    data = {
        "root": str(folder / name / "data"),
        "manifest": str(folder / name / "data" / "manifest.csv"),
        "cache": str(folder / name / "cache"),
        "salt": f"salt-of-{name}",
    }
    path = folder / f"{name}.yaml"
    write_yaml(path, {"site": name, "title": f"Hospital {name}", "device": "cpu", "data": data})
    return path


def plan(name: str, overrides: Sequence[str], *, sites: int) -> RunConfig:
    """Compose a run's plan as the commands do."""
    words = [f"name={name}", f"min_sites={sites}", *overrides]
    return run_config_from(compose("run", words, package=CONF))


def patient_ids(site_file: Path) -> list[str]:
    """Return the patient ids of a site's manifest."""
    with (site_file.parent / site_file.stem / "data" / "manifest.csv").open() as file:
        return [row["patient_id"] for row in csv.DictReader(file)]


@pytest.fixture(scope="session")
def nano() -> tuple[str, ...]:
    """Overrides for a model of a few thousand weights and one short round per stage."""
    return (*NANO, *BRIEF)


@pytest.fixture(scope="session", name="write_hospital")
def write_hospital_fixture() -> Callable[..., Path]:
    """Return (folder, name, preset, patients=...) -> the YAML of a new virtual hospital."""
    return write_hospital


@pytest.fixture(scope="session", name="patient_ids")
def patient_ids_fixture() -> Callable[[Path], list[str]]:
    """Return (site YAML) -> its patients' ids."""
    return patient_ids


@pytest.fixture(scope="session")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Site name -> YAML of three small hospitals: two with pairs, one with ECGs only."""
    folder = tmp_path_factory.mktemp("hospitals")
    return {
        "north": write_hospital(folder, "north", "A", patients=40),
        "river": write_hospital(folder, "river", "B", patients=40),
        "hill": write_hospital(folder, "hill", "C", patients=30, ecg_only=True),
    }


@pytest.fixture(scope="session")
def federate() -> Federate:
    """Return (folder, sites, *overrides) -> folder: a run from start to end in this process.

    Where the folder holds a plan already, the run is resumed.
    """

    def run(folder: Path, sites: dict[str, Path], *overrides: str) -> Path:
        if not (folder / "config.json").exists():
            write_config(folder, plan(folder.name, overrides, sites=len(sites)))
        submitted = {"run": folder.name, "config-hash": digest(load_config(folder))}
        run_in_process(
            server_app, client_app, run_config=submitted, sites=sites, outputs=folder.parent
        )
        return folder

    return run
