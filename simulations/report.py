"""report.html: what a finished run found, on one page without any outside reference."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cardionets_core.checkpoint import read_info
from cardionets_core.errors import RunError
from server.server_app import load_config
from server.tracking import RUN_ID_FILE, Tracker
from simulations.report_facts import Facts, headline, lead
from simulations.report_images import generation_section, retrieval_section
from simulations.report_page import render
from simulations.report_patients import patient_section
from simulations.report_privacy import privacy_sections
from simulations.report_results import disease_section, phenotype_section
from simulations.report_run import facts_section, federation_section
from simulations.report_training import training_section

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from simulations.hospitals import Hospital

FILE_NAME = "report.html"


def write_report(folder: Path, hospitals: Sequence[Hospital]) -> Path:
    """Write `report.html` into the folder of a finished run and log it to the run's MLflow run.

    Args:
        folder: of the run, with its summary.json, config.json and checkpoint.
        hospitals: those that took part; patients of the virtual ones among them are shown.

    Raises:
        RunError: the run has no summary, or did not complete.
        CheckpointError: its checkpoint cannot be read.
    """
    facts = read_facts(folder, hospitals)
    patients, record = patient_section(facts)
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
            patients,
            training_section(facts),
            facts_section(facts, record=record),
        ),
    )
    path = folder / FILE_NAME
    temporary = folder / f".{FILE_NAME}.tmp"
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)
    _log(folder, path)
    return path


def read_facts(folder: Path, hospitals: Sequence[Hospital]) -> Facts:
    """Read what the report is drawn from.

    Raises:
        RunError: there is no summary, or no plan.
        CheckpointError: the checkpoint cannot be read.
    """
    path = folder / "summary.json"
    if not path.is_file():
        raise RunError(f"{folder} holds no summary.json; only a finished run has a report.")
    summary = json.loads(path.read_text())
    if summary["status"] != "COMPLETED":
        raise RunError(f"{folder} is {summary['status']}; only a finished run has a report.")
    info, config = read_info(folder / "checkpoint"), load_config(folder)
    return Facts(folder, summary, info, tuple(hospitals), config)


def _log(folder: Path, page: Path) -> None:
    """Store the page with the run's MLflow run; a run that was not tracked is left alone."""
    if not (folder / RUN_ID_FILE).is_file():
        return
    settings = load_config(folder).mlflow
    tracker = Tracker(folder, tracking_uri=settings.tracking_uri, experiment=settings.experiment)
    tracker.artifact(page)
    tracker.close()
