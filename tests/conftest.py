"""Virtual hospitals, written once per session, and a way to run a federation over them."""

from __future__ import annotations

import csv
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from cardionets_core.config_tree import digest
from client.client_app import app as client_app
from server.server_app import app as server_app
from server.server_app import load_config, write_config
from server.start import pinned
from simulations.faults.small import NANO, plan, write_hospital
from simulations.grid import run_in_process

STAGES = ("ecg_masked", "tokenizer", "contrastive", "generative", "phenotypes", "diseases")
BRIEF = (
    *(f"stage.{name}.rounds=1" for name in STAGES),
    *(f"stage.{name}.local_epochs=1" for name in STAGES),
    "evaluation.replicates=20",
    "evaluation.generated_patients=4",
    "evaluation.samples=2",
)
"""Every stage once: enough for anything but learning."""

PRIVACY = {"private", "privacy", "secure", "central", "ledger", "budget", "bank", "quotes"}
"""Words in the names of files about privacy that lie outside of tests/cardionets_core/privacy."""

Federate = Callable[..., Path]

# The same examples every time, however long each takes on a busy machine. To look for new ones:
# pytest --hypothesis-profile=default
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    """Let MLflow do what SQLAlchemy 2.1 deprecates; and let Ctrl-C be heard.

    A shell lets what it starts in the background ignore SIGINT, and children inherit that: those
    that a test interrupts would go on.
    """
    config.addinivalue_line("filterwarnings", "ignore:The ``noload`` loader strategy")
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest files: the other core would wait for them at the end.

    Files about privacy get their mark: pytest -m "privacy and not slow".
    """
    items.sort(key=lambda item: item.path.parent.name != "simulations")
    for item in items:
        if item.path.parent.name == "privacy" or PRIVACY & set(item.path.stem.split("_")):
            item.add_marker("privacy")


@pytest.fixture
def torch_as_it_was():
    """A task sets threads and deterministic algorithms for its process; they are put back."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)


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
            write_config(folder, pinned(plan(folder.name, overrides, sites=len(sites))))
        submitted = {"run": folder.name, "config-hash": digest(load_config(folder))}
        run_in_process(
            server_app, client_app, run_config=submitted, sites=sites, outputs=folder.parent
        )
        return folder

    return run
