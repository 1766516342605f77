"""The part of a report that tells what privacy cost: per hospital, and stage by stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simulations.report_facts import STAGES, Facts
from simulations.report_page import Row, Section, Table, Text

if TYPE_CHECKING:
    from collections.abc import Mapping

Spent = dict[str, float]
"""Site -> epsilon."""


def privacy_sections(facts: Facts) -> tuple[Section, ...]:
    """Return what each hospital's ledger has paid; nothing for a run without privacy."""
    spent = facts.summary["privacy"].get("sites", {})
    if not spent:
        return ()
    note = Text(
        "Each hospital adds noise that hides any one of its patients, with all of their records. "
        "Epsilon bounds what all that left it tells of a patient: adding or removing one changes "
        "the probability of anything that can be seen by a factor of at most e to the power of "
        "epsilon, but for the probability delta.",
        tone="note",
    )
    tables = (_sites(facts, spent), _stages(facts, sorted(spent)))
    return (Section("privacy", "Privacy", (note, *tables)),)


def _sites(facts: Facts, spent: Mapping[str, Mapping[str, Any]]) -> Table:
    columns = ("Hospital", "Declared patients", "Spent", "This run's schedule", "Delta", "Entries")
    rows = tuple(
        Row(
            facts.title(name),
            (
                f"{facts.summary['sites'][name]['counts'].get('patients', 0):,}",
                f"{report['epsilon']:.2f}",
                f"{report['planned_epsilon']:.2f}",
                f"{report['delta']:.0e}",
                str(report["entries"]),
            ),
        )
        for name, report in sorted(spent.items())
    )
    caption = (
        "Spent: epsilon of the hospital's whole ledger, which also gates every task (Renyi "
        "accounting). The schedule's is tighter (PRV): it stood before the first round."
    )
    return Table(caption, columns, rows)


def _stages(facts: Facts, sites: list[str]) -> Table:
    after: dict[str, Spent] = {}
    for entry in facts.summary["rounds"]:
        told = entry.get("privacy", {})
        after.setdefault(entry["stage"], {}).update({s: r["epsilon"] for s, r in told.items()})
    rows = tuple(
        Row(
            STAGES[stage][0],
            tuple(f"{spent[s]:.2f}" if s in spent else "" for s in sites),
        )
        for stage, spent in after.items()
    )
    columns = ("Stage", *(facts.title(s) for s in sites))
    return Table("Epsilon spent when a stage was done.", columns, rows)
