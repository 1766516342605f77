"""What a run says while it runs: one JSON line per round, and the same numbers to MLflow."""

from __future__ import annotations

import json
import os
import time
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from cardionets_core.config_tree import to_mapping
from server.status import words
from server.status_file import StatusFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from cardionets_core.run_config import RunConfig
    from server.status_file import Status
    from server.tracking import Tracker

FILE_NAME = "progress.jsonl"

INTERRUPTED_S = 3.0
"""Seconds for MLflow when this process was told to end; Flower forces its end after 5."""

_ROUNDS = {"handshake": 1, "evaluate": 2}
ARTIFACTS = ("config.json", "summary.json", "model_card.md", "report.html", "checkpoint")
"""What MLflow gets of a run that has ended, as far as it is there."""

_ROUND_KEYS = {"stage", "round"}
"""What tells one round's record from another's."""


class Progress:
    """Tells of a run while it runs: `progress.jsonl`, `status.json` and MLflow say the same.

    Args:
        folder: the run's.
        flower_run: Flower's number of the run.
    """

    def __init__(self, folder: Path, flower_run: int = 0) -> None:
        self._folder = folder
        self._tracker: Tracker | None = None
        self._steps: dict[str, int] = {}
        self._status = StatusFile(folder, flower_run)
        self._over = False

    @contextmanager
    def tracking(self, config: RunConfig) -> Iterator[None]:
        """Log to MLflow while the body runs."""
        from server.tracking import Tracker

        tracker = Tracker(
            self._folder,
            tracking_uri=config.mlflow.tracking_uri,
            experiment=config.mlflow.experiment,
            behind=lambda words: self._status.write(tracking=words),
        )
        self._tracker, self._steps = tracker, first_steps(config)
        tracker.state("RUNNING")
        tracker.params(to_mapping(config))
        try:
            yield
        except BaseException as error:
            if interrupts(error) and not self._over:
                self.interrupted()
                tracker.state("FAILED(server_gone)")
            raise
        finally:
            self._tracker = None
            tracker.close(INTERRUPTED_S)

    def require_tracking(self, config: RunConfig) -> None:
        """Check the tracking server that the plan of a new run names, before its first round.

        Raises:
            EngineError: it cannot be used.
        """
        new = not (self._folder / "checkpoint").exists()
        if self._tracker is not None and config.mlflow.tracking_uri and new:
            self._tracker.require()

    def round(self, record: dict[str, Any]) -> None:
        """Tell of a finished round."""
        self._write({"event": "round", **record})
        place = {key: record[key] for key in ("stage", "round", "rounds")}
        if record["stage"] == "handshake" and self._status.now.stage:
            place = {}  # of a run that was resumed: it stands where it stood
        self._status.write(state="RUNNING", sites=(), **place)
        if self._tracker is not None:
            step = self._steps[record["stage"]] + record["round"]
            self._tracker.metrics(_numbers(record), step)

    def waiting(self, sites: Iterable[str]) -> None:
        """Tell whom the run waits for; nobody: it goes on."""
        names = tuple(sorted(sites))
        state = "WAITING" if names else "RUNNING"
        if (state, names) == (self._status.now.state, self._status.now.sites):
            return
        self._write({"event": state.lower(), "state": state, "sites": list(names)})
        self._status.write(state=state, sites=names)
        if self._tracker is not None:
            self._tracker.state(f"WAITING({', '.join(names)})" if names else "RUNNING")

    def results(self, metrics: dict[str, Any]) -> None:
        """Log the pooled results of the evaluate stage to MLflow."""
        if self._tracker is not None:
            step = self._steps.get("evaluate", 0) + _ROUNDS["evaluate"]
            self._tracker.metrics(_results(metrics.get("pooled", {})), step)

    def end(self, final: Status) -> None:
        """Tell how the run ended, once, and then let MLflow catch up.

        MLflow may be away for a while: a server that is killed meanwhile must have said already
        that nothing is left to do.
        """
        if self._over:
            return
        entry: dict[str, Any] = {"event": final.state.lower(), "state": final.state}
        if final.state == "INCOMPLETE":
            entry["sites"] = list(final.sites)
        if final.state == "FAILED":
            entry["code"] = final.code
        if final.reason:
            entry["reason"] = final.reason
        self._over = True
        self._write(entry)
        self._status.end(final)
        try:
            self._finish_tracking(final)
        finally:
            self._status.close()

    def _finish_tracking(self, final: Status) -> None:
        """Give MLflow what the run leaves; what it lacks then is written into the status."""
        if self._tracker is None:
            return
        for name in ARTIFACTS:
            self._tracker.artifact(self._folder / name)
        self._tracker.state(words(final))
        if not self._tracker.close() and not self._status.now.tracking:
            self._status.write(tracking="MLflow did not take everything in time")

    def interrupted(self) -> None:
        """Tell that this server was made to end before its run; another may go on with it."""
        if not self._over:
            self._over = True
            self._status.write(interrupted=True)
            self._status.close()
            self._write({"event": "interrupted"})

    def _write(self, entry: dict[str, Any]) -> None:
        line = json.dumps({"time": round(time.time(), 3), **entry}) + "\n"
        with (self._folder / FILE_NAME).open("a+b") as file:
            if file.tell() and _last_byte(file) != b"\n":
                line = "\n" + line  # a crash tore the line before
            file.write(line.encode())


def _last_byte(file: IO[bytes]) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def interrupts(error: BaseException) -> bool:
    """Return whether an error ends this server and not its run, which another may go on with.

    Ctrl-C and the end that Flower asks for by a signal are such, and that Flower gave its run up.
    """
    from cardionets_core.flower_compat import engine_lost  # Flower: not for whoever only reads

    return not isinstance(error, Exception) or engine_lost(error)


def read_progress(folder: Path) -> list[dict[str, Any]]:
    """Return the entries so far; a line that is still being written is left for next time.

    So is, for good, a line that a crash has torn: the checkpoint knows what was done.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return []
    lines = path.read_text(errors="replace").split("\n")[:-1]
    return [entry for line in lines if (entry := _entry(line)) is not None]


def _entry(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    if not isinstance(entry, dict) or "event" not in entry:
        return None
    return entry if entry["event"] != "round" or entry.keys() >= _ROUND_KEYS else None


def first_steps(config: RunConfig) -> dict[str, int]:
    """Return how many rounds of the plan come before each stage.

    So a round has the same step in MLflow however often the run was stopped and resumed.
    """
    steps: dict[str, int] = {}
    done = 0
    for name in config.stages:
        steps[name] = done
        done += config.stage[name].rounds if name in config.stage else _ROUNDS[name]
    return steps


def _numbers(record: dict[str, Any]) -> dict[str, float]:
    """Return a round's record as flat MLflow metrics."""
    stage = record["stage"]
    numbers = {f"{stage}/{k}": v for k, v in record["metrics"].items()}
    numbers[f"{stage}/seconds"] = record["seconds"]
    for site, report in record.get("privacy", {}).items():
        numbers[f"privacy/{site}/epsilon"] = report["epsilon"]
    for site, metrics in record["site_metrics"].items():
        numbers |= {f"{stage}/{site}/{k}": v for k, v in metrics.items()}
    for key in ("bytes_up", "bytes_down", "num_examples"):
        numbers |= {f"{stage}/{site}/{key}": v for site, v in record[key].items()}
    return numbers


def _results(pooled: dict[str, Any], prefix: str = "evaluate/pooled") -> dict[str, float]:
    """Return every point estimate of the pooled results under slashed names."""
    numbers: dict[str, float] = {}
    for key, value in pooled.items():
        if isinstance(value, dict):
            numbers |= _results(value, f"{prefix}/{key}")
        elif isinstance(value, (int, float)) and key not in ("low", "high"):
            numbers[prefix if key == "value" else f"{prefix}/{key}"] = float(value)
    return numbers
