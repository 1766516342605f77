"""`cardionets-site check`: keys of the YAML that are misspelled or not there."""

from __future__ import annotations

import pytest

import client.checks.configuration
import client.checks.quality
from cardionets_core.site_config import write_yaml

DATA_KEYS = ("root", "manifest", "cache")


@pytest.mark.parametrize(("right", "wrong"), [("prepared", "prepaired"), ("cache", "cach")])
def test_a_typo_is_said_once_and_not_as_missing_keys(tmp_path, right, wrong):
    keys = {"prepared": "/data"} if right == "prepared" else dict.fromkeys(DATA_KEYS, "/data")
    keys[wrong] = keys.pop(right)
    path = tmp_path / "west.yaml"
    write_yaml(path, {"site": "west", "data": keys})
    config, found = client.checks.configuration.read_configuration(path)
    assert config is None and [f.code for f in found] == ["unknown_key"]
    assert f"did you mean {right!r}" in found[0].what


def test_every_missing_key_says_what_it_is_for(tmp_path):
    path = tmp_path / "west.yaml"
    write_yaml(path, {"title": "West", "data": {"salt": "s"}})
    _, found = client.checks.configuration.read_configuration(path)
    causes = {f.what.split(": ")[1].split(" is")[0]: f.cause for f in found}
    assert set(causes) == {"site", "data.root", "data.manifest", "data.cache"}
    assert len(set(causes.values())) == 4 and "hospital" not in causes["data.cache"]


GOOD_PRIVACY = {"ledger": "/ledger.jsonl", "patients": 1_000_000, "delta": 1e-7, "epsilon": 4}


def read(tmp_path, privacy):
    """Return the configuration and the findings of a YAML with this section on privacy."""
    path = tmp_path / "west.yaml"
    data = dict.fromkeys(DATA_KEYS, "/data")
    write_yaml(path, {"site": "west", "data": data, "privacy": privacy})
    return client.checks.configuration.read_configuration(path)


def test_a_section_on_privacy_that_is_right_is_read_as_it_stands(tmp_path):
    config, found = read(tmp_path, GOOD_PRIVACY)
    assert [f.level for f in found] == ["ok"]
    assert (config.privacy.patients, config.privacy.delta) == (1_000_000, 1e-7)


def test_keys_that_need_each_other_are_no_mistake(tmp_path):
    keys = {"signing_key": "/srv/key", "peers": {"hill": "ssh-ed25519 AAAA"}, "secure_sites": 2}
    config, found = read(tmp_path, GOOD_PRIVACY | keys)
    assert [f.level for f in found] == ["ok"] and config.privacy.peers == keys["peers"]
    del keys["signing_key"]
    _, found = read(tmp_path, GOOD_PRIVACY | keys)
    assert any("privacy.signing_key is not" in f.what for f in found)


@pytest.mark.parametrize(
    ("right", "wrong"), [("epsilon", "epsylon"), ("patients", "patience"), ("ledger", "leger")]
)
def test_a_typo_in_the_section_on_privacy_is_said_once(tmp_path, right, wrong):
    privacy = {wrong if key == right else key: value for key, value in GOOD_PRIVACY.items()}
    _, found = read(tmp_path, privacy)
    assert [f.code for f in found] == ["unknown_key"]
    assert f"west.yaml.privacy: unknown key {wrong!r} (did you mean {right!r}?)" in found[0].what


def test_every_wrong_key_of_privacy_is_named_and_keys_that_do_not_go_together(tmp_path):
    _, found = read(tmp_path, {**GOOD_PRIVACY, "epsilon": "eight", "modalites": ["ecg"]})
    assert sorted(f.code for f in found) == ["bad_value", "unknown_key"]
    _, found = read(tmp_path, {**GOOD_PRIVACY, "delta": 0.1})
    assert [f.code for f in found] == ["bad_value"] and "1 / patients" in found[0].what
    _, found = read(tmp_path, {"secure_sites": 1})
    assert [f.code for f in found] == ["bad_value"] and "at least 2" in found[0].what


def test_a_misread_section_is_not_taken_for_one_without_a_ledger(bench):
    bench.edit(privacy={**GOOD_PRIVACY, "epsylon": 4})
    result = bench.check()
    assert [f.code for f in result.of_level("error")] == ["unknown_key"]
    (budget,) = [f for f in result.findings if f.area == "budget"]
    assert budget.code == "left_out" and "not looked at" in budget.what
