"""What a site remembers of a run from round to round, and its newest answer, on the site's disk.

A memory is written as one generation per trained round, named `STAGE/ROUND`; the server names the
generation that the site goes on from: that of its last update that was used. So a round that is
repeated starts from what the first try started from. docs/strategies.md says what is remembered.

Every file is one JSON line and a safetensors block behind the SHA-256 of both: a torn or changed
file is known as such and counts as none. Nothing in a file chooses a path.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from cardionets_core.config_tree import digest
from cardionets_core.durable import move_into_place
from cardionets_core.errors import DataError, SiteError
from cardionets_core.messages import MISSING_MEMORY, OR_NOTHING, SUMS, TaskHeader, Update
from cardionets_core.packing import Groups, fingerprint
from cardionets_core.privacy_config import PrivacyReport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cardionets_core.messages import Task
    from cardionets_core.packing import Arrays
    from cardionets_core.site_config import SiteConfig

LOCAL, CONTROL, RESIDUAL = "local", "control", "residual"
"""Kinds of what is remembered: tensors that never leave the site (of all stages so far), SCAFFOLD's
control variate, and what a codec left out of the last update (both of one stage)."""

GENERATIONS = 3
"""Generations of a run that are kept."""

RUNS = 5
"""Runs whose folders are kept, those that were written last."""

FORMAT = 1
ANSWER = "answer.sealed"
LOCK = "at-work.lock"
WRITING = ".writing"
"""Beginning of the names of files that are being written."""

LOOK_S = 0.2
"""Pause between two looks whether the other process is done."""

_DIGEST_LENGTH = 64

log = logging.getLogger("cardionets.site")


@dataclass(frozen=True)
class Memory:
    """What a site remembers of one run.

    Attributes:
        stage: the stage in which it was written.
        groups: kind -> part -> name -> array.
    """

    stage: str = ""
    groups: dict[str, Groups] = field(default_factory=dict)

    def entering(self, stage: str) -> Memory:
        """Return what is still of use in a stage; another stage's losses have other gradients."""
        kept = self.groups if stage == self.stage else {LOCAL: self.groups.get(LOCAL, {})}
        return Memory(stage, dict(kept))


class RunMemory:
    """The folder of one run below the site's cache.

    Args:
        runs: the folder of all runs.
        header: a task of the run.
    """

    def __init__(self, runs: Path, header: TaskHeader) -> None:
        # Hashed, because the name comes from outside and must not choose the path. The plan is in
        # the hash: another run under the same name begins with nothing. So does a private task
        # after tasks that were not: what those have left would travel with its update.
        private = "|private" if header.privacy is not None else ""
        self._run = _hash(f"{header.run}|{header.config_hash}{private}")
        self._folder = runs / self._run

    @property
    def folder(self) -> Path:
        """The run's folder; it is there while this process is `alone`."""
        return self._folder

    @contextmanager
    def alone(self, limit_s: float) -> Iterator[float]:
        """Be the only process that works on this run; yield the seconds waited for another one.

        The other one may be the orphan of a run that was stopped: Flower cannot call a task back.
        The lock is its process's and goes with it, however it ends.

        Args:
            limit_s: wait so long at most; 0 is no limit.

        Raises:
            SiteError: `budget`, when the other one was at work all that time.
            DataError: the folder cannot be written.
        """
        started = time.monotonic()
        with self._locked_file().open("ab") as file:
            while not _lock(file.fileno()):
                if 0 < limit_s <= time.monotonic() - started:
                    log.warning("another process of this site is at work on the same run")
                    raise SiteError("budget")
                time.sleep(LOOK_S)
            for left in self._folder.glob(f"{WRITING}*.tmp"):
                left.unlink(missing_ok=True)  # of a process that was killed: here we are alone
            yield time.monotonic() - started

    def read(self, generation: str) -> Memory:
        """Return a generation; of the empty name, an empty memory.

        Of a name with OR_NOTHING, only the personal tensors: control variate and residual belong to
        the last update, and those of the one before are of no use.

        Raises:
            SiteError: `missing_memory`, when it is not here or not whole.
        """
        if not generation:
            return Memory()
        if generation.endswith(OR_NOTHING):
            try:
                before = self.read(generation.removesuffix(OR_NOTHING))
            except SiteError:
                return Memory()
            return Memory(before.stage, {LOCAL: before.groups.get(LOCAL, {})})
        for path in reversed(self._files(generation)):
            found = _read(path)
            if found and found[0].get("run") == self._run and found[0]["name"] == generation:
                facts, tensors = found
                return Memory(facts["stage"], _nested(tensors))
        log.warning("what we remembered of %.80r is not here, or torn", generation)
        raise SiteError(MISSING_MEMORY)

    def write(self, header: TaskHeader, memory: Memory) -> None:
        """Write the generation of a task's round; keep the one that it came from, too.

        Raises:
            DataError: the disk is full or away.
        """
        name = f"{header.stage}/{header.round}"
        facts = {"run": self._run, "name": name, "stage": header.stage}
        before = self._files()
        order = 1 + max((_order(p) for p in before), default=0)
        path = self._folder / f"memory-{order:08d}-{_hash(name)}.sealed"
        self._write(path, facts, _flat(memory.groups))
        again = {p for p in before if p.name.endswith(f"{_hash(name)}.sealed")}
        base = header.memory.removesuffix(OR_NOTHING)
        needed = [path, *self._files(base)[-1:]] if base else [path]
        others = [p for p in before if p not in again and p not in needed]
        kept = {*needed, *others[len(others) - (GENERATIONS - len(needed)) :]}
        for old in set(before) - kept:
            old.unlink(missing_ok=True)

    def answer(self, mark: str, kind: str = "") -> Update | None:
        """Return the newest answer of a kind, if it answered the task of this mark (`task_mark`).

        Args:
            mark: of the task.
            kind: a private site keeps its answers to other tasks than training, too, each kind by
                itself: "" is training.
        """
        found = _read(self._folder / f"{kind}{ANSWER}")
        if found is None or found[0].get("mark") != mark:
            return None
        facts, tensors = found
        groups = _nested(tensors)
        header = facts["update"] | {"modalities": tuple(facts["update"]["modalities"])}
        if header.get("privacy"):
            header["privacy"] = PrivacyReport(**header["privacy"])
        sums = groups.get(SUMS, {}).get(SUMS, {})
        return Update(**header, delta=groups.get("delta", {}), sums=sums)

    def keep_answer(self, mark: str, update: Update, kind: str = "") -> None:
        """Keep an answer in place of the one before of its kind (see `answer`).

        Raises:
            DataError: the disk is full or away.
        """
        header = {k: v for k, v in vars(update).items() if k not in ("delta", "sums")}
        header["privacy"] = asdict(update.privacy) if update.privacy else None
        groups = {"delta": update.delta, SUMS: {SUMS: dict(update.sums)}}
        self._write(
            self._folder / f"{kind}{ANSWER}", {"mark": mark, "update": header}, _flat(groups)
        )

    def _files(self, generation: str = "") -> list[Path]:
        """Return the files of a generation, or of all, in the order in which they were written."""
        wanted = _hash(generation) if generation else "*"
        return sorted(self._folder.glob(f"memory-*-{wanted}.sealed"), key=_order)

    def _write(self, path: Path, facts: dict[str, Any], tensors: Arrays) -> None:
        line = json.dumps({"format": FORMAT, **facts}, allow_nan=False).encode()
        body = line + b"\n" + save_tensors(tensors)
        # A name of this process's own: two at the same run must not write into one file.
        temporary = path.with_name(f"{WRITING}-{os.getpid()}.tmp")
        try:
            self._make_folder()
            with temporary.open("wb") as file:
                file.write(hashlib.sha256(body).hexdigest().encode())
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            move_into_place(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)  # half a file must not fill a full disk
            raise self._not_written(error) from error

    def _locked_file(self) -> Path:
        try:
            self._make_folder()
            path = self._folder / LOCK
            path.touch(mode=0o600)
        except OSError as error:
            raise self._not_written(error) from error
        return path

    def _make_folder(self) -> None:
        if not self._folder.exists():
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            # What a site has learned for itself is for its own account only.
            self._folder.mkdir(mode=0o700, exist_ok=True)
            _drop_old_runs(self._folder.parent)

    def _not_written(self, error: OSError) -> DataError:
        return DataError(
            f"{self._folder} cannot be written: {error}. The site keeps there what it must "
            "remember of a run; make room, or mend the folder's rights."
        )


def remembers(header: TaskHeader) -> bool:
    """Return whether a training task leaves anything to remember; the server judges alike."""
    plan = header.train
    asks = plan is not None and (plan.codec != "float32" or plan.control != "none")
    return bool(header.local) or asks


def task_mark(task: Task, config: SiteConfig) -> str:
    """Return the SHA-256 of all that an answer depends on: task, site and its table of records.

    What only says how or how long to ask (the notice, the budget, which frozen parts travel) is
    left out, so that a repeated task has the mark of the first. Of a private task, so are the
    ledger heads that the coordinator knows, which move with every answer, and the table: a repeated
    question must not tell that a patient has joined since.
    """
    header = replace(task.header, notice=None)
    table = b""
    if header.privacy is not None:
        header = replace(header, privacy=replace(header.privacy, head="", heads={}))
    else:
        table = Path(config.data.manifest).read_bytes()
    if header.train is not None:
        header = replace(header, train=replace(header.train, budget_s=0.0))
    others = {g: fingerprint(a) for g, a in sorted(task.weights.items()) if g not in header.parts}
    words = (digest(header), json.dumps(others), digest(config), hashlib.sha256(table).hexdigest())
    return hashlib.sha256("|".join(words).encode()).hexdigest()


def answered_heads(runs: Path) -> frozenset[str]:
    """Return the ledger heads that the kept answers of all runs bear: a mirror on this disk.

    The first line of each file is enough: the weights behind it may be large.

    Args:
        runs: the folder of all runs.
    """
    said = [_first_line(path).get("update") or {} for path in runs.glob(f"*/*{ANSWER}")]
    return frozenset(update["privacy"]["head"] for update in said if update.get("privacy"))


def drop_private_answers(runs: Path) -> None:
    """Remove the kept answers of private runs, whose ledger was of patients who are made up."""
    for path in runs.glob(f"*/*{ANSWER}"):
        if (_first_line(path).get("update") or {}).get("privacy"):
            path.unlink(missing_ok=True)


def _first_line(path: Path) -> dict[str, Any]:
    """Return the facts of a file without its seal being checked; {} where they are torn."""
    try:
        with path.open("rb") as file:
            file.seek(_DIGEST_LENGTH)
            facts: dict[str, Any] = json.loads(file.readline())
    except (OSError, ValueError):
        return {}
    return facts


def _read(path: Path) -> tuple[dict[str, Any], Arrays] | None:
    """Return the facts and arrays of a file; None where it is away, torn, changed or foreign."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    seal, body = data[:_DIGEST_LENGTH], data[_DIGEST_LENGTH:]
    if hashlib.sha256(body).hexdigest().encode() != seal:
        return None
    line, _, tensors = body.partition(b"\n")
    facts: dict[str, Any] = json.loads(line)
    return (facts, load_tensors(tensors)) if facts["format"] == FORMAT else None


def _lock(descriptor: int) -> bool:
    """Take the lock and return True, or False where another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _drop_old_runs(runs: Path) -> None:
    folders = sorted((p for p in runs.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime_ns)
    for folder in folders[:-RUNS]:
        # Another process may be at the same; what stays is removed with the next run.
        shutil.rmtree(folder, ignore_errors=True)


def _flat(groups: dict[str, Groups]) -> Arrays:
    return {
        f"{kind}|{part}|{name}": np.asarray(array, order="C")
        for kind, parts in groups.items()
        for part, arrays in parts.items()
        for name, array in arrays.items()
    }


def _nested(tensors: Arrays) -> dict[str, Groups]:
    groups: dict[str, Groups] = {}
    for key, array in tensors.items():
        kind, part, name = key.split("|", 2)
        groups.setdefault(kind, {}).setdefault(part, {})[name] = array
    return groups


def _order(path: Path) -> int:
    return int(path.name.split("-")[1])


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]
