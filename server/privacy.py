"""Differential privacy at the server: what a task asks, what an answer must say, ledgers' heads.

The server charges nothing and proves nothing: each site keeps its own ledger. It mirrors the newest
head of each, so that a site learns when its ledger was set back to an older copy (docs/privacy.md).
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from cardionets_core.privacy.ledger import SAME
from cardionets_core.privacy.ledger_entries import counted
from cardionets_core.privacy.plan import planned_charges
from cardionets_core.privacy.schedule import quoted
from cardionets_core.privacy_config import (
    LARGE_EPSILON,
    NOT_MEMBERSHIP,
    PrivacyReport,
    PrivateTask,
    head_key,
)
from server.progress import read_progress
from server.quotes import beyond_plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from cardionets_core.messages import TaskHeader, Update
    from cardionets_core.run_config import RunConfig, StageConfig
    from server.state import RunState, SiteRecord

Ledgers = dict[str, PrivacyReport]
"""Site -> what its ledger said last."""

ALIKE = 2**40
"""A batch size under which all sites take one step; see `judged_alike`."""


def knowing(head: TaskHeader, report: PrivacyReport | None) -> TaskHeader:
    """Return the header with the newest ledger head that is known of its site."""
    if head.privacy is None or report is None:
        return head
    return replace(head, privacy=replace(head.privacy, head=report.head))


def knowing_all(head: TaskHeader, ledgers: Ledgers) -> TaskHeader:
    """Return the header with the newest head of every ledger that is known, under digests of names.

    For a handshake with a node of which nobody knows whose it is. The names of the sites do not
    travel (`head_key`).
    """
    if head.privacy is None:
        return head
    heads = {head_key(run=head.run, site=site): told.head for site, told in ledgers.items()}
    return replace(head, privacy=replace(head.privacy, heads=heads))


def note_report(ledgers: Ledgers, site: str, report: PrivacyReport | None) -> None:
    """Keep what a ledger said in answer to a task that bore the head that is kept.

    The site has looked for that head, so what it says now comes after it. An answer that was
    stored speaks of an earlier time: it has fewer entries. Where nothing was charged in between,
    the budget may have changed.
    """
    if report is None:
        return
    known = ledgers.get(site)
    if known is None or report.entries > known.entries or report.head == known.head:
        ledgers[site] = report


def keeps_to(update: Update, asked: PrivateTask | None, record: SiteRecord | None = None) -> bool:
    """Return whether an answer says what its task must say under privacy, and no more.

    An update that tells realised counts or losses is not used: a run is private at every site.

    Args:
        update: the answer.
        asked: what its task asked of privacy; None: it was not private.
        record: of the site, for an answer to a training task.
    """
    if asked is None:
        return True
    told = (update.metrics, update.examples)
    if update.privacy is None or any(told) or update.seconds_before:
        return False
    if record is None:
        return True
    return (
        update.num_examples == record.counts.get("train_studies")
        and update.steps == update.planned_steps == asked.steps
    )


def judged_alike(config: RunConfig, settings: StageConfig) -> StageConfig:
    """Return the settings by which the firewall judges norms.

    It expects of a site with more studies that it goes further. In a private run all sites take
    the same number of steps, whatever they declare.
    """
    return replace(settings, batch_size=ALIKE) if config.privacy.is_on else settings


def passes_of(config: RunConfig, stage: str) -> float:
    """Return how often a round goes over a site's patients, in expectation under privacy."""
    settings = config.stage[stage]
    if not config.privacy.is_on:
        return settings.local_epochs
    return config.privacy.of(stage, "rate") * settings.max_steps


def told_of(ledgers: Mapping[str, PrivacyReport], sites: Iterable[str]) -> dict[str, Any]:
    """Return what a round's record keeps of the ledgers of its sites; {} where none spoke."""
    told = {site: asdict(ledgers[site]) for site in sorted(sites) if site in ledgers}
    return {"privacy": told} if told else {}


def ledgers_of(history: Iterable[Mapping[str, Any]], known: Ledgers | None = None) -> Ledgers:
    """Return what each ledger said last in these rounds: a restarted server still knows.

    Args:
        history: records of rounds.
        known: what was known before them.
    """
    ledgers = dict(known or {})
    for record in history:
        for site, report in record.get("privacy", {}).items():
            note_report(ledgers, site, PrivacyReport(**report))
    return ledgers


def earlier_ledgers(folder: Path) -> Ledgers:
    """Return what the ledgers said last in the other runs beside a run's folder.

    A ledger is put back between runs rather than within one. Read from the runs' progress files,
    so that there is nothing else to keep: whoever removes a run's folder removes what it has seen.
    """
    ledgers: Ledgers = {}
    for other in sorted(p for p in folder.parent.iterdir() if p.is_dir() and p != folder):
        rounds = [e for e in read_progress(other) if e["event"] == "round"]
        ledgers = ledgers_of(rounds, ledgers)
    return ledgers


def spent_by_site(config: RunConfig, state: RunState) -> dict[str, dict[str, Any]]:
    """Return site -> what its ledger said last, and what the plan by itself costs it.

    `epsilon` is of the whole ledger, earlier runs and repeated tasks included, by Renyi DP at its
    order; at the same delta `planned_rdp` (at that order, too) and `planned_prv` are of this run's
    schedule, as it stood before round 1, and `planned_epsilon` the one of them that may be quoted.
    `beyond_plan` counts entries that the schedule does not hold, `raised_in_run` those of raised
    budgets since the handshake.
    """
    spent: dict[str, dict[str, Any]] = {}
    for site, report in sorted(ledgers_of(state.history).items()):
        record = state.sites.get(site)
        charges = planned_charges(config, record.modalities if record else ())
        quote = quoted(charges, report.delta, order=report.order or None)
        told = [
            (r["stage"], PrivacyReport(**r["privacy"][site]))
            for r in state.history
            if site in r.get("privacy", {})
        ]
        spent[site] = asdict(report) | {
            "patients": record.counts.get("patients", 0) if record else 0,
            "planned_epsilon": quote.epsilon,
            "planned_rdp": quote.rdp,
            "planned_prv": quote.prv,
            "no_prv": quote.why,
            "beyond_plan": beyond_plan(config, record, told) if record else 0,
            "raised_in_run": report.raises - told[0][1].raises,
        }
    return spent


NOT_PROTECTED = (
    "Public, and not protected: the sites' declared numbers of patients, the schedule, that a site "
    "takes part. Not covered: the choice of this plan by earlier results outside the ledgers, and "
    "what a site's own preparation took from all of its records (docs/privacy.md, What is not "
    "covered)."
)


def card_lines(config: RunConfig, spent: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what a model card says of differential privacy."""
    if not config.privacy.is_on:
        return "- Differential privacy: none (no epsilon is claimed)."
    sites = "".join(f"\n  - {site}: {_card_words(s)}" for site, s in spent.items())
    warning = "" if config.privacy.profile == "membership" else f"- **{NOT_MEMBERSHIP}.**\n"
    return (
        f"{warning}"
        "- Differential privacy at each site, for each patient with all their records: adding or "
        "removing one;\n  independent (Poisson) sampling; all stages, the handshake's sums and the "
        f"evaluation on one ledger a site.{sites}\n"
        f"  {NOT_PROTECTED}"
    )


def _card_words(spent: Mapping[str, Any]) -> str:
    """Return what a model card says of one site's ledger.

    The schedule's figure is a promise by itself; beyond it only the budget is (docs/privacy.md,
    Accountants), and the PRV figure, which is there to be quoted, is left out.
    """
    of_budget = f" of its budget {spent['budget']:g}" if spent["budget"] else ""
    told = (
        f"this run's schedule epsilon {_by_prv(spent)}{spent['planned_rdp']:.2f} (Renyi); the "
        f"site's ledger, all runs, counts {spent['epsilon']:.2f}{of_budget} (Renyi) at delta "
        f"{spent['delta']:g} and order {spent['order']:g}, entry {spent['entries']} "
        f"`{spent['head'][:12]}`."
    )
    if spent["beyond_plan"]:
        told += (
            f" It holds {counted(spent['beyond_plan'])} that the schedule does not: tasks charged "
            "again, or another run; quote the site's budget."
        )
    if words := raised_words(spent):
        told += f" {words}"
    if spent["epsilon"] >= LARGE_EPSILON:
        told += " So large an epsilon says nothing of who took part."
    return told


def raised_words(spent: Mapping[str, Any]) -> str:
    """Return what is said of a budget that was raised after the ledger's first charge, if it was.

    Args:
        spent: of one site, as in `spent_by_site`.
    """
    promised, budget = spent["promised"], spent["budget"]
    if not promised or max(budget, spent["epsilon"]) <= promised * SAME:
        return ""
    when = "during this run" if spent["raised_in_run"] else "before this run"
    raised = f"from {promised:g} to {budget:g}"
    if budget <= promised:  # the site's YAML has lowered it again
        raised = f"above {promised:g} (now {budget:g}; {spent['epsilon']:.2f} is counted)"
    return (
        f"Its budget was raised {raised} after its first charge, {when}: what was promised "
        f"beforehand is {promised:g}, and more may be quoted only if no result led to the raise."
    )


def _by_prv(spent: Mapping[str, Any]) -> str:
    if spent["beyond_plan"]:
        return ""
    if spent["planned_prv"] is None:
        return f"no PRV: {spent['no_prv']}, "
    return f"{spent['planned_prv']:.2f} (PRV), "
