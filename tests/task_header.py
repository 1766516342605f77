"""The header of a task, for tests to which most of its fields do not matter."""

from __future__ import annotations

from typing import Any

from cardionets_core.messages import TaskHeader, TrainPlan
from cardionets_core.model_config import ModelConfig


def task_header(**fields: Any) -> TaskHeader:
    """Return a header of round 1 of training in stage `ecg_masked` with `fields` set.

    Args:
        fields: of TaskHeader; those that are not given are those below and TaskHeader's own.
    """
    header: dict[str, Any] = {
        "run": "run-1",
        "config_hash": "",
        "stage": "ecg_masked",
        "action": "train",
        "round": 1,
        "seed": 1,
        "threads": 1,
        "model": ModelConfig(),
        "phenotypes": (),
        "diseases": (),
    }
    return TaskHeader(**(header | fields))


def brief_plan(**fields: Any) -> TrainPlan:
    """Return a plan of one step over 32 studies with `fields` set."""
    plan: dict[str, Any] = {
        "local_epochs": 1,
        "batch_size": 32,
        "lr": 1e-3,
        "weight_decay": 0.0,
        "clip_norm": 1.0,
        "max_steps": 1,
        "progress": 0.0,
    }
    return TrainPlan(**(plan | fields))
