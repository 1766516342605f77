"""report.html: what a finished run found, on one page without any outside reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cardionets_core.checkpoint import read_info
from cardionets_core.errors import RunError
from server.plan_file import load_config
from server.report.facts import Facts, Simulated, headline, lead
from server.report.images import generation_section, retrieval_section
from server.report.page import render
from server.report.privacy import privacy_sections
from server.report.results import disease_section, phenotype_section
from server.report.run import facts_section, federation_section
from server.report.training import training_section
from server.summary import SCHEMA
from server.tracking import RUN_ID_FILE, Tracker, embedded_file

if TYPE_CHECKING:
    from server.report.page import Section

FILE_NAME = "report.html"

SUMMARY = "summary.json"

SIMULATED_SITES = "sites"
"""A simulation keeps its hospitals' YAML files there, in the run's folder."""


def read_facts(folder: Path, simulated: Simulated | None = None) -> Facts:
    """Read what the report is drawn from.

    Args:
        folder: of the run, with its summary.json, config.json and checkpoint.
        simulated: what a simulator knows beside it.

    Raises:
        RunError: there is no summary that can be read, or the run did not complete.
        CheckpointError: there is no plan, or the checkpoint cannot be read.
    """
    summary = _summary(folder)
    if summary["status"] != "COMPLETED":
        raise RunError(f"{folder} is {summary['status']}; only a finished run has a report.")
    info, config = read_info(folder / "checkpoint"), load_config(folder)
    return Facts(folder, summary, info, config, simulated)


def _summary(folder: Path) -> dict[str, Any]:
    path = folder / SUMMARY
    if not path.is_file():
        raise RunError(
            f"{folder} holds no summary.json; only a finished run has a report. Name a run's "
            "folder, outputs/RUN; `cardionets-coordinator status` shows how each run stands."
        )
    try:
        summary = json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{path} is torn ({error}); take it from a copy of the run.") from None
    if not isinstance(summary, dict) or summary.get("schema") != SCHEMA:
        raise RunError(
            f"{path} is not of schema {SCHEMA}; draw the report with the version of CardioNets "
            "that ran it."
        )
    return summary


def draw_report(
    facts: Facts, *, patients: Section | None = None, record: Path | None = None
) -> Path:
    """Write `report.html` into the folder of a finished run.

    Args:
        facts: the run.
        patients: a simulation's section of virtual patients; a coordinator has none to show.
        record: an ECG of one of them, for the command to try.
    """
    page = render(
        title=headline(facts),
        lead=lead(facts),
        sections=(
            federation_section(facts),
            *privacy_sections(facts),
            phenotype_section(facts),
            disease_section(facts),
            retrieval_section(facts),
            generation_section(facts),
            *([] if patients is None else [patients]),
            training_section(facts),
            facts_section(facts, record=record),
        ),
    )
    path = facts.folder / FILE_NAME
    temporary = facts.folder / f".{FILE_NAME}.tmp"
    temporary.touch(mode=0o600)
    temporary.write_text(page, encoding="utf-8")
    temporary.chmod((facts.folder / SUMMARY).stat().st_mode & 0o777)  # for whom the numbers are
    temporary.replace(path)
    return path


def draw_again(folder: Path) -> tuple[Path, bool]:
    """Draw the report of a coordinator's run once more.

    Args:
        folder: of the run; an older one is as good.

    Returns:
        The page, and whether MLflow has it, too, where it knows the run.

    Raises:
        RunError: the run did not complete, or was a simulation, or its summary cannot be read.
        CheckpointError: its plan or its checkpoint cannot be read.
    """
    if (folder / SIMULATED_SITES).is_dir():
        raise RunError(
            f"{folder} is a simulation's, whose report shows virtual patients that only the "
            f"simulator can read; remove {folder / FILE_NAME}, then: cardionets-simulate "
            f"resume={folder}"
        )
    facts = read_facts(folder)
    page = draw_report(facts)
    return page, log_report(facts, page)


def log_report(facts: Facts, page: Path) -> bool:
    """Store the page with the run's MLflow run; return False where MLflow did not take it in time.

    A run that was not tracked, or that was copied without MLflow's own file, is left alone.
    """
    settings = facts.config.mlflow
    known = settings.tracking_uri or embedded_file(facts.folder).is_file()
    if not known or not (facts.folder / RUN_ID_FILE).is_file():
        return True
    tracker = Tracker(
        facts.folder, tracking_uri=settings.tracking_uri, experiment=settings.experiment
    )
    tracker.artifact(page)
    return tracker.close()
