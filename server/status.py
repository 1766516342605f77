"""How a run truly stands: what its server wrote, whether it lives, and who starts it again.

Neither file is believed alone: `standing` compares them with the processes of this machine, so that
a run without a process is never shown as running.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cardionets_core.errors import (
    CardioNetsError,
    CheckpointError,
    ConfigError,
    DataError,
    EngineError,
    IncompleteError,
    RunError,
    WireError,
)
from cardionets_core.supervision import process_start
from server.status_file import (
    FILE_NAME,
    FINAL,
    State,
    Status,
    Submission,
    read_status,
    read_submission,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FAILURES: dict[str, str] = {
    "config": "a setting of the run cannot be used",
    "data": "a file of the run cannot be read",
    "wire": "a message was not what it should be",
    "checkpoint": "the checkpoint is missing, torn or of another run",
    "engine": "Flower, a port or a process did not do its part",
    "run": "the rounds could not go on",
    "internal": "an error of the program; the server's log says which",
    "server_gone": "its server has gone and nobody starts it again",
    "crash_loop": "its server ended again and again without finishing a round",
    "stopped": "a person stopped it",
}
"""Code of FAILED -> what it means."""

CODES: dict[type[CardioNetsError], str] = {
    ConfigError: "config",
    DataError: "data",
    WireError: "wire",
    CheckpointError: "checkpoint",
    EngineError: "engine",
    RunError: "run",
}

SAME_START_S = 2.0
"""Two readings of one process's start may differ by this much: the clock is set now and then."""

ProcessTable = Callable[[int], "float | None"]
"""Process id -> when that process was started, None where no such process lives."""


@dataclass(frozen=True)
class Standing:
    """The true state of a run.

    Attributes:
        state: one of `STATES`.
        sites: whom it waits for, or who is missing.
        code: of FAILED.
        resume_helps: whether a run at its end may get further if it is only resumed.
        refused: of INCOMPLETE: site -> code, in the round that was not done.
        stage: of the round in hand.
        round: the last round of that stage that is done.
        rounds: rounds of that stage.
        silent_s: seconds since the last sign of life of a server that lives.
        tracking: what MLflow still lacks, in words.
    """

    state: State
    sites: tuple[str, ...] = ()
    code: str = ""
    resume_helps: bool = True
    refused: Mapping[str, str] = field(default_factory=dict)
    stage: str = ""
    round: int = 0
    rounds: int = 0
    silent_s: float = 0.0
    tracking: str = ""

    @property
    def final(self) -> bool:
        """Whether nothing happens any more unless a person resumes the run."""
        return self.state in FINAL


@dataclass(frozen=True)
class Queue:
    """Who gives a run a server.

    Attributes:
        alive: Flower is there to start the server of a run that was handed to it.
        resumes: a supervisor hands a run that has lost its server to Flower again.
    """

    alive: bool = False
    resumes: bool = False


NOBODY = Queue()


def standing(
    folder: Path, now: float, processes: ProcessTable = process_start, queue: Queue = NOBODY
) -> Standing:
    """Return how a run truly stands.

    Args:
        folder: the run's.
        now: seconds since 1970.
        processes: the process table.
        queue: who starts servers (`server.supervisor.queue_of`).
    """
    status, submission = read_status(folder), read_submission(folder)
    serving = status is not None and lives(status.pid, status.started, processes)
    if submission is not None and lives(submission.pid, submission.started, processes):
        queue = replace(queue, alive=True)
    found = judge(status, submission, serving=serving, queue=queue)
    if serving and not found.final:
        found = replace(found, silent_s=max(0.0, now - (folder / FILE_NAME).stat().st_mtime))
    return found


def judge(
    status: Status | None, submission: Submission | None, *, serving: bool, queue: Queue
) -> Standing:
    """Return the state that follows from what was written and from what lives.

    Args:
        status: what the run's last server wrote.
        submission: when the run was last handed to Flower.
        serving: the process that wrote `status` is alive.
        queue: who starts servers.
    """
    # A submission whose server has not spoken yet: the status is of the time before it.
    pending = submission is not None and (
        status is None or status.flower_run != submission.flower_run
    )
    awaited = queue.alive if pending else queue.resumes
    known = Standing("QUEUED")
    if status is not None:
        known = Standing(
            status.state,
            status.sites,
            status.code,
            resume_helps=status.resume_helps,
            refused=status.refused,
            stage=status.stage,
            round=status.round,
            rounds=status.rounds,
            tracking=status.tracking,
        )
        if status.final and not (pending and awaited):
            return known
        if serving and not status.final and not status.interrupted:
            return known
    known = replace(known, sites=(), resume_helps=True, refused={})  # these are of an earlier end
    if submission is not None and submission.stop:
        return replace(known, state="FAILED", code="stopped")
    if awaited:
        return replace(known, state="QUEUED", code="")
    return replace(known, state="FAILED", code="server_gone")


def words(how: Standing | Status) -> str:
    """Return a state with its sites or code: `WAITING(hill, north)`, `FAILED(config)`."""
    inside = how.code if how.state == "FAILED" else ", ".join(how.sites)
    return f"{how.state}({inside})" if inside else how.state


def lives(pid: int, started: float, processes: ProcessTable) -> bool:
    """Return whether the very process lives, and not another one that was given its id."""
    found = processes(pid) if pid > 0 else None
    return found is not None and abs(found - started) <= SAME_START_S


def failure(error: BaseException) -> Status:
    """Return the final status that an error means; its text only where it is meant for people."""
    if isinstance(error, IncompleteError):
        return Status(
            "INCOMPLETE",
            sites=error.sites,
            reason=str(error),
            resume_helps=error.resume_helps,
            refused=error.refused,
        )
    code = next((c for kind, c in CODES.items() if isinstance(error, kind)), "internal")
    known = isinstance(error, CardioNetsError)
    reason = str(error) if known else f"{type(error).__name__} (see the server log)"
    return Status("FAILED", code=code, reason=reason)
