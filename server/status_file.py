"""The two small files that say how a run stands: written whole, with a digest, read without trust.

`status.json` is written by the ServerApp at every change, `submission.json` by whoever hands the
run to Flower.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from cardionets_core.durable import move_into_place
from cardionets_core.supervision import process_start

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

State = Literal["QUEUED", "RUNNING", "WAITING", "INCOMPLETE", "FAILED", "COMPLETED"]
STATES: tuple[State, ...] = get_args(State)
FINAL: tuple[State, ...] = ("INCOMPLETE", "FAILED", "COMPLETED")
"""States in which nothing happens any more unless a person resumes the run."""

FILE_NAME = "status.json"
SUBMISSION = "submission.json"
HEARTBEAT_S = 5.0
"""Seconds between two signs of life of a server: it touches its status file."""


@dataclass(frozen=True)
class Status:
    """What the server of a run says of it.

    Attributes:
        state: RUNNING or WAITING, or a final state.
        sites: whom it waits for, or who is missing.
        code: of FAILED, a key of `FAILURES`.
        reason: the error in words, for people.
        resume_helps: of a final state: whether the run may get further if it is only resumed.
        refused: of INCOMPLETE: site -> code, in the round that was not done.
        stage: of the round in hand, empty before the first.
        round: the last round of that stage that is done.
        rounds: rounds of that stage.
        time: when this was written, seconds since 1970.
        pid: the server's process.
        started: when that process was started.
        flower_run: Flower's number of the run that it serves.
        interrupted: it was told to end before the run had ended.
        tracking: what MLflow still lacks, in words; empty when nothing.
    """

    state: State
    sites: tuple[str, ...] = ()
    code: str = ""
    reason: str = ""
    resume_helps: bool = True
    refused: Mapping[str, str] = field(default_factory=dict)
    stage: str = ""
    round: int = 0
    rounds: int = 0
    time: float = 0.0
    pid: int = 0
    started: float = 0.0
    flower_run: int = 0
    interrupted: bool = False
    tracking: str = ""

    def __post_init__(self) -> None:
        """Refuse a state that does not exist."""
        if self.state not in STATES:
            raise ValueError(f"state {self.state!r} is none of {', '.join(STATES)}")
        object.__setattr__(self, "sites", tuple(self.sites))

    @property
    def final(self) -> bool:
        """Whether the server has nothing more to do."""
        return self.state in FINAL


@dataclass(frozen=True)
class Submission:
    """That a run was handed to Flower, and who looks after it until it has a server.

    Attributes:
        flower_run: Flower's number of the run.
        time: seconds since 1970.
        pid: the process that waits for the run (a command); 0 where only the supervisor does.
        started: when that process was started.
        restarts: starts by the supervisor since the last one that brought a finished round.
        rounds_done: finished rounds at the last of these starts.
        stop: a person wants the run to end.
    """

    flower_run: int
    time: float
    pid: int = 0
    started: float = 0.0
    restarts: int = 0
    rounds_done: int = 0
    stop: bool = False


class StatusFile:
    """Writes `status.json` for one server process, and touches it as a sign of life.

    Args:
        folder: the run's.
        flower_run: Flower's number of the run.
    """

    def __init__(self, folder: Path, flower_run: int) -> None:
        self._path = folder / FILE_NAME
        for left in folder.glob(f".{FILE_NAME}.*.tmp"):
            left.unlink(missing_ok=True)  # a server was killed while it wrote
        pid, before = os.getpid(), read_status(folder)
        self.now = Status(
            "RUNNING", pid=pid, started=process_start(pid) or 0.0, flower_run=flower_run
        )
        if before is not None:  # the run goes on from there
            stage, number, rounds = before.stage, before.round, before.rounds
            self.now = replace(self.now, stage=stage, round=number, rounds=rounds)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self.write()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def write(self, **changes: Any) -> None:
        """Write the status with some fields changed; of a final one nothing but `tracking`."""
        with self._lock:
            if self._closed.is_set() or (self.now.final and changes.keys() != {"tracking"}):
                return
            self.now = replace(self.now, time=round(time.time(), 3), **changes)
            write_json(self._path, asdict(self.now))

    def end(self, final: Status) -> None:
        """Write a final status; the place of the last round is kept."""
        told = ("state", "sites", "code", "reason", "resume_helps", "refused")
        self.write(**{name: getattr(final, name) for name in told})

    def close(self) -> None:
        """Write nothing more and give no sign of life any more."""
        with self._lock:  # a beat that has begun is over when this returns
            self._closed.set()

    def _beat(self) -> None:
        while not self._closed.wait(HEARTBEAT_S):
            with self._lock:
                if self._closed.is_set():
                    return
                try:
                    os.utime(self._path)
                except FileNotFoundError:
                    return  # the run's folder was removed


def read_status(folder: Path) -> Status | None:
    """Return what the run's server last wrote; None where nothing whole is there."""
    return _read(folder / FILE_NAME, Status)


def read_submission(folder: Path) -> Submission | None:
    """Return when the run was last handed to Flower; None where it never was."""
    return _read(folder / SUBMISSION, Submission)


def write_submission(folder: Path, submission: Submission) -> None:
    """Note that a run was handed to Flower."""
    write_json(folder / SUBMISSION, asdict(submission))


def give_up(folder: Path, code: str, reason: str) -> None:
    """Write FAILED in the place of a server that has gone."""
    before = read_status(folder) or Status("RUNNING")
    submission = read_submission(folder)
    number = submission.flower_run if submission is not None else before.flower_run
    before = replace(before, sites=(), refused={}, resume_helps=True)  # of an earlier end
    after = replace(before, state="FAILED", code=code, reason=reason, flower_run=number)
    write_json(folder / FILE_NAME, asdict(replace(after, time=round(time.time(), 3))))


Written = TypeVar("Written", Status, Submission)


def _read(path: Path, kind: type[Written]) -> Written | None:
    """Return a file as it was written; what its version did not know yet is as by default."""
    values = read_values(path)
    if values is None:
        return None
    try:
        return kind(**{f.name: values[f.name] for f in fields(kind) if f.name in values})
    except (ValueError, TypeError):
        return None


def read_values(path: Path) -> dict[str, Any] | None:
    """Return what `write_json` wrote; None where the file is missing or not as it was written."""
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        mark = values.pop("sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return values if mark == _digest(values) else None


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a small JSON file with its SHA-256, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w") as file:
        json.dump({**values, "sha256": _digest(values)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    move_into_place(temporary, path)


def _digest(values: dict[str, Any]) -> str:
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
