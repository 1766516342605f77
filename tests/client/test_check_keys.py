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
