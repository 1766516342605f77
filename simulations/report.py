"""The report of a simulation: the coordinator's, with the hospitals' names and virtual patients."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cardionets_core.vocabulary import COHORT_DISCLAIMER
from server.report.draw import draw_report, log_report, read_facts
from server.report.facts import Simulated
from simulations.report_patients import patient_section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simulations.hospitals import Hospital


def write_report(folder: Path, hospitals: Sequence[Hospital]) -> Path:
    """Write `report.html` into the folder of a finished run and log it to the run's MLflow run.

    Args:
        folder: of the run, with its summary.json, config.json and checkpoint.
        hospitals: those that took part; patients of the virtual ones among them are shown.

    Raises:
        RunError: the run has no summary, or did not complete.
        CheckpointError: its checkpoint cannot be read.
    """
    computed = [h for h in hospitals if is_virtual(h)]
    facts = read_facts(
        folder,
        Simulated(
            titles={h.config.site: h.config.title for h in hospitals},
            virtual=frozenset(h.config.site for h in computed),
        ),
    )
    patients, record = patient_section(facts, computed)
    path = draw_report(facts, patients=patients, record=record)
    log_report(facts, path)
    return path


def is_virtual(hospital: Hospital) -> bool:
    """Return whether a hospital's patients are virtual hearts, by what stands beside its data."""
    readme = Path(hospital.config.data.root) / "README.txt"
    return readme.is_file() and COHORT_DISCLAIMER in readme.read_text("utf-8", errors="replace")
