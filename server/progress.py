"""What a run says while it runs: one JSON line per round, and the same numbers to MLflow."""

from __future__ import annotations

import json
import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cardionets_core.config_tree import to_mapping

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cardionets_core.errors import CardioNetsError
    from cardionets_core.run_config import RunConfig
    from server.tracking import Tracker

FILE_NAME = "progress.jsonl"
log = logging.getLogger("cardionets.server")

_ROUNDS = {"handshake": 1, "evaluate": 2}


class Progress:
    """Appends to `progress.jsonl` of the run folder; the last line says how the run stands."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tracker: Tracker | None = None
        self._steps: dict[str, int] = {}

    @contextmanager
    def tracking(self, config: RunConfig) -> Iterator[None]:
        """Log to MLflow while the body runs, and close the MLflow run as it ended."""
        from server.tracking import Tracker

        tracker = Tracker(
            self._folder,
            tracking_uri=config.mlflow.tracking_uri,
            experiment=config.mlflow.experiment,
        )
        self._tracker, self._steps = tracker, first_steps(config)
        tracker.params(to_mapping(config))
        try:
            yield
        except BaseException:
            tracker.finish("FAILED")
            raise
        for name in ("config.json", "summary.json", "model_card.md", "checkpoint"):
            tracker.artifact(self._folder / name)
        tracker.finish("FINISHED")

    def round(self, record: dict[str, Any]) -> None:
        """Tell of a finished round."""
        self._write({"event": "round", **record})
        if self._tracker is not None:
            step = self._steps[record["stage"]] + record["round"]
            self._tracker.metrics(_numbers(record), step)

    def results(self, metrics: dict[str, Any]) -> None:
        """Log the pooled results of the evaluate stage to MLflow."""
        if self._tracker is not None:
            step = self._steps.get("evaluate", 0) + _ROUNDS["evaluate"]
            self._tracker.metrics(_results(metrics.get("pooled", {})), step)

    def completed(self) -> None:
        """Tell that the run is complete."""
        self._write({"event": "completed"})

    def failed(self, known: CardioNetsError | None, error: BaseException) -> None:
        """Tell that the run failed; an unknown error's text goes to the log only."""
        log.exception("the run failed", exc_info=error)
        reason = str(known) if known else f"{type(error).__name__} (see the server log)"
        self._write({"event": "failed", "reason": reason})

    def _write(self, entry: dict[str, Any]) -> None:
        with (self._folder / FILE_NAME).open("a") as file:
            file.write(json.dumps({"time": round(time.time(), 3), **entry}) + "\n")


def read_progress(folder: Path) -> list[dict[str, Any]]:
    """Return the entries so far; a line that is still being written is left for next time."""
    path = folder / FILE_NAME
    if not path.exists():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]


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
