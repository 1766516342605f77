"""Wrong input: one line with cause and next step, exit code 2, nothing started, nothing left."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import socket
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from cardionets_core.site_config import compose_site, write_yaml
from client.cli import app as site_app
from server.cli import app as coordinator_app
from simulations.cli import app as simulate_app
from simulations.run import lock
from tests.processes import command_line


@pytest.fixture(scope="module")
def template(write_hospital, tmp_path_factory):
    """A tiny hospital with ECGs only, to be copied and spoilt."""
    path = write_hospital(
        tmp_path_factory.mktemp("template"), "west", "C", patients=6, ecg_only=True
    )
    return path.parent


@pytest.fixture
def site(template, tmp_path):
    """YAML of a hospital that a test may spoil."""
    folder = tmp_path / "sites"
    shutil.copytree(template, folder)
    path = folder / "west.yaml"
    values = compose_site(path)
    root = folder / "west" / "data"
    values["data"] |= {"root": str(root), "manifest": str(root / "manifest.csv")}
    values["data"] |= {"cache": str(folder / "west" / "cache")}
    write_yaml(path, values)
    return path


def manifest_of(site: Path) -> Path:
    return site.parent / "west" / "data" / "manifest.csv"


def edit_manifest(site: Path, change) -> None:
    """Let `change` rewrite the table, a list of rows with the header first."""
    path = manifest_of(site)
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    change(rows)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def edit_yaml(site: Path, change) -> None:
    values = compose_site(site)
    change(values)
    write_yaml(site, values)


def simulate(output: Path, *words: str, site: Path | None = None):
    sites = [f'sites=[{{config: "{site}"}}]'] if site else []
    return CliRunner().invoke(simulate_app, [f"output={output}", "ptbxl=none", *sites, *words])


def assert_refused(result, *expected: str) -> None:
    """Assert exit code 2 and exactly one line on stderr, with all that is expected in it."""
    assert result.exit_code == 2, (result.output, result.exception)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    for pattern in expected:
        assert re.search(pattern, lines[0], re.IGNORECASE), f"{pattern!r} is not in {lines[0]!r}"


def assert_nothing_left(output: Path) -> None:
    """Assert that neither a run folder nor a process stays (the lock's file may)."""
    left = {path.name for path in output.iterdir()} if output.is_dir() else set()
    assert left <= {".lock"}, left
    children = psutil.Process().children(recursive=True)
    ours = [p for p in children if str(output) in " ".join(command_line(p))]
    assert not ours


def test_a_site_file_that_is_missing(tmp_path):
    result = simulate(tmp_path / "out", site=tmp_path / "nowhere.yaml")
    assert_refused(result, r"nowhere\.yaml does not exist", "copy site_configs/template.yaml")
    assert_nothing_left(tmp_path / "out")


def rename_a_column(rows):
    rows[0][rows[0].index("lv_edv")] = "lv_edvv"


def repeat_a_patient(rows):
    rows.append(list(rows[2]))


def lose_an_ecg(rows):
    rows[3][rows[0].index("ecg")] = "ecg/gone.hea"


def leave_the_root(rows):
    rows[3][rows[0].index("ecg")] = "../../../../etc/passwd"


def break_a_number(rows):
    rows[1][rows[0].index("age")] = "old"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (rename_a_column, ["unknown manifest column 'lv_edvv'", "did you mean 'lv_edv'"]),
        (repeat_a_patient, ["rows? 3.*8", "study_id"]),
        (lose_an_ecg, ["row 4", "ecg", "not in the data folder", "correct the path"]),
        (leave_the_root, ["row 4", "leads out of the data folder"]),
        (break_a_number, ["row 2", "age", "number"]),
        (lambda rows: rows.clear(), ["empty|no rows|no header|no columns"]),
    ],
    ids=["column", "duplicate", "lost file", "outside", "text for a number", "empty"],
)
def test_a_manifest_that_cannot_be_used(site, tmp_path, patient_ids, change, expected):
    ids = patient_ids(site)
    edit_manifest(site, change)
    result = simulate(tmp_path / "out", site=site)
    assert_refused(result, r"manifest\.csv", *expected)
    assert not [name for name in ids if name in result.output + result.stderr]
    assert_nothing_left(tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda v: v["data"].update(root="/nowhere/data"),
            [r"west\.yaml", r"data\.root", "/nowhere/data", "does not exist", "[Cc]orrect"],
        ),
        (
            lambda v: v["data"].update(manifest="/nowhere/manifest.csv"),
            [r"west\.yaml", r"data\.manifest", "does not exist", "[Cc]orrect"],
        ),
        (
            lambda v: v.update(titel="West"),
            [r"west\.yaml", "unknown key 'titel'", "did you mean 'title'"],
        ),
        (
            lambda v: v["data"].update(manifesto="x"),
            ["unknown key 'manifesto'", "did you mean 'manifest'"],
        ),
        (lambda v: v["data"].pop("salt") and v["data"].pop("cache"), ["cache"]),
        (lambda v: v.update(device="gpu"), ["device", "cuda"]),
        (lambda v: v.update(site="we/st"), ["letters"]),
        (lambda v: v.update(policy={"min_patients": "many"}), ["min_patients", "int"]),
    ],
    ids=["root", "manifest", "key", "nested key", "missing", "choice", "name", "type"],
)
@pytest.mark.parametrize("command", ["simulate", "site check", "site start"])
def test_a_site_file_that_is_wrong(site, tmp_path, change, expected, command):
    edit_yaml(site, change)
    if command == "simulate":
        result = simulate(tmp_path / "out", site=site)
    elif command == "site check":
        result = CliRunner().invoke(site_app, ["check", "--config", str(site)])
    else:
        home = ["--superlink", "127.0.0.1:1", "--home", str(tmp_path / "home")]
        result = CliRunner().invoke(site_app, ["start", "--config", str(site), *home])
        assert not (tmp_path / "home").exists()
    assert_refused(result, *expected)
    assert_nothing_left(tmp_path / "out")


def test_a_site_file_that_is_no_yaml(site, tmp_path):
    site.write_text("site: [west\ndata: {")
    assert_refused(simulate(tmp_path / "out", site=site), r"west\.yaml cannot be used")
    assert_nothing_left(tmp_path / "out")


def test_two_sites_under_one_name(site, tmp_path):
    twice = f'sites=[{{config: "{site}"}}, {{config: "{site}"}}]'
    result = simulate(tmp_path / "out", twice)
    assert_refused(result, "two sites are called 'west'", "own name")
    assert_nothing_left(tmp_path / "out")


def test_a_port_in_use(site, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = simulate(tmp_path / "out", f"port={port}", site=site)
    assert_refused(result, rf"port {port} is in use", f"pid {os.getpid()}", "port=0")
    assert_nothing_left(tmp_path / "out")


def test_a_second_simulation_beside_the_first(site, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    with lock(output):
        result = simulate(output, site=site)
    assert_refused(result, "another simulation is running in", "wait until it ends", "output=")
    assert_nothing_left(output)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("sed=3", ["unknown key 'sed'", "did you mean 'seed'"]),
        ("stage.contrastive.round=3", ["unknown key 'round'", "did you mean 'rounds'"]),
        ("model.cine.size=3", ["unknown key 'size'", "did you mean 'size_px'"]),
        ("seed=abc", [r"run\.seed", "expected int", "abc"]),
        ("stage.contrastive.rounds=0", ["rounds is 0", "at least 1"]),
        ("stages=[handshake,contrastiv]", ["contrastiv", "did you mean 'contrastive'"]),
        ("phenotypes=[lv_edvv]", ["lv_edvv", "did you mean 'lv_edv'"]),
        ("model=tinny", ["model=tinny", "did you mean 'tiny'", "Known"]),
        ("scenario=dem", ["scenario=dem", "did you mean 'demo'", "Known"]),
        ("engine=procesess", ["engine", "did you mean 'processes'"]),
        ("port=99999", ["port is 99999", "65535"]),
        ("ptbxl=/nowhere", ["ptbxl=/nowhere", "ptbxl=none"]),
        ("seed", ["'seed' is not an override", "key=value"]),
        ("seed=[1", ["key=value"]),
        ("name=../elsewhere", ["name", "elsewhere", "letters|plain"]),
        ("sites=[]", ["sites is empty", "at least one"]),
        ("sites=[{konfig: x}]", ["unknown key 'konfig'", "did you mean 'config'"]),
    ],
)
def test_an_override_that_is_wrong(site, tmp_path, word, expected):
    words = [word, "ptbxl=none"] if not word.startswith("ptbxl") else [word]
    sites = [f'sites=[{{config: "{site}", ptbxl: {str(word.startswith("ptbxl")).lower()}}}]']
    words = [*sites, *words] if not word.startswith("sites") else words
    output = tmp_path / "out"
    result = CliRunner().invoke(simulate_app, [f"output={output}", *words])
    assert_refused(result, *expected)
    assert_nothing_left(output)
    assert not (tmp_path / "elsewhere").exists()


def test_an_output_that_is_a_file(site, tmp_path):
    (tmp_path / "out").write_text("in the way")
    result = simulate(tmp_path / "out", site=site)
    assert_refused(result, "out", "output=")


def test_a_name_that_is_taken(site, tmp_path):
    output = tmp_path / "out"
    (output / "mine").mkdir(parents=True)
    (output / "mine" / "kept.txt").touch()
    result = simulate(output, "name=mine", site=site)
    assert_refused(result, "mine exists", "another name=", "resume=")
    assert [p.name for p in (output / "mine").iterdir()] == ["kept.txt"]


@pytest.mark.parametrize(
    ("files", "words", "expected"),
    [
        ({}, [], [r"holds no config\.json", "run folder"]),
        ({"config.json": "{"}, [], [r"config\.json", "start a new run"]),
        ({"config.json": "[]"}, [], [r"config\.json", "start a new run"]),
        ({"config.json": '{"sed": 1}'}, [], ["unknown key 'sed'", "did you mean 'seed'"]),
        ({"config.json": "PLAN"}, [], ["holds no site files", "run folder"]),
        (
            {
                "config.json": "PLAN",
                "summary.json": '{"status": "COMPLETED"}',
                "report.html": "",
            },
            [],
            ["is complete", "new run"],
        ),
        (
            {
                "config.json": "PLAN",
                "summary.json": '{"status": "INCOMPLETE"}',
                "report.html": "",
            },
            [],
            ["holds no site files"],
        ),
        ({"config.json": "PLAN"}, ["seed=3"], ["seed=3", "resumed run keeps its plan"]),
    ],
    ids=[
        "no plan",
        "torn plan",
        "list",
        "unknown key",
        "no sites",
        "complete",
        "incomplete",
        "override",
    ],
)
def test_a_folder_that_cannot_be_resumed(tmp_path, files, words, expected):
    from cardionets_core.config_tree import to_mapping
    from cardionets_core.run_config import CONF, compose, run_config_from

    output = tmp_path / "out"
    folder = output / "run"
    folder.mkdir(parents=True)
    plan = json.dumps(to_mapping(run_config_from(compose("run", ["name=run"], package=CONF))))
    for name, text in files.items():
        (folder / name).write_text(plan if text == "PLAN" else text)
    result = simulate(output, f"resume={folder}", *words)
    assert_refused(result, *expected)
    assert {path.name for path in folder.iterdir()} == set(files), "the folder was touched"


def test_a_folder_to_resume_that_is_not_there(tmp_path):
    result = simulate(tmp_path / "out", f"resume={tmp_path / 'gone'}")
    assert_refused(result, "gone", r"config\.json|exist", "run folder")
    assert not (tmp_path / "gone").exists()
    assert_nothing_left(tmp_path / "out")


def test_a_run_whose_data_are_gone_cannot_be_resumed(site, tmp_path):
    from cardionets_core.config_tree import to_mapping
    from cardionets_core.run_config import CONF, compose, run_config_from

    folder = tmp_path / "out" / "run"
    (folder / "sites").mkdir(parents=True)
    plan = to_mapping(run_config_from(compose("run", ["name=run"], package=CONF)))
    (folder / "config.json").write_text(json.dumps(plan))
    shutil.copy(site, folder / "sites")
    shutil.rmtree(manifest_of(site).parent)
    result = simulate(tmp_path / "out", f"resume={folder}")
    assert_refused(result, r"west\.yaml", r"data\.root", "does not exist")
    assert (folder / "config.json").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "sed=3"], ["unknown key 'sed'", "did you mean 'seed'"]),
        (["run", "model=tiny"], ["no coordinator was started", "cardionets-coordinator start"]),
        (["start", "--certificate", "c.pem"], ["TLS needs all three"]),
    ],
)
def test_the_coordinator_is_told_plainly_too(tmp_path, words, expected):
    result = CliRunner().invoke(coordinator_app, [*words, "--output", str(tmp_path / "out")])
    assert_refused(result, *expected)
    assert not (tmp_path / "out" / ".engine").exists()


def test_the_coordinator_names_a_port_in_use(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        words = ["start", "--port", str(other.getsockname()[1]), "--output", str(tmp_path / "out")]
        result = CliRunner().invoke(coordinator_app, words)
    assert_refused(result, "port", "in use", "--port")
