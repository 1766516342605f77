"""What is shipped: the four packages with all that they read, and nothing of any site."""

from __future__ import annotations

import configparser
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("cardionets_core", "server", "client", "simulations")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("cardionets-*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def names(wheel):
    return {n for n in wheel.namelist() if not n.endswith("/")}


def test_the_wheel_holds_the_four_packages_and_nothing_else(wheel):
    tops = {n.split("/")[0] for n in names(wheel)}
    assert {t for t in tops if not t.endswith(".dist-info")} == set(PACKAGES)


def test_the_wheel_holds_every_file_of_the_packages(wheel):
    real = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    shipped = {n for n in names(wheel) if n.split("/")[0] in PACKAGES}
    assert shipped == real


@pytest.mark.parametrize(
    "name",
    [
        "cardionets_core/py.typed",
        "server/py.typed",
        "cardionets_core/conf/run.yaml",
        "cardionets_core/conf/model/tiny.yaml",
        "cardionets_core/templates/report.css",
        "simulations/conf/scenario/demo.yaml",
        "server/bundle/pyproject.toml",
    ],
)
def test_the_wheel_holds_what_the_code_reads(wheel, name):
    assert name in names(wheel)


def test_nothing_of_a_site_is_shipped(wheel):
    for name in names(wheel):
        assert "site_configs" not in name.split("/")[:-1] and "tests" not in name.split("/"), name
    for path in (ROOT / "site_configs").glob("*.yaml"):
        assert path.name not in {n.split("/")[-1] for n in names(wheel)}
    salts = [f"salt-of-{p.stem}".encode() for p in (ROOT / "site_configs").glob("*.yaml")]
    assert sum(s in p.read_bytes() for s in salts for p in ROOT.glob("site_configs/*.yaml")) >= 4
    secrets = [n for n in names(wheel) if any(s in wheel.read(n) for s in salts)]
    assert secrets == []


def test_no_weights_and_no_data_are_shipped(wheel):
    endings = (".safetensors", ".pt", ".npy", ".dat", ".hea", ".nii.gz", ".csv", ".db")
    found = [n for n in names(wheel) if n.endswith(endings)]
    # vocabularies of codes are tables and no data of anyone
    assert [n for n in found if not n.startswith("cardionets_core/labels/tables/")] == []


def test_the_scripts_and_the_licence_are_shipped(wheel):
    (entry,) = [n for n in names(wheel) if n.endswith("entry_points.txt")]
    scripts = configparser.ConfigParser()
    scripts.read_string(wheel.read(entry).decode())
    assert set(scripts["console_scripts"]) == {
        "cardionets",
        "cardionets-coordinator",
        "cardionets-simulate",
        "cardionets-site",
    }
    assert any(n.endswith("licenses/LICENSE") for n in names(wheel))


def test_the_wheel_runs_from_its_own_files(wheel, tmp_path):
    """Hydra finds the conf of the wheel, not that of the checkout."""
    wheel.extractall(tmp_path)
    code = (
        "import cardionets_core, server.server_app, client.client_app\n"
        "from cardionets_core.run_config import compose\n"
        "from server.launch import BUNDLE\n"
        "assert BUNDLE.is_relative_to(HERE) and cardionets_core.__file__.startswith(HERE)\n"
        "print(compose('run', ['model=small'], package='cardionets_core.conf')['model']['preset'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"HERE = {str(tmp_path)!r}\n" + code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.stdout.split() == ["small"], done.stderr
