"""report/index.html and report/report.json of a prepared site: they stay at the site.

The page has pictures of ECGs and hearts, but no id, no path and no date; the JSON has the numbers
alone. Both are functions of what the site holds: a second run changes nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cardionets_core.preparation.outcome import Outcome
from cardionets_core.preparation.report_cohort import cohort_facts
from cardionets_core.preparation.report_facts import GRADES, Facts
from cardionets_core.preparation.report_pictures import Examples, draw_examples
from cardionets_core.preparation.report_rows import page_rows

FOLDER, PAGE, NUMBERS = "report", "index.html", "report.json"
FORMAT = 1
"""Version of report.json."""

KEPT = (
    "patients",
    "studies",
    "pairs",
    "splits",
    "copies",
    "same_again",
    "patient_unknown",
    "contradicting_patients",
    "crowded_patients",
    "values_dropped",
    "age_unknown",
    "table",
    "others",
    "closed_folders",
)
"""What is taken from `PrepareSummary`: of the site and not of one run, and not counted here too."""


def write_report(
    out: Path,
    *,
    outcomes: Callable[[], Iterator[Outcome]],
    summary: Mapping[str, object],
    split: Callable[[str], str] | None = None,
) -> Path:
    """Write the report of a prepared site.

    Args:
        out: the prepared folder, with its manifest and its neutral files.
        outcomes: yields what became of every item; read once.
        summary: `PrepareSummary.as_mapping()`; keys that are not there are left out of the page.
        split: gives the split of a patient key, for counts per split.

    Returns:
        the page.
    """
    facts, examples = Facts(), Examples()
    for outcome in outcomes():
        facts.add(outcome)
        examples.add(outcome)
    numbers: dict[str, Any] = {
        "format": FORMAT,
        "summary": {name: summary[name] for name in KEPT if name in summary},
        **facts.as_json(),
        "cohort": cohort_facts(out, split),
    }
    folder = out / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    text = json.dumps(numbers, indent=1, allow_nan=False)
    _put(folder / NUMBERS, text + "\n")
    # drawn from what report.json says: the page can hold nothing that the file does not
    page = _render(json.loads(text), pictures=draw_examples(out, examples))
    _put(folder / PAGE, page)
    return folder / PAGE


def _render(numbers: dict[str, Any], **more: object) -> str:
    environment = Environment(
        loader=PackageLoader("cardionets_core"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["sentence"] = lambda text: str(text)[:1].upper() + str(text)[1:]
    page = environment.get_template("preparation.html.jinja")
    return page.render(numbers=numbers, grades=GRADES, **page_rows(numbers), **more)


def _put(path: Path, text: str) -> None:
    """Write a file for its owner only, in one step, and only where it changed."""
    data = text.encode()
    if path.is_file() and path.read_bytes() == data:
        return
    new = path.with_name(f".{path.name}.new")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
