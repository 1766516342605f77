"""What a site's check says of its privacy ledger."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from cardionets_core.config_tree import build
from cardionets_core.errors import PrivacyError
from cardionets_core.model_config import ModelConfig
from cardionets_core.site_config import load_site_config, write_yaml
from client.checks.budget import check_budget, no_budget
from client.site import Site
from tests.private_site import make_private
from tests.task_header import task_header


@pytest.fixture(scope="module")
def west(good_site, tmp_path_factory):
    """Config of a private site with 40 patients, and its records."""
    folder = tmp_path_factory.mktemp("budget")
    values = yaml.safe_load(good_site.read_text())
    values["data"]["cache"] = str(folder / "cache")
    path = folder / "west.yaml"
    write_yaml(path, values)
    offers = ["ecg", "phenotypes", "diseases"]
    config = load_site_config(make_private(path, patients=40, modalities=offers, epsilon=8.0))
    model = build(ModelConfig, {"num_phenotypes": 1, "num_diseases": 1}, "model")
    header = task_header(model=model, phenotypes=("lv_ef",), diseases=("atrial_fibrillation",))
    return config, Site(config).dataset(header)


def codes(west, **changes):
    config, dataset = west
    changed = replace(config, privacy=replace(config.privacy, **changes))
    return {f.code: f.level for f in check_budget(changed, dataset)}


def test_a_ledger_in_order_says_what_is_spent(west):
    config, dataset = west
    (finding,) = check_budget(config, dataset)
    assert finding.level == "ok" and "0.00 of 8" in finding.what


@pytest.mark.parametrize(
    ("changes", "code", "level"),
    [
        ({"patients": 400}, "far_off", "warning"),
        ({"patients": 20}, "far_off", "warning"),
        ({"modalities": ("ecg", "cine")}, "not_there", "warning"),
        ({"modalities": ()}, "undeclared", "error"),
    ],
)
def test_what_is_declared_is_held_against_the_records(west, changes, code, level):
    assert codes(west, **changes)[code] == level


def test_a_ledger_that_is_not_there_is_told_with_the_next_step(west, tmp_path):
    with pytest.raises(PrivacyError, match="budget init"):
        codes(west, ledger=str(tmp_path / "none.jsonl"))


def test_a_site_that_demands_privacy_without_a_ledger_cannot_join(west):
    config, _ = west
    without = replace(config.privacy, ledger="")
    assert no_budget(replace(config, privacy=without)).level == "error"
    assert no_budget(replace(config, privacy=replace(without, required=False))).level == "ok"
    assert no_budget(None).level == "ok"
