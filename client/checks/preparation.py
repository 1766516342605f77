"""What `cardionets prepare` said about a prepared site: its report.json, in short."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from client.checks.findings import Finding, RefusedFiles, warning

REPORT = "report/report.json"
"""Below the prepared folder; cardionets_core/preparation/report.py writes it."""

FORMAT = 1

MOST = 0.5
"""Share of the recordings above which one cause probably stands behind all of them."""

LARGEST_BYTES = 64_000_000


def read_report(prepared: Path) -> tuple[Mapping[str, Any], list[Finding]]:
    """Return the numbers of the report, empty where there are none, and what is wrong with it."""
    path = prepared / REPORT
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise ValueError("no report is that large")
        numbers = json.loads(path.read_text("utf-8"))
        if numbers["format"] != FORMAT:
            raise ValueError("another format")
        _counts(numbers)
    except FileNotFoundError:
        return {}, [_unread("report_missing", "has no report", "The preparation did not end.")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        cause = "Another version wrote it, or it was changed or torn."
        return {}, [_unread("report_unreadable", "has a report that cannot be read", cause)]
    return numbers, []


def _unread(code: str, what: str, cause: str) -> Finding:
    return warning(
        "data",
        code,
        f"The prepared folder {what}.",
        cause=cause,
        next_step="Run `cardionets prepare` again; it goes on where it stopped.",
    )


def _counts(numbers: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many recordings were looked at, and how many of them were refused."""
    readers = [dict(r) for r in numbers["readers"].values()]
    return (
        sum(int(n) for reader in readers for n in reader.values()),
        sum(int(reader.get("refused", 0)) for reader in readers),
    )


def refused_recordings(numbers: Mapping[str, Any]) -> tuple[RefusedFiles, ...]:
    """Return what was refused while preparing, by reason, most frequent first."""
    return tuple(
        RefusedFiles(str(r["code"]), int(r["count"]), str(r["cause"]), str(r["step"]))
        for r in numbers.get("refused", ())
    )


def check_preparation(numbers: Mapping[str, Any]) -> list[Finding]:
    """Look at what the report says of the whole archive."""
    summary = numbers["summary"]
    found = _quarantine(numbers)
    copies = summary.get("copies", {}).get("across_splits", 0)
    if copies:
        found.append(
            warning(
                "data",
                "copies_across_splits",
                f"{copies} signals stand under several patients of different splits.",
                cause="The same recording is in training and in test, so tests look too good.",
                next_step="Find which patient numbers belong to one person and map them, then "
                "prepare again.",
            )
        )
    unknown = summary.get("patient_unknown", 0)
    if unknown:
        found.append(
            warning(
                "data",
                "patient_unknown",
                f"{unknown} recordings do not say whose they are.",
                cause="Each counts as a person of its own: the floor of persons is met too "
                "easily, and one person may stand in two splits.",
                next_step="Give a --table with the patient of every recording, then prepare again.",
            )
        )
    table = summary.get("table", {})
    if table.get("rows") and not table.get("recordings it names"):
        found.append(
            warning(
                "data",
                "table_unmatched",
                f"The table of {table['rows']} rows names none of the recordings.",
                cause="Its paths or patient numbers are written differently from the recordings.",
                next_step="Write paths relative to the --ecg folder, or patient ids exactly as the "
                "recordings have them, then prepare again.",
            )
        )
    return found


def _quarantine(numbers: Mapping[str, Any]) -> list[Finding]:
    looked_at, refused = _counts(numbers)
    reasons = refused_recordings(numbers)
    if not refused or not reasons:
        return []
    is_most = refused > MOST * looked_at
    first = reasons[0]
    return [
        warning(
            "data",
            "prepared_most_refused" if is_most else "prepared_refused",
            f"{'Most' if is_most else 'Some'} recordings were refused while preparing: {refused} "
            f"of {looked_at}.",
            cause=f"Most often ({first.files} x): {first.cause}.",
            next_step=f"{first.next_step[0].upper()}{first.next_step[1:]}; quarantine.csv of the "
            "prepared folder lists them all.",
        )
    ]


def quality_rows(numbers: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return name and value of the quality of all ECGs and of what else the report counts."""
    ecg, summary = numbers.get("ecg", {}), numbers["summary"]
    counted = ecg.get("counted", {})
    overall = counted.get("overall", {})
    reversed_ = sum(n for word, n in counted.get("reversal", {}).items() if word)
    looked_at, refused = _counts(numbers)
    rows = [
        ("recordings prepared", f"{looked_at - refused} of {looked_at}"),
        ("ECGs good, usable, poor", _listed(overall, ("good", "usable", "poor"))),
        ("ECGs with a suspect gain", str(ecg.get("gain_suspect", 0))),
        ("electrodes probably exchanged", str(reversed_)),
        ("exact copies of a signal", str(summary.get("copies", {}).get("extra", 0))),
        ("recordings without an age", str(summary.get("age_unknown", 0))),
        ("codes that no table holds", str(len(numbers.get("unmapped", {})))),
    ]
    return tuple(rows)


def _listed(counts: Mapping[str, int], words: tuple[str, ...]) -> str:
    return ", ".join(str(counts.get(word, 0)) for word in words)
