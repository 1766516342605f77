"""The mark of a task at its site: equal where the answer given before is the right one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cardionets_core.messages import Notice, Task, TrainPlan
from cardionets_core.site_config import SiteConfig, SiteData
from client.memory import task_mark
from tests.task_header import task_header

PLAN = TrainPlan(1, 8, 1e-3, 0.0, 0.0, max_steps=0, progress=0.0)


def a_header(**changes):
    header = task_header(
        config_hash="c", stage="contrastive", parts={"ecg_encoder": "1" * 64}, train=PLAN
    )
    return replace(header, **changes)


@pytest.fixture
def config(tmp_path):
    (tmp_path / "manifest.csv").write_text("patient_id\nP1\n")
    return SiteConfig(
        "hillcrest", SiteData(str(tmp_path), str(tmp_path / "manifest.csv"), "c", salt="s")
    )


@pytest.mark.parametrize(
    "change",
    [
        {"notice": Notice("contrastive", 1, "late")},
        {"train": replace(PLAN, budget_s=30.0)},
    ],
)
def test_a_repeated_task_has_the_mark_of_the_first(config, change):
    assert task_mark(Task(a_header(**change)), config) == task_mark(Task(a_header()), config)


def test_a_frozen_part_that_travels_again_does_not_change_the_mark(config):
    sent = {"ecg_encoder": {"w": np.ones(3)}}
    assert task_mark(Task(a_header(), sent), config) == task_mark(Task(a_header()), config)


def test_what_an_answer_depends_on_changes_the_mark(config):
    marks = {
        task_mark(Task(a_header()), config),
        task_mark(Task(a_header(round=2)), config),
        task_mark(Task(a_header(memory="contrastive/1")), config),
        task_mark(Task(a_header(parts={"ecg_encoder": "2" * 64})), config),
        task_mark(Task(a_header(train=replace(PLAN, lr=1.0))), config),
        task_mark(Task(a_header(), {"control.p": {"w": np.ones(3)}}), config),
        task_mark(Task(a_header(), {"control.p": {"w": np.zeros(3)}}), config),
        task_mark(Task(a_header()), replace(config, device="cpu")),
    }
    assert len(marks) == 8
    Path(config.data.manifest).write_text("patient_id\nP1\nP2\n")
    assert task_mark(Task(a_header()), config) not in marks
