"""docs/wire_protocol.md says that what is not listed is not sent: so all that is sent is listed."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from cardionets_core.errors import SITE_ERROR_CODES, UPDATE_REFUSALS
from cardionets_core.messages import Notice, TaskHeader, TrainPlan, Update
from cardionets_core.privacy_config import PrivateTask

PAGE = (Path(__file__).parents[2] / "docs" / "wire_protocol.md").read_text("utf-8")


def section(title):
    """Return the text under a heading."""
    return re.split(r"^## ", PAGE.split(f"\n## {title}", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def in_tables(text):
    """Return the words in backticks that stand in rows of tables."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return {word for row in rows for word in re.findall(r"`([^`]+)`", row)}


@pytest.mark.parametrize(
    ("title", "kinds"),
    [
        ("Server to site: a task", (TaskHeader, TrainPlan, Notice, PrivateTask)),
        ("Site to server: an update", (Update,)),
    ],
)
def test_every_field_is_listed(title, kinds):
    sent = {field.name for kind in kinds for field in fields(kind)}
    assert sorted(sent - in_tables(section(title))) == []


def test_every_refusal_of_a_site_is_listed():
    listed = {row.split("`")[1] for row in section("Site to server: a refusal").splitlines()
              if row.startswith("| `")} - {"code"}  # fmt: skip
    assert listed == set(SITE_ERROR_CODES)


def test_every_reason_not_to_use_an_update_is_named():
    text = section("What the server checks before an update counts")
    assert sorted(code for code in UPDATE_REFUSALS if f"`{code}`" not in text) == []
