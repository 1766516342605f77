"""What a site's check says of its privacy ledger."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cardionets_core.config_tree import build
from cardionets_core.errors import PrivacyError
from cardionets_core.model_config import ModelConfig
from cardionets_core.privacy import population
from cardionets_core.privacy.accounting import Charge, epsilon_at, epsilon_prv
from cardionets_core.privacy.ledger import Ledger
from cardionets_core.privacy_config import SitePrivacy
from cardionets_core.run_config import CONF, compose, run_config_from
from cardionets_core.site_config import load_site_config, write_yaml
from client.checks.budget import check_budget, no_budget
from client.site import Site
from tests.private_site import make_private
from tests.task_header import task_header


def private(good_site, folder, **privacy):
    """Return the config of a site with the good site's records and a ledger of its own."""
    values = yaml.safe_load(good_site.read_text())
    values["data"]["cache"] = str(folder / "cache")
    # A table is of one ledger, so each ledger's is its own.
    values["data"]["manifest"] = str(shutil.copy(values["data"]["manifest"], folder))
    write_yaml(folder / "west.yaml", values)
    offers = ["ecg", "phenotypes", "diseases"]
    made = make_private(folder / "west.yaml", patients=40, modalities=offers, **privacy)
    return load_site_config(made)


@pytest.fixture(scope="module")
def west(good_site, tmp_path_factory):
    """Config of a private site with 40 patients, and its records."""
    config = private(good_site, tmp_path_factory.mktemp("budget"), epsilon=8.0)
    model = build(ModelConfig, {"num_phenotypes": 1, "num_diseases": 1}, "model")
    header = task_header(model=model, phenotypes=("lv_ef",), diseases=("atrial_fibrillation",))
    return config, Site(config).dataset(header)


@pytest.fixture(scope="module")
def plan():
    return run_config_from(compose("run", ["name=check", "diseases=[]"], package=CONF))


@pytest.fixture
def found(west, plan):
    """Return (**changes of the privacy section) -> code -> finding."""
    config, dataset = west

    def look(**changes):
        changed = replace(config, privacy=replace(config.privacy, **changes))
        return {f.code: f for f in check_budget(changed, dataset, plan)}

    return look


def test_a_ledger_in_order_says_what_is_spent_and_left(found):
    spent = found()["spent"]
    assert spent.level == "ok"
    assert "0.00 of 8 is counted by RDP at order 3.1, 8.00 is not yet used, at" in spent.what
    assert "PRV" not in spent.what  # of nothing


def test_what_was_spent_is_quoted_by_both_accountants(good_site, west, plan, tmp_path):
    own, dataset = private(good_site, tmp_path, epsilon=8.0), west[1]
    patients = dataset.manifest.table["patient_id"].unique()
    with Ledger.opened(own.privacy, patients=patients, salt=own.data.salt) as ledger:
        ledger.reserve("a", Charge(2.0, 0.1, 20))
        charges = ledger.charges
    (spent,) = (f.what for f in check_budget(own, dataset, plan) if f.code == "spent")
    rdp, prv = epsilon_at(charges, 1e-5, 3.1), epsilon_prv(charges, 1e-5)
    assert prv < rdp - 0.01
    assert f"{rdp:.2f} of 8 is counted by RDP at order 3.1, {8 - rdp:.2f} is not yet used" in spent
    assert f"By PRV {prv:.2f}, to be quoted only if" in spent


def test_noise_that_leaves_no_metric_is_warned_of(found):
    """Eight test patients, and then two thousand, of whom 82 phenotypes are asked."""
    few = found()["metrics"]
    assert few.level == "warning" and "no usable R2" in few.cause
    many = found(patients=10_000)["metrics"]  # far_off, too
    assert many.level == "ok" and "over 2,000 test patients" in many.what
    assert "metrics" not in found(modalities=("cine",))


def test_a_cap_that_hides_nobody_is_warned_of(found, good_site, west, plan, tmp_path):
    assert "large" not in found()
    large = private(good_site, tmp_path, epsilon=50.0)
    warned = {f.code: f for f in check_budget(large, west[1], plan)}["large"]
    assert warned.level == "warning" and "says nothing of who took part" in warned.what


@pytest.mark.parametrize(
    ("changes", "code", "level"),
    [
        ({"patients": 400}, "far_off", "warning"),
        ({"patients": 20}, "far_off", "warning"),
        ({"modalities": ("ecg", "cine")}, "not_there", "warning"),
        ({"modalities": ()}, "undeclared", "error"),
    ],
)
def test_what_is_declared_is_held_against_the_records(found, changes, code, level):
    assert found(**changes)[code].level == level


def test_a_ledger_that_is_not_there_is_told_with_the_next_step(found, tmp_path):
    with pytest.raises(PrivacyError, match="budget init"):
        found(ledger=str(tmp_path / "none.jsonl"))


def test_patients_who_outgrow_delta_are_told_at_the_hospital(good_site, west, plan, tmp_path):
    own = private(good_site, tmp_path, epsilon=8.0, delta=1 / 40)
    check_budget(own, west[1], plan)  # 40 patients
    ledger = Path(own.privacy.ledger)
    known = population.read(ledger.with_name(f"{ledger.name}.patients"))
    population.write(ledger, replace(known, digests=known.digests | {"0" * 32}))
    with pytest.raises(PrivacyError, match=r"come to 41 patients.*Set privacy.delta to 0.0024"):
        check_budget(own, west[1], plan)


def test_records_of_a_ledger_that_the_yaml_does_not_name_are_told(west):
    config, _ = west
    with Ledger.read(config.privacy) as ledger:
        cache, table = Path(config.data.cache), Path(config.data.manifest)
        population.leave_marks(ledger.path, ledger.terms.ledger, cache, table)
    found = no_budget(replace(config, privacy=SitePrivacy()))
    assert (found.level, found.code) == ("error", "unnamed") and "privacy_ledger.json" in found.what
    assert no_budget(replace(config, privacy=SitePrivacy(required=False))).level == "ok"


def test_a_site_that_demands_privacy_without_a_ledger_cannot_join(west):
    config, _ = west
    without = replace(config.privacy, ledger="")
    assert no_budget(replace(config, privacy=without)).level == "error"
    assert no_budget(replace(config, privacy=replace(without, required=False))).level == "ok"
    assert no_budget(None).level == "ok"
