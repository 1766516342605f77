"""Commands as people type them, killed as machines kill: the run goes on by itself, to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from cardionets_core.faults import FAULTS_ENV
from cardionets_core.supervision import process_start
from server.progress import read_progress
from server.status import standing, words
from server.status_file import Status, read_status, read_submission
from server.supervisor import queue_of
from simulations.process_group import reserved_ports
from tests.processes import command_line, kill_members, members

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PATIENCE_S = 900.0
SITES = ("hill", "north")
PLAN = ("stages=[handshake,ecg_masked]", "stage.ecg_masked.min_sites=2")

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]


class Coordinator:
    """A coordinator and its sites as an operator starts them, each command with a log file."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "out"
        self.folder = folder
        self.faults = folder / "faults"
        self._held = ExitStack()
        self.port, *self.site_ports = self._held.enter_context(reserved_ports(4))
        self.commands: dict[str, subprocess.Popen[bytes]] = {}

    def type(self, name: str, command: str, *words: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.commands[name] = subprocess.Popen(
                [str(BIN / command), *words],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", FAULTS_ENV: str(self.faults)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self, *words: str) -> None:
        place = ("--output", str(self.output), "--port", str(self.port))
        self.type("coordinator", "cardionets-coordinator", "start", *place, *words)

    def join(self, name: str, config: Path, *more: str) -> None:
        words = ["start", "--config", str(config), "--superlink", f"127.0.0.1:{self.port}", *more]
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
        kill_members(self.folder)
        self._held.close()

    def hold(self, *numbers: int) -> None:
        """Let the server wait at the begin of rounds, or a busy machine would look too late."""
        self.faults.mkdir()
        for number in numbers:
            self._reached(number).with_suffix("").touch()

    def is_held(self, number: int) -> bool:
        """Return whether the server waits, and has said so: it would write that again."""
        reached = self._reached(number)
        return reached.exists() and bool(reached.read_text())

    def release(self, number: int) -> None:
        """Let the server go on."""
        self._reached(number).unlink()

    def _reached(self, number: int) -> Path:
        return self.faults / f"sent_none@ecg_masked-{number}.hold.reached"


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    place = Coordinator(tmp_path)
    yield place
    place.end()


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


@pytest.fixture
def begin(coordinator, hospitals, nano):
    """Return (rounds, held) -> the coordinator, its two sites, and a run whose first round is done.

    Its server waits at the begin of round `held`, if one is named.
    """

    def start(rounds: int, *held: int) -> Coordinator:
        if held:
            coordinator.hold(*held)
        coordinator.start()
        for name in SITES:
            coordinator.join(name, hospitals[name])
        coordinator.run("name=trial", "min_sites=2", *plan(nano, rounds))
        wait_for(lambda: rounds_of(coordinator), coordinator)
        wait_for(lambda: all(map(coordinator.is_held, held[:1])), coordinator)
        return coordinator

    return start


@pytest.fixture
def same_weights(hospitals, federate, nano, tmp_path):
    """Return (place, rounds): the run has ended by itself as one in a single process ends."""

    def check(place: Coordinator, rounds: int) -> None:
        wait_for(lambda: place.standing() == "COMPLETED", place)
        assert place.commands["run"].wait(timeout=PATIENCE_S) == 0, place.log("run")
        assert rounds_of(place) == list(range(1, rounds + 1))
        sites = {name: hospitals[name] for name in SITES}
        alone = federate(tmp_path / "alone", sites, *plan(nano, rounds))
        assert weights(place.output / "trial") == weights(alone)

    return check


def plan(nano: tuple[str, ...], rounds: int) -> tuple[str, ...]:
    return (*nano, *PLAN, f"stage.ecg_masked.rounds={rounds}")


def kill_server(place: Coordinator) -> Status:
    server = server_of(place)
    assert server is not None
    os.kill(server.pid, signal.SIGKILL)
    return server


def test_a_killed_server_goes_on_by_itself_to_the_same_weights(begin, same_weights):
    """kill -9 of the ServerApp between two rounds; `status` tells the truth on the way."""
    place = begin(3, 2, 3)
    assert place.standing() == "RUNNING"
    first = kill_server(place)
    killed = time.monotonic()
    wait_for(lambda: process_start(first.pid) is None, place)
    # QUEUED, or the next one is there already.
    assert place.standing().partition("(")[0] in ("QUEUED", "RUNNING", "WAITING")
    wait_for(lambda: place.is_held(3), place)
    second = server_of(place, other_than=first.pid)
    print(f"a new server after {time.monotonic() - killed:.1f} s")
    place.release(3)
    assert second.flower_run != first.flower_run
    same_weights(place, 3)
    assert read_submission(place.output / "trial").restarts == 1
    assert "its server was gone" in place.log("coordinator")
    assert "another one goes on after 1 round" in place.log("run")
    entries = read_progress(place.output / "trial")
    first_keys, keys = (e["keys"] for e in entries if e.get("stage") == "handshake")
    assert keys == first_keys and keys.keys() == set(SITES)  # a node is known by its key


def program(place: Coordinator, *words: str) -> psutil.Process:
    """Return the living process of this federation whose command line holds these words."""
    found: list[psutil.Process] = []

    def look() -> bool:
        found[:] = [
            process
            for process in members(place.folder)
            if all(any(word in said for said in command_line(process)) for word in words)
        ]
        return bool(found)

    wait_for(look, place)
    return found[0]


@pytest.mark.slow
def test_a_superlink_that_was_away_for_more_than_a_minute(begin, same_weights):
    """Flower gives the run up; the supervisor hands it over again, and it goes on."""
    place = begin(4, 2)
    first = server_of(place)
    superlink = program(place, "flower-superlink")
    superlink.suspend()
    place.release(2)
    time.sleep(100.0)
    superlink.resume()
    same_weights(place, 4)
    assert read_status(place.output / "trial").flower_run != first.flower_run


@pytest.mark.slow
def test_a_machine_that_crashed_and_lost_its_database(begin, hospitals, federate, nano, tmp_path):
    """All of the coordinator is killed and its database removed; sites and run come back."""
    place = begin(4, 2)
    coordinator = place.commands.pop("coordinator")
    for child in psutil.Process(coordinator.pid).children(recursive=True):
        child.kill()
    coordinator.kill()
    coordinator.wait()
    wait_for(lambda: place.standing() == "FAILED(server_gone)", place)
    for database in (place.output / ".engine").glob("superlink.db*"):
        database.unlink()
    run = place.commands.pop("run")
    assert run.wait(timeout=PATIENCE_S) == 2 and "server_gone" in place.log("run")
    place.start()
    wait_for(lambda: place.standing() == "COMPLETED", place)
    assert rounds_of(place) == [1, 2, 3, 4]
    sites = {name: hospitals[name] for name in SITES}
    alone = federate(tmp_path / "alone", sites, *plan(nano, 4))
    assert weights(place.output / "trial") == weights(alone)


@pytest.mark.slow
def test_a_killed_client_process_is_begun_again_at_once(coordinator, begin, same_weights):
    """Flower alone would notice after a minute."""
    coordinator.faults.mkdir()
    fault = coordinator.faults / "mid_epoch@ecg_masked-2@north.kill"
    fault.touch()
    place = begin(3)
    same_weights(place, 3)
    assert fault.with_name(f"{fault.name}.done").exists()
    assert "starting it once more" in place.log("site-north")
    assert read_submission(place.output / "trial").restarts == 0
