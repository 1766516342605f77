"""The part of a report that tells which privacy a run had, and what it cost each hospital."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from server.privacy import NOT_PROTECTED, raised_words
from server.report.facts import STAGES, Facts
from server.report.page import NONE, Row, Section, Table, Text

if TYPE_CHECKING:
    from collections.abc import Mapping

NOT_PRIVATE = (
    "This run was not differentially private for patients, and no epsilon is claimed: nothing "
    "bounds what the model's weights, and the counts and sums that the hospitals sent, tell of a "
    "patient."
)

Spent = dict[str, float]
"""Site -> epsilon."""


def privacy_sections(facts: Facts) -> tuple[Section, ...]:
    """Return what each hospital's ledger has paid, or that none has.

    A simulation without any privacy has nothing to say of it: its patients are virtual or public.
    """
    told, central = facts.summary["privacy"], _central(facts)
    if told["mode"] == "none":
        blocks = central
        if facts.simulated is None:
            blocks = (Text(NOT_PRIVATE, tone="warning"), *central)
        return (Section("privacy", "Privacy", blocks),) if blocks else ()
    note = Text(
        "Each hospital adds noise that hides any one of its patients, with all of their records. "
        "Epsilon bounds what all that left it tells of a patient: adding or removing one changes "
        "the probability of anything that can be seen by a factor of at most e to the power of "
        f"epsilon, but for the probability delta. {NOT_PROTECTED}",
        tone="note",
    )
    spent = told["sites"]
    raised = {name: raised_words(report) for name, report in sorted(spent.items())}
    said = (f"{facts.title(name)}: {words}" for name, words in raised.items() if words)
    warnings = tuple(Text(text, tone="warning") for text in (*told.get("warnings", ()), *said))
    tables = (_schedule(told["schedule"]), _sites(spent, facts), _stages(facts, sorted(spent)))
    return (Section("privacy", "Privacy", (*warnings, note, *central, *tables)),)


def _central(facts: Facts) -> tuple[Text, ...]:
    """Return what client-level privacy costs the run; nothing for a plan without it."""
    costs = [r["central_privacy"] for r in facts.summary["rounds"] if "central_privacy" in r]
    if not costs:
        return ()
    from cardionets_core.privacy.central import CentralCost  # its accountant is slow to import

    sentence = CentralCost(**costs[-1]).sentence()
    return (Text(f"{sentence[0].upper()}{sentence[1:]}"),)


def _schedule(schedule: Mapping[str, Any]) -> Table:
    """Return what the plan costs a hospital that serves all of it."""
    rows = [
        Row(
            STAGES[row["stage"]][0] if row["stage"] in STAGES else row["stage"].capitalize(),
            (
                f"{row['noise']:g}",
                f"{row['rate']:g}",
                f"{row['steps']:,}",
                str(row["releases"]),
                f"{row['epsilon_rdp']:.2f}",
            ),
        )
        for row in schedule["stages"]
    ]
    whole = schedule["whole"]
    caption = (
        "What the plan costs a hospital that serves all of it, as it stood before the first round. "
        f"Together epsilon {whole['epsilon_rdp']:.2f} by Renyi accounting, {_by_prv(whole)}, at "
        f"delta {whole['delta']:.0e}. A rate of 1 is a sum over everybody."
    )
    columns = ("Stage", "Noise", "Rate", "Steps", "Releases", "Epsilon alone")
    return Table(caption, columns, tuple(rows))


def _by_prv(quote: Mapping[str, Any]) -> str:
    if quote["epsilon_prv"] is None:
        return f"and none by PRV ({quote['no_prv']})"
    return f"{quote['epsilon_prv']:.2f} by PRV"


def _sites(spent: Mapping[str, Mapping[str, Any]], facts: Facts) -> Table:
    columns = (
        "Hospital", "Declared patients", "Counted", "Not yet used", "Schedule, Renyi",
        "Schedule, PRV", "Delta", "Entries", "Beyond the schedule",
    )  # fmt: skip
    rows = tuple(
        Row(
            facts.title(name),
            (
                f"{report['patients']:,}",
                f"{report['epsilon']:.2f}",
                _left(report),
                f"{report['planned_rdp']:.2f}",
                NONE if report["planned_prv"] is None else f"{report['planned_prv']:.2f}",
                f"{report['delta']:.0e}",
                str(report["entries"]),
                str(report["beyond_plan"]),
            ),
        )
        for name, report in sorted(spent.items())
    )
    caption = (
        "Counted: epsilon of all that the hospital's ledger holds, by Renyi accounting at the "
        "order that the ledger fixed before its first charge. What it promises is the budget that "
        "stood before that charge; no task takes more than the budget in force. This run's "
        "schedule stood before the first round and may be quoted by itself, by the tighter PRV; "
        "where the ledger holds entries beyond it, quote the budget that was promised."
    )
    return Table(caption, columns, rows)


def _left(report: Mapping[str, Any]) -> str:
    if not report["budget"]:
        return NONE
    return f"{max(0.0, report['budget'] - report['epsilon']):.2f} of {report['budget']:g}"


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
    return Table("Epsilon counted when a stage was done.", columns, rows)
