"""The bundle that goes to every hospital holds a pyproject.toml and nothing else, ever."""

from __future__ import annotations

import ast
import hashlib
import io
import shutil
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest

from cardionets_core.flower_command import Command, quiet_environment
from cardionets_core.flower_compat import build_bundle
from server.launch import BUNDLE

# Flower's own use of pathspec.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

ROOT = Path(__file__).resolve().parents[2]


def names_in(fab: bytes) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(fab)).namelist()


def read_app() -> dict:
    return tomllib.loads((BUNDLE / "pyproject.toml").read_text())["tool"]["flwr"]["app"]


def test_it_holds_nothing_but_its_pyproject():
    # .info/CONTENT is Flower's own list of what is inside.
    fab = build_bundle(BUNDLE)
    assert sorted(names_in(fab)) == [".info/CONTENT", "pyproject.toml"]
    assert len(fab) < 2048  # small enough to be read before it is approved


def test_its_hash_is_the_same_everywhere_and_foreign_files_stay_out(tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(BUNDLE, copy)
    (copy / "site_configs").mkdir()
    (copy / "site_configs" / "hospital.yaml").write_text("data_root: /secret")
    for name in ("leak.py", "leak.json", "leak.md", "leak.toml"):
        (copy / name).write_text("# leak")
    first, second = build_bundle(BUNDLE), build_bundle(copy)
    assert names_in(second) == names_in(first)
    assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest()


def test_no_file_of_site_configs_is_inside():
    content = zipfile.ZipFile(io.BytesIO(build_bundle(BUNDLE)))
    inside = b"".join(content.read(name) for name in content.namelist())
    for path in (ROOT / "site_configs").rglob("*"):
        assert path.name.encode() not in inside
    assert b"site_configs" not in inside


def test_flwr_build_gives_the_same_bundle(tmp_path):
    copy = tmp_path / "bundle"
    shutil.copytree(BUNDLE, copy)
    env = {**quiet_environment(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    command = Command(("flwr", "build", "--app", str(copy)), env)
    subprocess.run(
        command.argv,
        env=command.environment({"PATH": "/usr/bin:/bin"}),
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=500,
    )
    (fab,) = tmp_path.glob("*.fab")
    assert fab.read_bytes() == build_bundle(BUNDLE)


def test_it_names_apps_that_exist():
    for reference in read_app()["components"].values():
        module, _, attribute = reference.partition(":")
        source = ROOT / Path(*module.split(".")).with_suffix(".py")
        tree = ast.parse(source.read_text())
        targets = [t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
        assert attribute in [t.id for t in targets if isinstance(t, ast.Name)], reference


def test_its_settings_and_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bundle = tomllib.loads((BUNDLE / "pyproject.toml").read_text())["project"]
    assert read_app()["config"] == {"run": "", "config-hash": ""}
    assert bundle["version"] == project["version"]
    assert bundle["dependencies"] == []
