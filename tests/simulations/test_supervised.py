"""Commands as people type them, killed as machines kill: the run goes on by itself, to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cardionets_core.supervision import process_start
from server.progress import read_progress
from server.status import standing, words
from server.status_file import Status, read_status, read_submission
from server.supervisor import queue_of
from simulations.process_group import free_ports

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PATIENCE_S = 240.0
PLAN = ("stages=[handshake,ecg_masked]", "stage.ecg_masked.min_sites=2")

pytestmark = pytest.mark.engine


class Coordinator:
    """A coordinator and its sites as an operator starts them, each command with a log file."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "out"
        self.folder = folder
        self.port, *self.site_ports = free_ports(4)
        self.commands: dict[str, subprocess.Popen[bytes]] = {}

    def type(self, name: str, command: str, *words: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.commands[name] = subprocess.Popen(
                [str(BIN / command), *words],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self, *words: str) -> None:
        place = ("--output", str(self.output), "--port", str(self.port))
        self.type("coordinator", "cardionets-coordinator", "start", *place, *words)

    def join(self, name: str, config: Path) -> None:
        words = ["start", "--config", str(config), "--superlink", f"127.0.0.1:{self.port}"]
        words += ["--home", str(self.folder / f"home-{name}")]
        words += ["--port", str(self.site_ports[len(self.commands) % 3])]
        self.type(f"site-{name}", "cardionets-site", *words)

    def run(self, *words: str) -> None:
        place = ("--output", str(self.output))
        wait_for(lambda: (self.output / ".engine" / "supervisor.json").exists(), self)
        self.type("run", "cardionets-coordinator", "run", *words, *place)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def standing(self) -> str:
        queue = queue_of(self.output / ".engine")
        return words(standing(self.output / "trial", time.time(), queue=queue))

    def end(self) -> None:
        # Sites first: without its SuperLink, Flower's SuperNode tries for minutes to sign off.
        for process in reversed(self.commands.values()):
            process.terminate()
        for process in self.commands.values():
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
        for process in members(self.folder):
            process.kill()


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    place = Coordinator(tmp_path)
    yield place
    place.end()


def members(folder: Path) -> list[psutil.Process]:
    """Return every living process that names a folder in its command or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            said = [*process.cmdline(), *process.environ().values()]
            dead = process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid()
        except psutil.Error:
            continue
        if not dead and any(str(folder) in word for word in said):
            found.append(process)
    return found


def wait_for(happens: Callable[[], object], place: Coordinator) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happens():
        logs = {name: place.log(name)[-3000:] for name in place.commands}
        assert time.monotonic() < deadline, logs
        time.sleep(0.02)


def server_of(place: Coordinator, *, other_than: int = 0) -> Status | None:
    """Return the status of a living server of the run, in a round of its first stage."""
    status = read_status(place.output / "trial")
    if status is None or status.pid == other_than or process_start(status.pid) is None:
        return None
    return status


def rounds_of(place: Coordinator) -> list[int]:
    entries = read_progress(place.output / "trial")
    return [e["round"] for e in entries if e["event"] == "round" and e["stage"] == "ecg_masked"]


def weights(folder: Path) -> str:
    return str(json.loads((folder / "summary.json").read_text())["weights_sha256"])


def test_a_killed_server_goes_on_by_itself_to_the_same_weights(
    coordinator, hospitals, federate, nano, tmp_path
):
    """kill -9 of the ServerApp between two rounds; `status` tells the truth on the way."""
    sites = {name: hospitals[name] for name in ("hill", "north")}
    plan = (*nano, *PLAN, "stage.ecg_masked.rounds=4")
    coordinator.start()
    for name, config in sites.items():
        coordinator.join(name, config)
    coordinator.run("name=trial", "min_sites=2", *plan)
    wait_for(lambda: rounds_of(coordinator), coordinator)
    first = server_of(coordinator)
    assert first is not None and coordinator.standing() == "RUNNING"

    os.kill(first.pid, signal.SIGKILL)
    killed = time.monotonic()
    wait_for(lambda: process_start(first.pid) is None, coordinator)
    assert coordinator.standing() in ("QUEUED", "RUNNING")  # RUNNING: the next one, already
    wait_for(lambda: server_of(coordinator, other_than=first.pid), coordinator)
    second = server_of(coordinator, other_than=first.pid)
    print(f"a new server after {time.monotonic() - killed:.1f} s")
    assert second.flower_run != first.flower_run

    assert coordinator.commands["run"].wait(timeout=PATIENCE_S) == 0, coordinator.log("run")
    assert coordinator.standing() == "COMPLETED"
    assert rounds_of(coordinator) == [1, 2, 3, 4]
    assert read_submission(coordinator.output / "trial").restarts == 1
    assert "its server was gone" in coordinator.log("coordinator")
    folder = coordinator.output / "trial"
    assert weights(folder) == weights(federate(tmp_path / "alone", sites, *plan))
