"""What a data manager should look at first, in sentences; and how pages write shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cardionets_core.preparation.studies import MOST_OF_A_PATIENT
from cardionets_core.quality.grades import USUAL_RANGE_MV
from cardionets_core.vocabulary import PHENOTYPE_BY_NAME

NB = "\N{NO-BREAK SPACE}"
DASH = "\N{EN DASH}"


def remarks(numbers: Mapping[str, Any]) -> list[str]:
    """Return what a data manager should look at first, the heaviest first; [] where nothing."""
    return [*_about_people(numbers), *_about_signals(numbers), *_about_labels(numbers)]


def _about_people(numbers: Mapping[str, Any]) -> list[str]:
    summary, cohort = numbers["summary"], numbers["cohort"]
    copies = summary.get("copies") or {}
    found = []
    if not cohort["persons"]:
        found.append("No recording can be used: see what was refused and why.")
    if copies.get("across_splits"):
        found.append(
            f"{copies['across_splits']:,} recordings stand under persons of different splits: "
            "a test case would be trained on. Give one person one id, or remove the copies."
        )
    if copies.get("across_patients"):
        found.append(
            f"{copies['across_patients']:,} recordings stand under more than one person: one of "
            "the ids is wrong, or an export was merged twice."
        )
    if summary.get("patient_unknown"):
        found.append(
            f"Of {summary['patient_unknown']:,} recordings no source says whose they are; each "
            "counts as a person of its own. If they have a table, give it with --table."
        )
    found += _about_ids(summary)
    unknown = cohort["people"]["sex"]["unknown"]
    if cohort["persons"] and unknown > 0.5 * cohort["persons"]:
        found.append(f"Sex is unknown for {share(unknown, cohort['persons'])} of the persons.")
    return found


def _about_ids(summary: Mapping[str, Any]) -> list[str]:
    found = []
    if several := summary.get("contradicting_patients"):
        found.append(
            f"{several:,} patient ids stand for persons of both sexes: look for an id that many "
            "share (a ward, a device, a word for an unknown patient) and for wrong entries."
        )
    if many := summary.get("crowded_patients"):
        found.append(
            f"{many:,} patient ids have more than {MOST_OF_A_PATIENT} ECGs or CMRs: one id may "
            "stand for many persons, and their ECGs and CMRs were not paired."
        )
    return found


def _about_signals(numbers: Mapping[str, Any]) -> list[str]:
    ecg, found = numbers["ecg"], []
    voltage = ecg["histograms"]["typical_mv"]
    low, high = USUAL_RANGE_MV
    if ecg["graded"] and ecg["gain_suspect"] > 0.5 * ecg["graded"]:
        found.append(
            f"Most ECGs have a voltage outside of {low:g} to {high:g} mV (mean "
            f"{figure(voltage['mean'])} mV): the gain or the unit of the export is wrong."
        )
    elif ecg["gain_suspect"] > 0.02 * ecg["graded"]:
        found.append(
            f"{ecg['gain_suspect']:,} ECGs have an unusual voltage: part of the archive may have "
            "another gain."
        )
    for lead, grades in ecg["leads"].items():
        whole = sum(grades.values())
        if whole and grades["flat"] + grades["missing"] > 0.5 * whole:
            found.append(f"Lead {lead} is flat or missing in most ECGs.")
    poor = ecg["counted"]["overall"].get("poor", 0)
    if ecg["graded"] and poor > 0.1 * ecg["graded"]:
        found.append(f"{share(poor, ecg['graded'])} of the ECGs are poor.")
    return found


def _about_labels(numbers: Mapping[str, Any]) -> list[str]:
    found = []
    for name, histogram in numbers["cohort"]["phenotypes"].items():
        if histogram["outside_usual"] > 0.2 * histogram["n"]:
            part = share(histogram["outside_usual"], histogram["n"])
            found.append(
                f"{PHENOTYPE_BY_NAME[name].title}: {part} of the values are not believed; check "
                f"the unit ({histogram['unit']}) and the column."
            )
    if numbers["cohort"]["persons"] and not numbers["cohort"]["diseases"]:
        found.append("No disease is known of anyone: this site cannot serve that stage.")
    return found


def share(part: int, whole: int) -> str:
    """Return a share in percent, with decimals only where they say something."""
    if not whole:
        return DASH
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return f"<0.1{NB}%"
    digits = 1 if 0 < percent < 10 and part != whole else 0
    return f"{percent:.{digits}f}{NB}%"


def figure(value: float | None) -> str:
    """Return a number to three or so digits."""
    if value is None:
        return DASH
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")
