"""The supervisor of a coordinator: its processes stay alive, and no run is left without a server.

A server's process that has gone without a last word is replaced at once: a new Flower run goes on
with ours from its checkpoint, and the old Flower run is stopped. Flower itself would notice after
a minute, and give the run up.

`tick` looks once and returns. What it acts on are files (server/status_file.py) and the process
table, so that a supervisor that was killed itself goes on where it was.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from cardionets_core.config_tree import digest
from cardionets_core.errors import CardioNetsError, EngineError
from cardionets_core.supervision import Backoff, process_start
from server.plan_file import load_config
from server.progress import read_progress
from server.status import ProcessTable, Queue, lives
from server.status_file import (
    Status,
    Submission,
    give_up,
    read_status,
    read_submission,
    read_values,
    write_json,
    write_submission,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cardionets_core.supervision import Kept
    from server import launch

MARKER = "supervisor.json"
"""File in the engine's folder that says which process supervises the runs."""

MAX_RESTARTS = 5
"""Starts without a finished round in between, after which a run is given up."""

START_S = 60.0
"""Seconds that a submitted run may take to get its server before Flower is asked about it."""

AGAIN_S = 5.0
"""Seconds until a question that Flower did not answer is put again."""

PAUSES = Backoff(first_s=2.0, longest_s=60.0)
"""Between two starts of a run that finishes no round; the first start has none."""


class Engine(Protocol):
    """What is asked of Flower (`server.flower_cli.FlowerCli`, or a test's fake)."""

    def submit(self, run_config: launch.RunConfig) -> int:
        """Submit a run; return Flower's number of it."""

    def state(self, run_id: int) -> str:
        """Return Flower's word for a run."""

    def stop(self, run_id: int) -> None:
        """Stop a run."""


@dataclass
class _Wait:
    """Until when a run is left alone, and the submission that this is about."""

    flower_run: int
    until: float


class Supervisor:
    """Looks after a coordinator's processes and its runs.

    Args:
        outputs: folder of all runs.
        home: folder where the marker of this supervisor goes.
        kept: the coordinator's processes.
        engine: Flower.
        say: is told everything that was done, one line each.
        resume: start runs again whose server is gone.
        ready: whether the SuperLink takes requests right now.
        processes: the process table.
        ended: called with the folder of a run that was given up (it tells MLflow).
    """

    def __init__(
        self,
        outputs: Path,
        *,
        home: Path,
        kept: Sequence[Kept],
        engine: Engine,
        say: Callable[[str], None],
        resume: bool = True,
        ready: Callable[[], bool] = lambda: True,
        processes: ProcessTable = process_start,
        ended: Callable[[Path], None] = lambda folder: None,
    ) -> None:
        self._outputs, self._home, self._kept = outputs, home, kept
        self._engine, self._say, self._resume = engine, say, resume
        self._ready, self._processes, self._ended = ready, processes, ended
        self._waits: dict[str, _Wait] = {}
        self._stale: list[int] = []  # Flower runs that have a successor
        self._done: dict[str, tuple[float, float]] = {}
        self._trouble: dict[str, str] = {}  # said already

    def start(self) -> None:
        """Claim the runs of the output folder.

        Raises:
            EngineError: another supervisor looks after them.
        """
        if queue_of(self._home, processes=self._processes).alive:
            raise EngineError(
                f"another coordinator looks after {self._outputs}; stop it first, or give this "
                "one its own folder: --output OTHER."
            )
        pid = os.getpid()
        marker = {"pid": pid, "started": self._processes(pid) or 0.0, "resume": self._resume}
        self._home.mkdir(parents=True, exist_ok=True)
        write_json(self._home / MARKER, marker)

    def tick(self, now: float) -> None:
        """Look once at the processes, then at every run.

        Args:
            now: seconds of a clock that only goes forward.
        """
        for process in self._kept:
            process.tick(now)
        if not self._ready():
            return
        for path in sorted(self._outputs.glob("*/submission.json")):
            if not self._settled(path.parent):
                self._try(path.parent, now)
        self._stop_stale()

    def _try(self, folder: Path, now: float) -> None:
        """Look at one run; what stands in its way there must not end the care for the others."""
        try:
            self._look(folder, now)
        except OSError as error:
            words = f"{folder.name}: {error.strerror} ({error.filename})"
            if self._trouble.get(folder.name) != words:
                self._say(words)
            self._trouble[folder.name] = words

    def _settled(self, folder: Path) -> bool:
        """Return whether nothing was written since the run was seen to have ended."""
        return self._done.get(folder.name) == _marks(folder)

    def _look(self, folder: Path, now: float) -> None:
        marks = _marks(folder)
        status, submission = read_status(folder), read_submission(folder)
        if submission is None:
            if status is None:
                return  # torn before a server spoke: the next `run` writes a new one
            submission = Submission(status.flower_run, time=0.0)  # torn: the server's word does
        if status is not None and lives(status.pid, status.started, self._processes):
            if not status.final:
                self._waits.pop(folder.name, None)
                return
        pending = status is None or status.flower_run != submission.flower_run
        if status is not None and status.final and not pending:
            self._done[folder.name] = marks
        elif submission.stop:
            self._give_up(folder, "stopped", "a person stopped the run")
        elif self._resume and self._due(folder, now, status if not pending else None, submission):
            self._resubmit(folder, now, submission)

    def _due(self, folder: Path, now: float, status: Status | None, submission: Submission) -> bool:
        """Return whether a run without a living server must get a new one now.

        Args:
            folder: the run's.
            now: of the clock.
            status: the last word of the server of this submission; None: it has not spoken yet.
            submission: the last one.
        """
        wait = self._waits.get(folder.name)
        if wait is None or wait.flower_run != submission.flower_run:
            pause = START_S if status is None else _pause(folder, submission)
            wait = self._waits[folder.name] = _Wait(submission.flower_run, now + pause)
        if now < wait.until:
            return False
        if status is not None and not status.interrupted:
            return True  # killed: there is nothing to ask
        wait.until = now + AGAIN_S
        try:
            word = self._engine.state(submission.flower_run)
        except EngineError as error:
            self._say(f"{folder.name}: {error}")
            return False
        if word == "finished:stopped":
            self._give_up(folder, "stopped", "a person stopped the run")
            return False
        return status is not None or not word or word.startswith("finished")

    def _resubmit(self, folder: Path, now: float, submission: Submission) -> None:
        """Hand a run to Flower again, or give it up."""
        done = rounds_done(folder)
        restarts = 0 if done > submission.rounds_done else submission.restarts
        if restarts >= MAX_RESTARTS:
            words = f"its server ended {restarts + 1} times without finishing a round"
            self._give_up(folder, "crash_loop", f"{words}; look into its log")
            return
        try:
            config = load_config(folder)
        except CardioNetsError as error:
            self._give_up(folder, "checkpoint", str(error))  # no further try could read it
            return
        try:
            number = self._engine.submit({"run": config.name, "config-hash": digest(config)})
        except CardioNetsError as error:
            self._say(f"{folder.name}: {error}")
            self._waits[folder.name] = _Wait(submission.flower_run, now + AGAIN_S)
            return
        again = replace(
            read_submission(folder) or submission,  # meanwhile a person may want it to stop
            flower_run=number,
            time=round(time.time(), 3),
            restarts=restarts + 1,
            rounds_done=done,
        )
        write_submission(folder, again)
        self._stale.append(submission.flower_run)
        self._say(f"{folder.name}: its server was gone; it goes on after {done} rounds")

    def _stop_stale(self) -> None:
        """Stop the Flower runs that have a successor: their messages must not be worked on."""
        for number in self._stale:
            try:
                self._engine.stop(number)
            except EngineError:
                continue  # Flower had ended it by itself
        self._stale.clear()

    def _give_up(self, folder: Path, code: str, reason: str) -> None:
        give_up(folder, code, reason)
        self._say(f"{folder.name}: FAILED({code}); {reason}")
        self._ended(folder)


def queue_of(*homes: Path, processes: ProcessTable = process_start) -> Queue:
    """Return who gives the runs of an output folder their servers.

    Args:
        homes: where the marker of a supervisor may lie.
        processes: the process table.
    """
    for home in homes:
        marker = read_values(home / MARKER)
        if marker and lives(int(marker["pid"]), float(marker["started"]), processes):
            return Queue(alive=True, resumes=bool(marker["resume"]))
    return Queue()


def rounds_done(folder: Path) -> int:
    """Return how many different rounds of a run have been finished, greetings left out."""
    rounds = {
        (entry["stage"], entry["round"])
        for entry in read_progress(folder)
        if entry["event"] == "round" and entry["stage"] != "handshake"
    }
    return len(rounds)


def _pause(folder: Path, submission: Submission) -> float:
    if rounds_done(folder) > submission.rounds_done or submission.restarts == 0:
        return 0.0
    return PAUSES.pause(submission.restarts)


def _marks(folder: Path) -> tuple[float, float]:
    """Return when the two files of a run were last written; 0 for one that is missing."""
    times = []
    for name in ("status.json", "submission.json"):
        path = folder / name
        times.append(path.stat().st_mtime if path.exists() else 0.0)
    return times[0], times[1]
