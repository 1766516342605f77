"""What docs/privacy.md says leaves a private site, read from its tables and lists."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "docs" / "privacy.md").read_text("utf-8")


def section(title):
    """Return the text under a heading."""
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def listed(title="What leaves"):
    """Return (answer, item) of the table of open answers."""
    rows = [line.split("|")[1:3] for line in section(title).splitlines() if line.startswith("| `")]
    pairs = _pairs((actions, items) for items, actions in rows)
    return {(action, item) for action, item in pairs if item != "code"}


def listed_under_secure_sums():
    """Return (question, item) of the table of secure sums, whose first column is the question."""
    rows = [
        line.split("|")[1:3]
        for line in section("What leaves").splitlines()
        if re.match(r"\| [a-z, ]+ \| `", line)
    ]
    return _pairs(rows)


def codes():
    """Return code -> the words that say what decides it."""
    lines = re.findall(r"^- (`[^(]+) \(([^)]+)\):", section("What leaves"), re.MULTILINE)
    return {
        code: set(words.split(", "))
        for names, words in lines
        for code in re.findall(r"`(\w+)`", names)
    }


def _pairs(rows):
    return {
        (answer.strip(), item)
        for answers, items in rows
        for item in re.findall(r"`([^`]+)`", items)
        for answer in answers.split(",")
    }
