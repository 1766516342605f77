"""engine=processes: a real SuperLink, its SuperExec and one SuperNode per site, on loopback.

    with Federation(run_folder, sites) as federation:
        run_id = federation.submit({"run": run_folder.name, "config-hash": digest})
        state = federation.wait(run_id, on_tick=show_progress)

What an operator would type is what is started (server/launch.py, client/launch.py); nothing is left
running afterwards, whatever ended the run.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from cardionets_core.errors import EngineError
from cardionets_core.flower_command import LOOPBACK, Command
from client import launch as client_launch
from client import warm
from server import launch as server_launch
from server.flower_cli import answer_of
from simulations.preparation import (
    SERVER_APP_PROGRAM,
    check_sites,
    client_modules,
    healthy,
    importable,
    lock_folder,
    write_logging_program,
    write_secret,
)
from simulations.process_group import (
    ProcessGroup,
    check_port,
    reserved_ports,
    signals_as_exceptions,
)
from simulations.run_state import RunState, run_state

__all__ = ["Federation", "RunState", "check_sites", "site_process"]

SUPERLINK = "superlink"
SUPEREXEC = "superexec"
SERVER_APP = "serverapp"
WARM = "warm-starter"

SITE_POLL_S = 0.5
TICK_S = 0.5
FIRST_LOOK_S = 5.0
NEXT_LOOK_S = 30.0
CLI_S = 300.0
"""For one `flwr` command, a new Python process: a machine at full load took more than 60 s."""


class Federation:
    """All processes of one federation on this machine; a context manager.

    Args:
        folder: the run folder; logs go to `folder/logs`, Flower's own files to `folder/engine`.
        sites: site name -> the site's resolved YAML file (its absolute path becomes SITE_CONFIG).
        port: port of the SuperLink; 0 picks a free one.
        env: further environment variables for all processes (threads, MLflow's address, ...).
        site_env: the same for single sites (site name -> variables).
        site_address: `host:port` where a site finds the SuperLink, if not directly (a slow link).
        outputs: folder that holds run folders, given to the apps as CARDIONETS_OUTPUTS; by
            default the parent of `folder`.
        bundle: folder of the app bundle.
        start_s: seconds until every process must be healthy and every site online.
        warm: start apps from a warm starter (client/warm.py); False: as Flower does, which costs
            seconds of import per message.
        site_poll_s: how often sites ask for messages; None: every 3 s, as plain Flower.
        keep_database: keep Flower's queue in `folder/engine/superlink.db`, so that a run survives
            a restart of the SuperLink; models then lie there in clear.
    """

    server_program: str = SERVER_APP_PROGRAM
    federation_config: server_launch.RunConfig | None = None

    def __init__(
        self,
        folder: Path,
        sites: Mapping[str, Path],
        *,
        port: int = 0,
        env: Mapping[str, str] | None = None,
        site_env: Mapping[str, Mapping[str, str]] | None = None,
        site_address: Mapping[str, str] | None = None,
        outputs: Path | None = None,
        bundle: Path = server_launch.BUNDLE,
        start_s: float = 300.0,
        warm: bool = True,
        site_poll_s: float | None = SITE_POLL_S,
        keep_database: bool = False,
    ) -> None:
        check_sites(sites)
        self.folder = folder.resolve()
        self.engine = self.folder / "engine"
        self.sites = {name: path.resolve() for name, path in sites.items()}
        self.port = port
        self._env = dict(env or {})
        self._site_env = {name: dict(values) for name, values in (site_env or {}).items()}
        self._site_address = dict(site_address or {})
        self._outputs = (outputs or self.folder.parent).resolve()
        self._bundle = bundle.resolve()
        self._start_s = start_s
        self._keep_database = keep_database
        self._warm = warm
        self._site_poll_s = site_poll_s
        self._site_ports: dict[str, int] = {}
        self._undo = ExitStack()
        self._group: ProcessGroup | None = None

    def __enter__(self) -> Federation:
        """Start everything; on any failure stop what was started and raise."""
        try:
            self._undo.enter_context(signals_as_exceptions())
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop everything, whatever happened."""
        self.stop()

    @property
    def processes(self) -> ProcessGroup:
        """The process group: logs, exit codes, members (for tests and fault injection)."""
        if self._group is None:
            raise EngineError("the federation is not running; use it as a context manager")
        return self._group

    def start(self) -> None:
        """Start SuperLink, SuperExec and SuperNodes; return when every site is online.

        Raises:
            EngineError: the folder or the port is in use, or a process does not get healthy in
                time; the message quotes the end of the right log.
        """
        self.engine.mkdir(parents=True, exist_ok=True)
        self._undo.callback(lock_folder(self.engine / "lock").close)
        self._choose_ports()
        self._group = ProcessGroup(self.folder / "logs", env=importable(self._env), cwd=self.folder)
        deadline = time.monotonic() + self._start_s
        self._start_server()
        self._start_sites()
        self._await_health(SUPERLINK, self.port, deadline)
        self._await_sites(deadline)

    def start_site(self, name: str) -> None:
        """Start the SuperNode of a site (again, after it was killed)."""
        command = client_launch.supernode(
            self.sites[name],
            superlink=self._site_address.get(name, f"{LOOPBACK}:{self.port}"),
            port=self._site_ports[name],
            home=self._home(site_process(name)),
            env={**self._warm_env(), **self._site_env.get(name, {})},
            programs=self.engine / "site-programs" if self._warm else None,
            poll_s=self._site_poll_s,
        )
        self._start(site_process(name), command)

    def submit(self, run_config: server_launch.RunConfig) -> int:
        """Submit the bundle with `flwr run` and return the run's id.

        Raises:
            EngineError: the SuperLink refused it; the message holds its words.
        """
        command = server_launch.submit(
            run_config,
            home=self._home("cli"),
            bundle=self._bundle,
            federation_config=self.federation_config,
        )
        return int(self._ask(command)["run-id"])

    def state(self, run_id: int) -> RunState:
        """Ask the SuperLink for the state of a run."""
        command = server_launch.list_runs(home=self._home("cli"), run_id=run_id)
        return run_state(self._ask(command)["runs"][0])

    def wait(
        self,
        run_id: int,
        on_tick: Callable[[], None] | None = None,
        *,
        seconds: float | None = None,
    ) -> RunState:
        """Wait until a run has finished and return its state.

        The SuperLink is asked when the ServerApp's process is gone, and rarely besides: each
        question is a new Python process, which the sites' training would pay for.

        Args:
            run_id: the run.
            on_tick: called about twice a second, for progress; what it raises ends the waiting.
            seconds: give up after this long; None waits for ever.

        Raises:
            EngineError: the SuperLink or its SuperExec died, or `seconds` are over.
        """
        began = time.monotonic()
        next_look, was_running = began + FIRST_LOOK_S, False
        while True:
            self.look()
            if on_tick is not None:
                on_tick()
            running, now = self.server_app_runs(), time.monotonic()
            if now > next_look or (was_running and not running):
                state = self.state(run_id)
                if state.finished:
                    return state
                next_look = time.monotonic() + NEXT_LOOK_S
            if seconds is not None and now - began > seconds:
                raise EngineError(f"run {run_id} did not finish within {seconds:g} s")
            was_running = running
            time.sleep(TICK_S)

    def look(self) -> None:
        """Look once whether all is well.

        Raises:
            EngineError: the SuperLink or its SuperExec has ended.
        """
        for name in (SUPERLINK, SUPEREXEC):
            code = self.processes.ended(name)
            if code is not None:
                raise EngineError(
                    f"{name} stopped with exit code {code} during the run; resume from the last "
                    f"checkpoint; {self.processes.tail(name)}"
                )

    def server_app_runs(self) -> bool:
        """Return whether a ServerApp's process lives."""
        return self.processes.runs_below(SUPEREXEC, self.server_program)

    def stop(self) -> None:
        """End every process of the federation, grandchildren included; may be called twice."""
        try:
            if self._group is not None:
                self._group.stop()
        finally:
            self._undo.close()

    def _start(self, name: str, command: Command) -> None:
        self.processes.start(name, command)

    def _start_sites(self) -> None:
        if self._warm:
            self._start_warm()
        for name in self.sites:
            self.start_site(name)

    def _await_sites(self, deadline: float) -> None:
        for name, port in self._site_ports.items():
            self._await_health(site_process(name), port, deadline)
        self._await_online(deadline)
        while self._warm and not self._socket.exists():
            self._check_starting(WARM, deadline, "did not finish its imports")
            time.sleep(0.1)

    def _choose_ports(self) -> None:
        if self.port:
            check_port(self.port)
        spare = self._undo.enter_context(reserved_ports(len(self.sites) + 1))
        self.port = self.port or spare[0]
        self._site_ports = dict(zip(self.sites, spare[1:], strict=True))

    def _start_server(self) -> None:
        secret = self.engine / "superexec.secret"
        write_secret(secret)
        programs = write_logging_program(
            self.engine / "server-programs",
            self.server_program,
            self.processes.log_path(SERVER_APP),
        )
        database = self.engine / "superlink.db" if self._keep_database else None
        server_launch.write_connection(self._home("cli"), port=self.port)
        self._start(
            SUPERLINK,
            server_launch.superlink(
                port=self.port,
                home=self._home(SUPERLINK),
                secret=secret,
                database=database,
                simulation=self.federation_config is not None,
            ),
        )
        self._start(
            SUPEREXEC,
            server_launch.superexec(
                port=self.port,
                home=self._home(SUPEREXEC),
                secret=secret,
                outputs=self._outputs,
                env=self._warm_server(programs),
                programs=programs,
            ),
        )

    def _warm_server(self, programs: Path) -> dict[str, str]:
        """Return what a ServerApp needs to start from a warm starter: here it starts as Flower's.

        Args:
            programs: folder of the program that starts it.
        """
        return {}

    def _start_warm(self) -> None:
        # A socket's path must be short, and run folders are often long: hence the system's own.
        folder = Path(tempfile.mkdtemp(prefix="cardionets-"))
        self._undo.callback(shutil.rmtree, folder, ignore_errors=True)
        self._socket = folder / "warm"
        warm.install(self.engine / "site-programs")
        modules = client_modules(self._bundle)
        self._start(WARM, warm.starter(self._socket, home=self._home(WARM), modules=modules))

    def _warm_env(self) -> dict[str, str]:
        return {warm.SOCKET_ENV: str(self._socket)} if self._warm else {}

    def _home(self, name: str) -> Path:
        home = self.engine / name
        home.mkdir(parents=True, exist_ok=True)
        return home

    def _await_health(self, name: str, port: int, deadline: float) -> None:
        while not healthy(port):
            self._check_starting(name, deadline, "did not answer on its port")
            time.sleep(0.1)

    def _await_online(self, deadline: float) -> None:
        command = server_launch.list_nodes(home=self._home("cli"))
        while True:
            nodes = self._ask(command)["nodes"]
            online = sum(node["status"] == "online" for node in nodes)
            if online >= len(self.sites):
                return
            for name in self.sites:
                self._check_starting(
                    site_process(name),
                    deadline,
                    f"or another site is not online ({online} of {len(self.sites)} are)",
                )
            time.sleep(TICK_S)

    def _check_starting(self, name: str, deadline: float, lacking: str) -> None:
        code = self.processes.ended(name)
        if code is not None:
            raise EngineError(
                f"{name} stopped with exit code {code} while starting; {self.processes.tail(name)}"
            )
        if time.monotonic() > deadline:
            raise EngineError(
                f"{name} {lacking} within {self._start_s:g} s; if the machine is only slow, allow "
                f"more time; {self.processes.tail(name)}"
            )

    def _ask(self, command: Command) -> dict[str, Any]:
        return answer_of(command, self.processes.run(command, seconds=CLI_S))


def site_process(name: str) -> str:
    """Return the name of a site's process, which is also that of its log."""
    return f"site-{name}"
