"""The parts of a report about the run itself: who took part, and what is needed to repeat it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cardionets_core.errors import SITE_ERROR_CODES, UPDATE_REFUSALS
from server.report.facts import STAGES, Facts
from server.report.page import (
    Block,
    Row,
    Section,
    Table,
    Text,
    counted,
    duration,
    listed,
    megabytes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MODALITIES = {
    "ecg": "ECG",
    "cine": "CMR cine",
    "pairs": "ECG-CMR pairs",
    "phenotypes": "CMR measurements",
    "diseases": "diagnoses",
}
"""What a site can offer -> the words for it, in the order of a table."""


PRIVACY = {
    "none": "none (no epsilon is claimed)",
    "patient": "at each hospital, for each patient with all of their records",
}
"""Mode of the plan -> the words for it."""


# ---------------------------------------------------------------------------------- the federation


def federation_section(facts: Facts) -> Section:
    """Return who took part and what each did."""
    columns = (
        "Hospital", "What it has", "Patients", "Train / validation / test", "Stages it served",
        "Received", "Sent",
    )  # fmt: skip
    table = Table(
        "Sizes are those of the messages. Each site splits its patients once, by patient.",
        columns,
        tuple(_site_row(facts, site) for site in facts.sites),
        words=True,
    )
    blocks: list[Block] = [table]
    quarantined = _quarantined(facts)
    if quarantined:
        blocks.append(Text(quarantined, tone="note"))
    refusals = _refusals(facts)
    if refusals:
        blocks.append(Text(refusals, tone="note"))
    return Section("federation", "The federation", tuple(blocks))


def _site_row(facts: Facts, name: str) -> Row:
    site = facts.summary["sites"][name]
    counts = site["counts"]
    # A private site declares one number of patients, and tells no other.
    told = [s for s in ("train", "validation", "test") if f"{s}_patients" in counts]
    splits = (f"{counts[f'{s}_patients']:,}" for s in told)
    served = [s["name"] for s in facts.summary["stages"] if name in s["sites"]]
    return Row(
        facts.title(name),
        (
            ", ".join(words for key, words in MODALITIES.items() if key in site["modalities"]),
            f"{counts.get('patients', 0):,}",
            " / ".join(splits) or "not told",
            ", ".join(STAGES[s][0] for s in served if s != "handshake"),
            megabytes(site["bytes_down"]),
            megabytes(site["bytes_up"]),
        ),
    )


def _quarantined(facts: Facts) -> str:
    """Say which sites set files aside."""
    counts = {n: s["counts"].get("quarantined", 0) for n, s in facts.summary["sites"].items()}
    told = [f"{facts.title(n)}: {counted(c, 'file')}" for n, c in sorted(counts.items()) if c]
    return f"Files that could not be used and were set aside: {listed(told)}." if told else ""


def _refusals(facts: Facts) -> str:
    """Say which sites sat rounds out, and why, as far as a coordinator may know it."""
    counts: dict[tuple[str, str, str], int] = {}
    for entry in facts.summary["rounds"]:
        for site, code in entry["refused"].items():
            key = (site, entry["stage"], code)
            counts[key] = counts.get(key, 0) + 1
    unused = {code: f"its answer was not used: {why}" for code, why in UPDATE_REFUSALS.items()}
    known = SITE_ERROR_CODES | unused
    told = [
        f"{facts.title(site)}, {STAGES[stage][0]}, {counted(count, 'round')}: "
        f"{known.get(code, code)}"
        for (site, stage, code), count in sorted(counts.items())
    ]
    return f"Sat out: {'; '.join(told)}." if told else ""


# --------------------------------------------------------------------------------------- run facts


def facts_section(facts: Facts, *, record: Path | None) -> Section:
    """Return what is needed to repeat the run and to use its model.

    Args:
        facts: the run.
        record: an ECG of a virtual patient to name in the command; None names a placeholder.
    """
    summary = facts.summary
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    rows = (
        Row("Status", (f"{summary['status']}, {duration(summary['seconds'])}",)),
        Row("Model preset", (summary["preset"],)),
        Row("Seed", (str(summary["seed"]),)),
        Row("Configuration", (f"SHA-256 {summary['config_hash']}",)),
        Row("Weights", (f"SHA-256 {summary['weights_sha256']}",)),
        Row("Strategy", (summary["strategy"]["name"],)),
        Row("Differential privacy", (PRIVACY[summary["privacy"]["mode"]],)),
        Row("Secure aggregation", (_secure(facts),)),
        Row("Began with", (_start(summary["start"]),)),
        Row("Versions", (versions,)),
        Row("Machine", (f"{summary['machine']['platform']}, {summary['machine']['cpus']} CPUs",)),
        Row(*_prediction(facts, record)),
    )
    return Section(
        "facts",
        "Run facts",
        (
            Table("What to quote, and what to run next.", ("Fact", "Value"), rows, words=True),
            _stage_table(facts),
        ),
    )


def _secure(facts: Facts) -> str:
    if facts.config.secure_aggregation.enabled:
        return "the coordinator saw sums of updates, and no hospital's own"
    return "none: the coordinator saw each hospital's update"


def _start(start: Mapping[str, Any]) -> str:
    if not start:
        return "random weights"
    virtual = ", of a run on virtual hearts in part" if start["virtual"] else ""
    return (
        f"{listed(start['parts'])} of the weights with SHA-256 {start['sha256']}{virtual}. "
        "What is said of privacy here does not cover who trained those."
    )


def _prediction(facts: Facts, record: Path | None) -> tuple[str, tuple[str]]:
    """Return the exact command that reads an ECG with this model, and from where it is typed.

    A simulation's is for its own machine; a coordinator's page goes to others, and names no place.
    """
    simulated = facts.simulated is not None
    place = _from_here(facts.folder / "checkpoint") if simulated else "checkpoint"
    hea = _from_here(record) if record else "RECORD.hea"
    words = ("cardionets", "predict", "--checkpoint", place, "--ecg", hea, "--out", "prediction")
    title = "Predict from an ECG"
    return title if simulated else f"{title}, in the run's folder", (shlex.join(words),)


def _from_here(path: Path) -> str:
    path, here = path.resolve(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _stage_table(facts: Facts) -> Table:
    def row(name: str, stages: Sequence[dict[str, Any]]) -> tuple[str, ...]:
        down, up = (sum(s[key] for s in stages) for key in ("bytes_down", "bytes_up"))
        rounds = sum(s["rounds"] for s in stages)
        seconds = sum(s["seconds"] for s in stages)
        return (name, str(rounds), duration(seconds), megabytes(down), megabytes(up))

    stages = facts.summary["stages"]
    rows = [Row(STAGES[s["name"]][0], row(STAGES[s["name"]][1], [s])) for s in stages]
    rows.append(Row("All", row("", stages), kind="total"))
    columns = ("Stage", "What the model learns", "Rounds", "Time", "To the sites", "From the sites")
    caption = (
        "Time is wall time of the stage's rounds; data preparation counts to the first of them."
    )
    return Table(caption, columns, tuple(rows), words=True)
