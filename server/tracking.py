"""The only door to MLflow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# Telemetry must be off before mlflow is imported; a hospital's server calls nobody.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

RUN_ID_FILE = "mlflow_run_id"


class Tracker:
    """Logs one run; made again after a restart, it goes on with the same MLflow run.

    Args:
        folder: the run's folder; its parent holds the SQLite file of the embedded default.
        tracking_uri: an MLflow server, or empty for the embedded default.
        experiment: MLflow experiment.
    """

    def __init__(
        self, folder: Path, *, tracking_uri: str = "", experiment: str = "cardionets"
    ) -> None:
        import mlflow

        self._client = mlflow.MlflowClient(tracking_uri or embedded_uri(folder))
        marker = folder / RUN_ID_FILE
        if marker.exists():
            self.run_id = marker.read_text().strip()
            self._client.update_run(self.run_id, status="RUNNING")
        else:
            # A tracking server keeps artifacts where it wants; the embedded one, beside the runs.
            place = None if tracking_uri else (folder.parent / "mlartifacts").resolve().as_uri()
            self.run_id = self._create(folder.name, experiment, place)
            marker.write_text(self.run_id)

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; a restarted run logs the same ones again."""
        from mlflow.entities import Param

        flat = [Param(k, str(v)[:500]) for k, v in flatten(values).items()]
        for start in range(0, len(flat), 100):
            self._client.log_batch(self.run_id, params=flat[start : start + 100])

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers under slashed names at a step (the run's count of rounds)."""
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [Metric(k, float(v), now, step) for k, v in values.items()]
        for start in range(0, len(batch), 1000):
            self._client.log_batch(self.run_id, metrics=batch[start : start + 1000])

    def artifact(self, path: Path) -> None:
        """Store a file or a folder with the run."""
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), path.name)
        else:
            self._client.log_artifact(self.run_id, str(path))

    def finish(self, status: str) -> None:
        """Close the run as FINISHED or FAILED."""
        self._client.set_terminated(self.run_id, status)

    def _create(self, name: str, experiment: str, place: str | None) -> str:
        found = self._client.get_experiment_by_name(experiment)
        experiment_id = (
            found.experiment_id
            if found
            else self._client.create_experiment(experiment, artifact_location=place)
        )
        run_id: str = self._client.create_run(experiment_id, run_name=name).info.run_id
        return run_id


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
