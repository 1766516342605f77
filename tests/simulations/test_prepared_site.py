"""Real PTB-XL records, prepared as a hospital does, train beside a virtual hospital."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from simulations.hospitals import make_hospitals, write_site_files
from simulations.settings import SimulatedSite, SimulationConfig

RECORDS = 60
SITE = Path(__file__).parents[2] / "site_configs" / "ptbxl.yaml"


@pytest.fixture(scope="module")
def ptbxl(tmp_path_factory) -> Path:
    """A folder with PTB-XL's tables and its first records at 100 Hz."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    source = Path(os.environ.get("CARDIONETS_SHARED_DATA", default)) / "ptbxl"
    if not source.is_dir():
        pytest.skip("real files are absent: set CARDIONETS_SHARED_DATA to their folder")
    folder = tmp_path_factory.mktemp("archive") / "ptbxl"
    records = folder / "records100" / "00000"
    records.mkdir(parents=True)
    for name in ("ptbxl_database.csv", "scp_statements.csv"):
        shutil.copy(source / name, folder / name)
    for header in sorted((source / "records100" / "00000").glob("*.hea"))[:RECORDS]:
        for file in (header, header.with_suffix(".dat")):
            shutil.copy(file, records / file.name)
    return folder


@pytest.fixture(scope="module")
def site(ptbxl, tmp_path_factory):
    """The YAML of the prepared site, as the simulator writes it; made twice."""
    simulation = SimulationConfig(
        sites=(SimulatedSite(config=str(SITE), ptbxl=True),),
        output=str(tmp_path_factory.mktemp("simulated")),
        ptbxl=str(ptbxl),
        workers=1,
    )
    announced: list[int] = []

    def announce(title, total):
        announced.append(total)
        return lambda done: None

    (first,) = make_hospitals(simulation, announce=announce)
    (again,) = make_hospitals(simulation, announce=announce)
    assert announced == [RECORDS] and again == first
    return write_site_files([first], tmp_path_factory.mktemp("sites"))["ptbxl"]


def test_the_prepared_site_trains_in_a_federation(site, hospitals, federate, nano, tmp_path):
    stages = "stages=[handshake,ecg_masked,diseases,evaluate]"
    sites = {"ptbxl": site, "hill": hospitals["hill"]}
    run = federate(tmp_path / "outputs" / "run", sites, *nano, stages)
    summary = json.loads((run / "summary.json").read_text())
    for stage in ("ecg_masked", "diseases"):
        (done,) = [r for r in summary["rounds"] if r["stage"] == stage]
        assert sorted(done["accepted"]) == ["hill", "ptbxl"]
    assert summary["sites"]["ptbxl"]["counts"]["studies"] == RECORDS
