"""Plain Flower as real processes: what its documentation says to type, with nothing of ours.

No warm starter, no quick polling, no supervisor: a SuperLink with its database in Flower's default
mode (it starts the ServerApp itself), one SuperNode per site, and `flwr run` of the bare app in
benchmarks/plain_flower. The model, the data and the local training are the same as ours.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cardionets_core.errors import EngineError
from cardionets_core.flower_command import LOOPBACK, Command, quiet_environment
from client import launch as client_launch
from server import launch as server_launch
from server.flower_cli import answer_of
from simulations.faults.row import NotMeasuredError
from simulations.preparation import PACKAGES, healthy, importable
from simulations.process_group import ProcessGroup, reserved_ports, signals_as_exceptions
from simulations.run_state import RunState, run_state

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    import psutil

BUNDLE = PACKAGES / "benchmarks" / "plain_flower"
SUPERLINK, SERVER_APP, CLIENT_APP = "superlink", "flwr-serverapp", "flwr-clientapp"
FLOWERS_TASK_POLL_S = 1.0
"""How often Flower's SuperExec asks for work where nobody says otherwise."""

LOOK_S = 0.2
ASK_S = 3.0
"""Pause between two questions by `flwr`, each of which is a Python process of its own."""

CLI_S = 300.0
START_S = 180.0


class PlainFederation:
    """A SuperLink and SuperNodes of plain Flower; a context manager that leaves nothing running.

    Args:
        folder: gets `logs`, `engine` (Flower's own files) and `record.jsonl`.
        sites: site name -> YAML file, which names the data.
        plan: config.json of a run of ours: the model and the stage.
        env: further environment variables for all processes.
        site_env: the same for single sites; `HTTP_PROXY` cuts a site's link, for instance.
        superlink_of: site name -> `host:port` where it finds the SuperLink, if not directly.
    """

    def __init__(
        self,
        folder: Path,
        sites: Mapping[str, Path],
        plan: Path,
        *,
        env: Mapping[str, str] | None = None,
        superlink_of: Callable[[int], str] | None = None,
    ) -> None:
        if not BUNDLE.is_dir():
            raise NotMeasuredError(
                f"{BUNDLE} is missing: plain Flower is measured from a checkout of the repository"
            )
        self.folder, self.plan = folder.resolve(), plan.resolve()
        self.sites = {name: path.resolve() for name, path in sites.items()}
        self.record = self.folder / "record.jsonl"
        self._undo = ExitStack()
        self.port, *ports = self._undo.enter_context(reserved_ports(len(sites) + 1))
        self._site_ports = dict(zip(self.sites, ports, strict=True))
        self._env = importable(env or {})
        self._superlink_of = superlink_of or (lambda port: f"{LOOPBACK}:{port}")
        self.processes: ProcessGroup

    def __enter__(self) -> PlainFederation:
        """Start the SuperLink, then every SuperNode; return when all are online."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.processes = ProcessGroup(self.folder / "logs", env=self._env, cwd=self.folder)
        self._undo.enter_context(signals_as_exceptions())
        try:
            server_launch.write_connection(self._home("cli"), port=self.port)
            self.start_superlink()
            self.wait_until_up()
            for name in self.sites:
                self.start_site(name)
            self._await(self._all_online, "not every SuperNode came online")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End every process."""
        try:
            self.processes.stop()
        finally:
            self._undo.close()

    def start_superlink(self) -> None:
        """Start the SuperLink (again, on the same database)."""
        argv = ["flower-superlink", "--insecure", "--host", LOOPBACK, "--port", str(self.port)]
        argv += ["--database", str(self._home(SUPERLINK) / "superlink.db")]
        self.processes.start(SUPERLINK, Command(tuple(argv), self._quiet(SUPERLINK)))

    def wait_until_up(self) -> None:
        """Wait until the SuperLink answers."""
        self._await(lambda: healthy(self.port), "the SuperLink did not answer")

    def start_site(self, name: str) -> None:
        """Start a site's SuperNode (again, after it was killed)."""
        poll = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": f"{FLOWERS_TASK_POLL_S:g}"}
        command = client_launch.supernode(
            self.sites[name],
            superlink=self._superlink_of(self.port),
            port=self._site_ports[name],
            home=self._home(f"site-{name}"),
            env=poll,
        )
        self.processes.start(f"site-{name}", command)

    def submit(self, *, rounds: int, hold_s: float = 0.0, stage: str = "ecg_masked") -> int:
        """Submit the bare app and return the run's id."""
        settings: dict[str, str | int | float | bool] = {
            "plan": str(self.plan),
            "stage": stage,
            "num-rounds": rounds,
            "min-nodes": len(self.sites),
            "record": str(self.record),
            "hold-s": float(hold_s),
        }
        command = server_launch.submit(settings, home=self._home("cli"), bundle=BUNDLE)
        return int(self._ask(command)["run-id"])

    def state(self, run_id: int) -> RunState:
        """Return what `flwr ls` says of a run."""
        command = server_launch.list_runs(home=self._home("cli"), run_id=run_id)
        return run_state(self._ask(command)["runs"][0])

    def steps(self, step: str = "") -> list[dict[str, Any]]:
        """Return what the apps have noted so far, of one kind of step if it is named."""
        if not self.record.exists():
            return []
        lines = [json.loads(line) for line in self.record.read_text().split("\n")[:-1]]
        return [entry for entry in lines if step in ("", entry["step"])]

    def wait_for(self, happens: Callable[[], bool], what: str, seconds: float = START_S) -> float:
        """Wait until something happens and return how long that took.

        Raises:
            EngineError: it did not within `seconds`.
        """
        began = time.monotonic()
        while not happens():
            if time.monotonic() - began > seconds:
                raise EngineError(f"plain Flower: no sign of {what} within {seconds:g} s")
            time.sleep(LOOK_S)
        return time.monotonic() - began

    def wait_until_finished(self, run_id: int, seconds: float = START_S) -> tuple[RunState, float]:
        """Wait until a run has ended; return its state and the seconds waited."""
        began = time.monotonic()
        while True:
            state = self.state(run_id)
            waited = time.monotonic() - began
            if state.finished or waited > seconds:
                return state, waited
            time.sleep(ASK_S)

    def apps(self, program: str) -> list[psutil.Process]:
        """Return the living app processes of a program (`flwr-serverapp`, `flwr-clientapp`)."""
        import psutil

        found = []
        for process in self.processes.members():
            try:
                if any(Path(word).name == program for word in process.cmdline()[:3]):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def _all_online(self) -> bool:
        nodes = self._ask(server_launch.list_nodes(home=self._home("cli")))["nodes"]
        return bool(sum(n["status"] == "online" for n in nodes) >= len(self.sites))

    def _await(self, happens: Callable[[], bool], failure: str) -> None:
        deadline = time.monotonic() + START_S
        while not happens():
            if time.monotonic() > deadline:
                raise EngineError(f"plain Flower: {failure}; logs in {self.folder / 'logs'}")
            time.sleep(LOOK_S)

    def _home(self, name: str) -> Path:
        home = self.folder / "engine" / name
        home.mkdir(parents=True, exist_ok=True)
        return home

    def _quiet(self, name: str) -> dict[str, str]:
        return quiet_environment(self._home(name), FLOWERS_TASK_POLL_S)

    def _ask(self, command: Command) -> dict[str, Any]:
        return answer_of(command, self.processes.run(command, seconds=CLI_S))
