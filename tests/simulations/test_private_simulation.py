"""A simulation whose hospitals keep privacy ledgers: made for each run, charged, reported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cardionets_core.errors import ConfigError
from cardionets_core.privacy.ledger import Ledger
from cardionets_core.privacy.population import found_mark, table_mark
from cardionets_core.privacy_config import SitePrivacy
from cardionets_core.site_config import load_site_config
from client.memory import answered_heads
from simulations.faults.small import NANO
from simulations.hospitals import Hospital, forget_ledgers, read_hospitals
from simulations.ledgers import with_ledgers
from simulations.run import simulate
from simulations.settings import compose_run, compose_simulation
from tests.narrow_hospital import NARROW_RUN

SHORT = (
    *NANO,
    *NARROW_RUN,
    "stages=[handshake,diseases,evaluate]",
    "stage.diseases.rounds=1",
    "stage.diseases.max_steps=2",
    "privacy.rate=0.3",
    "evaluation.sections=[diseases]",
)
HILL = "{config: site_configs/hillcrest.yaml, cohort: C, patients: 12, ecg_only: true}"


class Silent:
    """A screen that shows nothing."""

    def note(self, text):
        pass

    def hospital(self, title, patients):
        return lambda done: None

    def plan(self, config):
        pass

    def follow(self, folder):
        pass


def simulated(output, name, engine):
    words = ["scenario=private", f"sites=[{HILL}]", f"output={output}", f"engine={engine}"]
    simulation, rest = compose_simulation([*words, f"name={name}", *SHORT])
    return simulate(simulation, rest, Silent())


def judge(results):
    """Check that a run was private from its ledger to its report."""
    summary = json.loads(results.summary.read_text())
    folder = results.summary.parent
    assert summary["status"] == "COMPLETED"
    config = load_site_config(folder / "sites" / "hillcrest.yaml")
    with Ledger.read(config.privacy) as ledger:
        assert [(i.stage, i.what) for i in ledger.items] == [
            ("handshake", "describe"),
            ("diseases", "train"),
            ("evaluate", "fit"),
            ("evaluate", "score"),
        ]
        assert summary["privacy"]["sites"]["hillcrest"]["epsilon"] == ledger.epsilon()
    page = results.report.read_text()
    assert "Epsilon counted when a stage was done" in page and "Sites tell no losses" in page


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The output folder, results and hospital (as the simulation wrote it) of a private run."""
    output = tmp_path_factory.mktemp("outputs")
    results = simulated(output, "first", "inprocess")
    (hospital,) = read_hospitals(results.summary.parent / "sites")
    values = {k: v for k, v in hospital.values.items() if k != "privacy"}
    return output, results, Hospital(replace(hospital.config, privacy=SitePrivacy()), values)


def test_a_private_simulation_is_so_from_its_ledger_to_its_report(finished):
    judge(finished[1])


def test_each_simulation_begins_with_new_ledgers(finished, tmp_path):
    """The one before has left its marks on the same virtual hospital, and its answers."""
    output, _, hospital = finished
    cache, table = Path(hospital.config.data.cache), Path(hospital.config.data.manifest)
    others = cache / "runs" / "not-private" / "answer.sealed"
    others.parent.mkdir()
    others.write_bytes(b"0" * 64 + b'{"update": {"privacy": null}}\n')
    forget_ledgers([hospital], tmp_path)  # which has not made it
    elsewhere = tmp_path / "records" / table.name  # of a hospital of its own: its mark stays
    elsewhere.parent.mkdir()
    table_mark(elsewhere).write_text("of its ledger")
    data = replace(hospital.config.data, manifest=str(elsewhere))
    own_table = replace(hospital, config=replace(hospital.config, data=data))
    forget_ledgers([own_table], output / "hospitals")
    assert table_mark(elsewhere).exists()
    assert found_mark(cache, table) and answered_heads(cache / "runs")
    forget_ledgers([hospital], output / "hospitals")
    assert found_mark(cache, table) is None and not answered_heads(cache / "runs")
    assert list(cache.rglob("*answer.sealed")) == [others]
    (own,) = with_ledgers([hospital], tmp_path, epsilon=3.0, made=output / "hospitals")
    with Ledger.read(own.config.privacy) as ledger:
        assert ledger.charges == () and ledger.budget == 3.0
    assert own.config.privacy.patients == 12 and own.config.privacy.required
    assert set(own.config.privacy.modalities) == {"diseases", "ecg", "phenotypes"}


def test_a_hospital_of_its_own_keeps_its_own_ledger(finished, tmp_path):
    with pytest.raises(ConfigError, match="cardionets-site budget init"):
        with_ledgers([finished[2]], tmp_path, epsilon=8.0, made=tmp_path / "hospitals")


@pytest.mark.slow
@pytest.mark.engine
def test_a_private_run_of_real_processes(tmp_path):
    judge(simulated(tmp_path, "real", "processes"))


def test_a_simulation_without_the_setting_makes_no_ledger():
    simulation, rest = compose_simulation(["scenario=smoke"])
    assert simulation.ledger_epsilon == 0
    assert compose_run(simulation, rest, name="x", sites=1).privacy.earlier_runs
    private, rest = compose_simulation(["scenario=private"])
    assert private.ledger_epsilon == 8
    assert not compose_run(private, rest, name="x", sites=1).privacy.earlier_runs
