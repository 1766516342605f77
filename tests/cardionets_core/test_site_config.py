"""A hospital's YAML: plain values, checked, and never code."""

from __future__ import annotations

from pathlib import Path

import pytest

from cardionets_core.config_tree import build
from cardionets_core.errors import ConfigError
from cardionets_core.site_config import (
    SITE_CONFIG_ENV,
    SiteConfig,
    compose_site,
    load_own_site_config,
    load_site_config,
    write_yaml,
)

SITE_FILES = sorted((Path(__file__).parents[2] / "site_configs").glob("*.yaml"))


@pytest.fixture
def values(tmp_path):
    (tmp_path / "manifest.csv").write_text("patient_id\n")
    data = {
        "root": str(tmp_path),
        "manifest": str(tmp_path / "manifest.csv"),
        "cache": str(tmp_path / "cache"),
    }
    return {"site": "my-hospital", "data": data}


def written(tmp_path, values):
    path = tmp_path / "site.yaml"
    write_yaml(path, values)
    return path


def test_a_small_file_is_enough(tmp_path, values):
    config = load_site_config(written(tmp_path, values))
    assert config.site == "my-hospital" and config.device == "auto" and not config.compile
    assert config.policy.min_patients == 5 and config.policy.stages == ()


@pytest.mark.parametrize("path", SITE_FILES, ids=lambda p: p.stem)
def test_every_file_of_site_configs_is_right(path):
    assert SITE_FILES
    config = build(SiteConfig, compose_site(path), path.name)  # its folders need not be here
    assert path.stem in (config.site, "template")


@pytest.mark.parametrize("key", ["root", "manifest"])
def test_a_wrong_path_names_the_key_and_the_next_step(tmp_path, values, key):
    values["data"][key] = "/nowhere/at/all"
    with pytest.raises(ConfigError, match=rf"data\.{key} names /nowhere.*cardionets cohort"):
        load_site_config(written(tmp_path, values))


@pytest.fixture
def prepared(tmp_path):
    """A folder as `cardionets prepare` leaves it."""
    out = tmp_path / "prepared"
    out.mkdir()
    (out / "manifest.parquet").touch()
    (out / "site_salt").write_text("a secret of this site\n")
    return out


def test_a_prepared_folder_is_enough(tmp_path, prepared):
    values = {"site": "s", "data": {"prepared": str(prepared)}}
    data = load_site_config(written(tmp_path, values)).data
    assert (data.root, data.manifest) == (str(prepared), str(prepared / "manifest.parquet"))
    assert data.cache == str(prepared / "cache") and data.salt == "a secret of this site"
    assert "secret" not in repr(data)


def test_the_cache_of_a_prepared_folder_may_lie_elsewhere(tmp_path, prepared):
    values = {"site": "s", "data": {"prepared": str(prepared), "cache": str(tmp_path / "fast")}}
    assert load_site_config(written(tmp_path, values)).data.cache == str(tmp_path / "fast")


@pytest.mark.parametrize("missing", ["manifest.parquet", "site_salt"])
def test_a_folder_that_is_not_prepared(tmp_path, prepared, missing):
    (prepared / missing).unlink()
    values = {"site": "s", "data": {"prepared": str(prepared)}}
    with pytest.raises(ConfigError, match=r"data\.prepared names .*run `cardionets prepare`"):
        load_site_config(written(tmp_path, values))


@pytest.mark.parametrize("key", ["prepared", "root", "manifest", "cache"])
def test_paths_that_depend_on_where_one_stands(tmp_path, key):
    values = {"site": "s", "data": {key: "prepared"}}
    with pytest.raises(
        ConfigError, match=rf"data\.{key} names prepared.*whole path, for example /"
    ):
        load_site_config(written(tmp_path, values))


@pytest.mark.parametrize("key", ["root", "manifest", "salt"])
def test_two_answers_about_the_data(tmp_path, prepared, key):
    values = {"site": "s", "data": {"prepared": str(prepared), key: "/x"}}
    with pytest.raises(ConfigError, match=rf"remove data\.{key}, or data\.prepared"):
        load_site_config(written(tmp_path, values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"devise": "cpu"}, "did you mean 'device'"),
        ({"device": "gpu"}, "cpu"),
        ({"site": "my hospital"}, "letters, digits"),
        ({"site": "../etc"}, "letters, digits"),
        ({"site": ""}, "letters, digits"),
        ({"policy": {"min_patient": 3}}, "did you mean 'min_patients'"),
        ({"policy": {"min_patients": "many"}}, "expected int"),
        ({"data": {}}, "missing key 'root'"),
        ({"workers": 1.5}, "expected int"),
    ],
)
def test_a_wrong_value_is_refused(tmp_path, values, change, message):
    with pytest.raises(ConfigError, match=message):
        load_site_config(written(tmp_path, values | change))


@pytest.mark.parametrize(
    "text",
    [
        "site: [unclosed",
        "site: a\nsite: b",
        "- a\n- list",
        "just words",
        "42",
        "",
        "\t- tab: bad",
        "site: !!python/object/apply:os.system ['true']",
        "a: &x [*x]",
        "\x00\x01",
    ],
)
def test_a_file_that_is_no_mapping_is_one_clear_line(tmp_path, text):
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"site\.yaml") as caught:
        load_site_config(path)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_bytes(b"site: \xff\xfe")
    with pytest.raises(ConfigError, match=r"site\.yaml"):
        load_site_config(path)


def test_the_environment_of_the_site_can_be_named(tmp_path, values, monkeypatch):
    monkeypatch.setenv("SITE_SALT", "hunter2")
    named = values | {"data": values["data"] | {"salt": "${oc.env:SITE_SALT}"}}
    assert load_site_config(written(tmp_path, named)).data.salt == "hunter2"
    monkeypatch.delenv("SITE_SALT")
    with pytest.raises(ConfigError, match="SITE_SALT"):
        load_site_config(written(tmp_path, named))


def test_overrides_are_composed_onto_the_file(tmp_path, values):
    config = load_site_config(written(tmp_path, values), ["policy.min_patients=7", "device=cpu"])
    assert (config.policy.min_patients, config.device) == (7, "cpu")
    with pytest.raises(ConfigError, match="did you mean 'min_patients'"):
        load_site_config(written(tmp_path, values), ["policy.min_patient=7"])


def test_a_missing_file_names_the_template(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match=r"template\.yaml"):
            load_site_config(path)


def test_yaml_round_trip(tmp_path, values):
    assert compose_site(written(tmp_path, values)) == values


def test_the_environment_names_the_own_file(tmp_path, values, monkeypatch):
    monkeypatch.setenv(SITE_CONFIG_ENV, str(written(tmp_path, values)))
    assert load_own_site_config().site == "my-hospital"
    monkeypatch.setenv(SITE_CONFIG_ENV, "")
    with pytest.raises(ConfigError, match=SITE_CONFIG_ENV):
        load_own_site_config()
