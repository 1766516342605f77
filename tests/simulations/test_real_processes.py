"""The commands that people type, as real processes: whole, interrupted, and with a broken site.

The hospitals and the plan are small; the SuperLink, the SuperNodes and the wire are Flower's own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cardionets_core.faults import FAULTS_ENV
from cardionets_core.site_config import compose_site, write_yaml
from server.progress import read_progress
from simulations.process_group import reserved_ports
from tests.processes import kill_members, members

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PLAN = (
    "stages=[handshake,ecg_masked,contrastive,evaluate]",
    "stage.ecg_masked.rounds=2",
    "stage.ecg_masked.min_sites=2",
    "evaluation.sections=[phenotypes,retrieval]",
)
PATIENCE_S = 300.0

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def two(hospitals):
    return {name: hospitals[name] for name in ("hill", "north")}


@pytest.fixture
def start(tmp_path):
    """Return (command, *words) -> a process of it; whatever still runs at the end is killed."""
    started = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    environment[FAULTS_ENV] = str(tmp_path / "faults")

    def begin(command: str, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [str(BIN / command), *words],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    kill_members(tmp_path)


def simulation(output: Path, sites: dict[str, Path]) -> list[str]:
    listed = ", ".join(f'{{config: "{path}"}}' for path in sites.values())
    return [f"output={output}", "ptbxl=none", f"sites=[{listed}]"]


def wait_for_round(process: subprocess.Popen[str], folder: Path, stage: str) -> None:
    """Wait until a round of a stage is done."""
    deadline = time.monotonic() + PATIENCE_S
    while not any(e.get("stage") == stage for e in read_progress(folder)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no round of {stage} within {PATIENCE_S:.0f} s"
        time.sleep(0.1)


def wait_for(happens: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happens():
        assert time.monotonic() < deadline, f"no sign of {what} within {PATIENCE_S:.0f} s"
        time.sleep(0.2)


def answers(port: int) -> bool:
    """Return whether somebody listens on a port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def weights(folder: Path) -> str:
    return json.loads((folder / "summary.json").read_text())["weights_sha256"]


def test_a_run_is_interrupted_then_resumed_to_its_end(start, two, federate, nano, tmp_path):
    """Ctrl-C leaves no process; the resumed run ends with the weights of a run in one process."""
    folder = tmp_path / "out" / "real"
    words = simulation(tmp_path / "out", two)
    (tmp_path / "faults").mkdir()
    # Or the whole run could be over before a busy machine lets this process look.
    (tmp_path / "faults" / "sent_none@ecg_masked-2.hold").touch()
    first = start("cardionets-simulate", *words, "name=real", *nano, *PLAN)
    wait_for_round(first, folder, "ecg_masked")
    # SuperLink, SuperExec, ServerApp, warm starter, and per site a SuperNode and its SuperExec
    assert len(members(folder)) >= 7
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 130, errors
    assert "stopped" in errors and "Traceback" not in errors
    assert members(folder) == []
    assert not (folder / "summary.json").exists()

    shutil.rmtree(tmp_path / "faults")
    second = start("cardionets-simulate", *words, f"resume={folder}")
    printed, errors = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == 0, errors
    paths = dict(line.split() for line in printed.strip().splitlines()[-3:])
    assert paths == {
        "summary": str(folder / "summary.json"),
        "report": str(folder / "report.html"),
        "checkpoint": str(folder / "checkpoint"),
    }
    assert all(Path(path).exists() for path in paths.values())
    assert "A simulation: all hospitals" in (folder / "report.html").read_text()
    assert members(folder) == []
    assert weights(folder) == weights(federate(tmp_path / "alone", two, *nano, *PLAN))


def copy_of(site: Path, folder: Path) -> Path:
    """Copy a hospital with its data, so that a test may break it."""
    shutil.copytree(site.parent / site.stem, folder / site.stem)
    values = compose_site(site)
    data = folder / site.stem / "data"
    values["data"] |= {"root": str(data), "manifest": str(data / "manifest.csv")}
    values["data"] |= {"cache": str(folder / site.stem / "cache")}
    write_yaml(folder / site.name, values)
    return folder / site.name


def test_a_site_whose_data_break_in_the_middle_ends_the_run_in_one_line(start, two, nano, tmp_path):
    (tmp_path / "sites").mkdir()
    sites = {name: copy_of(path, tmp_path / "sites") for name, path in two.items()}
    folder = tmp_path / "out" / "broken"
    # More rounds than can be done before the manifest is gone.
    words = [*simulation(tmp_path / "out", sites), "name=broken", *nano, *PLAN]
    process = start("cardionets-simulate", *words, "stage.ecg_masked.rounds=500")
    wait_for_round(process, folder, "ecg_masked")
    (tmp_path / "sites" / "north" / "data" / "manifest.csv").unlink()
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2, errors
    (line,) = errors.strip().splitlines()
    assert line.startswith("error: the run is INCOMPLETE(north): stage ecg_masked, round ")
    assert "(refused: north: config)" in line and "logs" in line
    assert line.endswith(f"then resume. Logs: {folder / 'logs'}. To resume it: resume={folder}.")
    assert str(sites["north"].parent) not in (folder / "progress.jsonl").read_text()
    assert members(folder) == []


@pytest.fixture
def ports():
    """Two ports that no other test is given."""
    with reserved_ports(2) as two:
        yield two


@pytest.mark.slow
def test_the_commands_of_a_coordinator_and_of_a_site(start, hospitals, nano, tmp_path, ports):
    """What people type on two machines, here on loopback; SIGTERM ends it all."""
    output, (port, own_port) = tmp_path / "out", ports
    words = ["start", "--port", str(port), "--output", str(output)]
    services = [start("cardionets-coordinator", *words)]
    words = ["start", "--config", str(hospitals["hill"]), "--superlink", f"127.0.0.1:{port}"]
    words += ["--home", str(tmp_path / "home"), "--port", str(own_port)]
    services.append(start("cardionets-site", *words))
    wait_for(lambda: answers(port), "an answer of the SuperLink")

    words = ["name=joined", "min_sites=1", *nano, "stages=[handshake,ecg_masked]"]
    run = start("cardionets-coordinator", "run", *words, "--output", str(output))
    printed, errors = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0, (printed, errors)
    assert "ecg_masked 1/1" in printed and "hill" in printed
    assert (output / "joined" / "checkpoint" / "checkpoint.json").exists()
    words = ["status", "--output", str(output)]
    printed, _ = start("cardionets-coordinator", *words).communicate(timeout=PATIENCE_S)
    assert "joined" in printed and "COMPLETED" in printed

    assert len(members(tmp_path)) >= 5  # coordinator, SuperLink, SuperNode, their SuperExecs
    # The site first: without its SuperLink, Flower's SuperNode tries for minutes to sign off.
    for service in reversed(services):
        service.terminate()
        service.wait(timeout=PATIENCE_S)
    wait_for(lambda: not members(tmp_path), "the end of every process")
