"""The only door to MLflow, which may be away: what it misses waits, and training never does."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from cardionets_core.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# Telemetry must be off before mlflow is imported; a hospital's server calls nobody.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
# MLflow would try for minutes by itself; here what failed is tried again later.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

RUN_ID_FILE = "mlflow_run_id"
STATE_TAG = "cardionets.state"

RETRY_S = 15.0
"""Seconds until MLflow is tried again; every new entry tries it, too."""

CONNECT_S = 60.0
"""Seconds that a new run waits for the tracking server that its plan names."""

CLOSE_S = 60.0
"""Seconds that a run which has ended waits for MLflow to take the rest."""

MARK_S = 15.0
"""Seconds for MLflow to take the state of a run that has lost its server."""

STATUSES = {
    "QUEUED": "SCHEDULED",
    "RUNNING": "RUNNING",
    "WAITING": "RUNNING",
    "COMPLETED": "FINISHED",
    "INCOMPLETE": "FAILED",
    "FAILED": "FAILED",
}
"""Our state -> MLflow's own; a run that was stopped or has lost its server is KILLED."""

KILLED = ("FAILED(stopped)", "FAILED(server_gone)")
AWAY = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
"""MLflow's codes for `try again later`; any other is a refusal that stays one."""

Entry = Callable[[], None]
log = logging.getLogger("cardionets.server")


class Tracker:
    """Logs one run from a thread of its own; made again after a restart, it goes on with it.

    Args:
        folder: the run's folder; its parent holds the SQLite file of the embedded default.
        tracking_uri: an MLflow server, or empty for the embedded default.
        experiment: MLflow experiment.
        behind: told in words what MLflow lacks when it is away, and "" when it has caught up.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tracking_uri: str = "",
        experiment: str = "cardionets",
        behind: Callable[[str], None] = lambda words: None,
    ) -> None:
        self._folder, self._uri, self._experiment = folder, tracking_uri, experiment
        self._behind = behind
        self._client: Any = None
        self.run_id = ""
        self._entries: deque[Entry] = deque([self._connect])
        self._changed = threading.Condition()
        self._give_up_at: float | None = None  # set by `close`
        self._trouble = ""
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def require(self, seconds: float = CONNECT_S) -> None:
        """Wait until MLflow knows the run: a wrong address is best found before the first round.

        Raises:
            EngineError: it does not answer.
        """
        with self._changed:
            self._changed.wait_for(lambda: bool(self.run_id or self._trouble), seconds)
            if not self.run_id:
                raise EngineError(
                    f"MLflow at {self._uri or embedded_uri(self._folder)} cannot be used "
                    f"({self._trouble or 'no answer'}); start it, or correct mlflow.tracking_uri."
                )

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; a restarted run logs the same ones again."""
        flat = list(flatten(values).items())
        for start in range(0, len(flat), 100):
            self._add(partial(self._log_params, flat[start : start + 100]))

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers under slashed names at a step (the run's count of rounds)."""
        now = int(time.time() * 1000)
        items = [(k, float(v)) for k, v in values.items()]
        for start in range(0, len(items), 1000):
            self._add(partial(self._log_metrics, items[start : start + 1000], now, step))

    def artifact(self, path: Path) -> None:
        """Store a file or a folder with the run."""
        self._add(partial(self._log_artifact, path))

    def state(self, words: str) -> None:
        """Say how the run stands: `RUNNING`, `WAITING(hill)`, `FAILED(config)` ..."""
        self._add(partial(self._set_state, words))

    def close(self, seconds: float = CLOSE_S) -> bool:
        """Wait for MLflow to take what is left; return whether it has everything."""
        with self._changed:
            self._give_up_at = time.monotonic() + seconds
            self._changed.notify_all()
        self._thread.join(seconds)
        return not self._entries

    def _add(self, entry: Entry) -> None:
        with self._changed:
            self._entries.append(entry)
            self._changed.notify_all()

    def _work(self) -> None:
        """Log entry after entry, in order; stay with one until MLflow has taken or refused it."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._entries or self._give_up_at is not None)
                if not self._entries:
                    return
                entry = self._entries[0]
            try:
                entry()
            except Exception as error:
                if not _refused(error):
                    if self._wait(error):
                        continue
                    return
                log.warning("MLflow refused an entry: %s", _first_line(error))
            with self._changed:
                self._entries.popleft()
                self._changed.notify_all()
            self._note("")

    def _wait(self, error: Exception) -> bool:
        """Say that MLflow is away and wait; return False when waiting is over for good."""
        with self._changed:
            lacking = len(self._entries)
            waiting = "1 entry waits" if lacking == 1 else f"{lacking} entries wait"
            self._note(f"MLflow is away ({_first_line(error)}); {waiting} for it")
            self._changed.notify_all()
            if self._give_up_at is None:
                self._changed.wait(RETRY_S)
                return True
            time.sleep(min(1.0, RETRY_S))
            return time.monotonic() < self._give_up_at

    def _note(self, words: str) -> None:
        if bool(words) != bool(self._trouble):
            log.warning(words or "MLflow has caught up")
            self._behind(words)
        self._trouble = words

    def _connect(self) -> None:
        import mlflow

        client = mlflow.MlflowClient(self._uri or embedded_uri(self._folder))
        marker = self._folder / RUN_ID_FILE
        if marker.exists():
            run_id = marker.read_text().strip()
            client.get_run(
                run_id
            )  # an empty tracking server is told apart here, not at every entry
        else:
            # A tracking server keeps artifacts where it wants; the embedded one, beside the runs.
            place = (self._folder.parent / "mlartifacts").resolve().as_uri()
            run_id = self._create(client, None if self._uri else place)
            marker.write_text(run_id)
        self._client, self.run_id = client, run_id

    def _create(self, client: Any, place: str | None) -> str:
        found = client.get_experiment_by_name(self._experiment)
        experiment_id = (
            found.experiment_id
            if found
            else client.create_experiment(self._experiment, artifact_location=place)
        )
        return str(client.create_run(experiment_id, run_name=self._folder.name).info.run_id)

    def _log_params(self, values: Sequence[tuple[str, Any]]) -> None:
        from mlflow.entities import Param

        params = [Param(key, str(value)[:500]) for key, value in values]
        self._client.log_batch(self.run_id, params=params)

    def _log_metrics(self, values: Sequence[tuple[str, float]], now: int, step: int) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(key, value, now, step) for key, value in values]
        self._client.log_batch(self.run_id, metrics=metrics)

    def _log_artifact(self, path: Path) -> None:
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), path.name)
        elif path.is_file():
            self._client.log_artifact(self.run_id, str(path))

    def _set_state(self, words: str) -> None:
        self._client.set_tag(self.run_id, STATE_TAG, words)
        state = words.partition("(")[0]
        status = "KILLED" if words in KILLED else STATUSES[state]
        if state in ("COMPLETED", "INCOMPLETE", "FAILED"):
            self._client.set_terminated(self.run_id, status)
        else:
            self._client.update_run(self.run_id, status=status)


def mark_state(folder: Path, words: str, *, tracking_uri: str, experiment: str) -> None:
    """Tell MLflow how a run stands that has no server any more; a run it never knew is left."""
    if not (folder / RUN_ID_FILE).is_file():
        return
    tracker = Tracker(folder, tracking_uri=tracking_uri, experiment=experiment)
    tracker.state(words)
    tracker.close(MARK_S)


def _refused(error: Exception) -> bool:
    """Return whether MLflow refused for good; of anything else we do not know, so it is tried."""
    code = getattr(error, "error_code", "")
    return bool(code) and code not in AWAY


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def embedded_uri(folder: Path) -> str:
    """Return the SQLite address that all runs beside `folder` share."""
    return f"sqlite:///{folder.parent.resolve() / 'mlflow.db'}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
