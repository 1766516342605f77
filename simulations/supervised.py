"""A federation on one machine whose processes and runs are looked after as an operator's are.

Whatever ends is started again by the same code as in `cardionets-coordinator start` and
`cardionets-site start`; only that one process here does the work of all of them.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cardionets_core import warm
from cardionets_core.supervision import Kept
from server import launch
from server.flower_cli import FlowerCli
from server.status_file import Submission, write_submission
from server.supervisor import Supervisor, rounds_done
from simulations.preparation import healthy
from simulations.processes import SERVER_APP, Federation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cardionets_core.flower_command import Command
    from server.launch import RunConfig

WARM_SERVER = "warm-server"
log = logging.getLogger("cardionets.federation")


class SupervisedFederation(Federation):
    """A federation that nothing ends but its end; see `Federation` for the arguments.

    `look` must be called a few times a second, as `wait` does.
    """

    def __init__(self, folder: Path, sites: Mapping[str, Path], **settings: Any) -> None:
        super().__init__(folder, sites, keep_database=True, **settings)
        self._kept: list[Kept] = []
        self._supervisor: Supervisor | None = None

    def start(self) -> None:
        """Start everything, then look after it."""
        super().start()
        self._supervisor = Supervisor(
            self._outputs,
            home=self.engine,
            kept=self._kept,
            engine=FlowerCli(self._home("cli"), ask=self._ask, bundle=self._bundle),
            say=log.warning,
            ready=lambda: healthy(self.port),
        )
        self._supervisor.start()

    def submit(self, run_config: RunConfig) -> int:
        """Submit a run and note that, so that it never stays without a server."""
        number = super().submit(run_config)
        folder = self._outputs / str(run_config["run"])
        note = Submission(number, round(time.time(), 3), rounds_done=rounds_done(folder))
        write_submission(folder, note)
        return number

    def look(self) -> None:
        """Start again what has ended, processes and runs."""
        if self._supervisor is not None:
            self._supervisor.tick(time.monotonic())

    def _warm_server(self, programs: Path) -> dict[str, str]:
        """Start a warm starter for the ServerApp, as `cardionets-coordinator start` does."""
        folder = Path(tempfile.mkdtemp(prefix="cardionets-"))
        self._undo.callback(shutil.rmtree, folder, ignore_errors=True)
        place = folder / "server"
        home, program = self._home(WARM_SERVER), warm.SERVER_PROGRAM
        command = warm.starter(program, place, home=home, modules=launch.APP_MODULES)
        self._start(WARM_SERVER, command)
        warm.install(program, programs, log=self.processes.log_path(SERVER_APP))
        return {warm.SOCKET_ENV: str(place)}

    def _start(self, name: str, command: Command) -> None:
        kept = Kept(name, command, self.processes, say=log.warning)
        kept.tick(time.monotonic())
        self._kept.append(kept)
