"""The handshake: which node is which site, what each can serve, and the phenotype scaler."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cardionets_core.data.dataset import Scaler
from cardionets_core.errors import RunError
from cardionets_core.evaluation.sums import merge
from cardionets_core.faults import fault_place
from cardionets_core.messages import Task, Update
from cardionets_core.privacy.plan import private_task
from server.attendance import NAME_TAKEN
from server.awaiting import await_sites
from server.budgets import require_budgets, short_sites, short_words
from server.exchange import Run, header, round_record
from server.node_names import keys_of, names_of
from server.privacy import keeps_to, knowing, knowing_all, note_report, told_of
from server.quotes import quotes_of
from server.rounds import RoundResult
from server.screening import misdirected
from server.start import start_in_units_of
from server.state import RunState, SiteRecord
from server.sums import usable_statistics

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger("cardionets.server")


def greet(run: Run, state: RunState) -> RunState:
    """Learn which node is which site and what each can serve; on the first time also the scaler.

    From here on every node that comes in during a round is greeted, too. A restarted server waits
    up to `rejoin_s` for the sites that it knew, and longer for nodes that are there but at work.

    Raises:
        IncompleteError: too few sites came, or have the privacy budget that the plan costs.
        RunError: two nodes go by one name.
    """
    fault_place(stage="handshake", number=1)
    updates: dict[str, Update] = {}
    resumed = any(record["stage"] == "handshake" for record in state.history)
    phenotypes = len(run.config.phenotypes)
    door = _Door(run, phenotypes=phenotypes, strict=not resumed, known=state.sites)
    door.updates = updates
    attendance = run.attendance
    attendance.describe = lambda node: _question(run, state, node)
    attendance.welcome = door.welcome
    attendance.expect(sorted(state.sites))
    started = attendance.clock()
    await_sites(run, known=sorted(state.sites), started=started)
    played = Counter(record["stage"] for record in state.history) if resumed else None
    record = _record(run, updates, attendance.clock() - started, played)
    if resumed:
        run.report(record | keys_of(run))
        # The scaler stays, and a site that was not there before may join from here on.
        return admitted(run, state)
    run.arrivals.clear()
    door.strict = False
    sites = _records(updates)
    short = short_sites(run.config, sites, run.ledgers)
    if short:
        record["warnings"] = [*record["warnings"], *short_words(short, run.ledgers)]
    run.report(record | keys_of(run))
    require_budgets(run.config, sites, run.ledgers, short)
    return _settled(run, state, updates, record)


def _question(run: Run, state: RunState, node: int) -> Task:
    """Return the task that a node is greeted with, in which its site finds its ledger's head.

    A node that is registered by name is told its own head only.
    """
    head = header(run, state, "handshake", action="describe")
    if run.attendance.is_enrolled(node):
        return Task(knowing(head, run.ledgers.get(run.attendance.label(node))))
    return Task(knowing_all(head, run.ledgers))


def admitted(run: Run, state: RunState) -> RunState:
    """Return the state with the sites that came in since the last round."""
    sites = state.sites | dict(sorted(run.arrivals.items()))
    run.arrivals.clear()
    return replace(state, sites=sites)


class _Door:
    """Takes nodes in by what they said of themselves.

    Args:
        run: whose nodes and arrivals are kept.
        phenotypes: how many the run has.
        strict: the first handshake, in which two nodes of one name that are both there end the
            run.
        known: sites of the run, with what they said of themselves before.
    """

    def __init__(
        self, run: Run, *, phenotypes: int, strict: bool, known: Mapping[str, SiteRecord]
    ) -> None:
        self._run, self._phenotypes = run, phenotypes
        self._known = dict(known)
        self.strict = strict
        self.updates: dict[str, Update] = {}

    def welcome(self, node: int, update: Update) -> str | None:
        """Take a node in as the site that it says it is, or return why not."""
        run, name = self._run, update.site
        astray = misdirected(update, site=name, run=run.config.name, stage="handshake", number=1)
        if astray is not None:
            return astray
        if run.attendance.is_enrolled(node) and run.attendance.label(node) != name:
            return "wrong_site"  # registered at the SuperLink as another
        if not keeps_to(update, private_task(run.config, "handshake", "describe")):
            return "privacy"
        if not usable_statistics(update.sums, phenotypes=self._phenotypes):
            return "sums"
        held = run.nodes.get(name, node)
        if held != node and run.attendance.place(name) is not None:
            if not self._takes_over(name, node, held):
                return NAME_TAKEN
            self._tell(f"{name} came in under another node; the newer one counts")
            run.attendance.displace(held, name)
        run.nodes[name] = node
        note_report(run.ledgers, name, update.privacy)
        record = SiteRecord(update.modalities, update.counts, update.versions)
        if changed := changed_counts(self._known.get(name, record), record):
            self._tell(f"{name} declares other counts than before: {changed}")
        self._known[name] = run.arrivals[name] = record
        self.updates[name] = update
        return None

    def _tell(self, news: str) -> None:
        log.warning("site %s", news)
        self._run.news.append(news)

    def _takes_over(self, name: str, node: int, held: int) -> bool:
        """Return whether a node takes over a site from the node that it is at, and that is listed.

        Flower lists a killed node for another minute, and one that nobody enrolled comes back
        under a new id: then the newer one counts.

        Raises:
            RunError: in the first handshake, where both are surely there.
        """
        attendance = self._run.attendance
        enrolled = attendance.is_enrolled(held)
        if not self.strict:
            return not enrolled
        together = not (attendance.came_after(node, held) or attendance.came_after(held, node))
        if enrolled or together:
            raise RunError(
                f"two nodes call themselves {name!r} ({attendance.label(held)} and "
                f"{attendance.label(node)}); give each site its own name."
            )
        return attendance.came_after(node, held)


def changed_counts(before: SiteRecord, now: SiteRecord) -> str:
    """Return which numbers a site declares otherwise than before; empty where none."""
    keys = sorted(before.counts.keys() | now.counts.keys())
    pairs = [(key, before.counts.get(key, 0), now.counts.get(key, 0)) for key in keys]
    return ", ".join(f"{key} {was} -> {n}" for key, was, n in pairs if was != n)


def news_of(run: Run) -> dict[str, list[str]]:
    """Return what a round's record says of sites that came in otherwise than before; told once.

    That two nodes claim one name is said in every round in which both are listed. Flower lists a
    killed node for another minute.
    """
    twice = [
        f"two nodes that are listed as online claim the name {site}"
        for site in run.attendance.claimed_twice
    ]
    news = [*run.news, *twice]
    run.news.clear()
    return {"news": news} if news else {}


def _record(
    run: Run, updates: Mapping[str, Update], seconds: float, played: Mapping[str, int] | None
) -> dict[str, Any]:
    """Return the round's record; a node that never said whose it is goes by its label.

    Args:
        run: whose nodes were greeted.
        updates: site -> its description.
        seconds: that it took.
        played: of a run that goes on, stage -> rounds that are done.
    """
    attendance = run.attendance
    sites = {node: site for site, node in run.nodes.items()}
    names = names_of(run, attendance.refused)

    def called(node: int) -> str:
        return names.get(node) or attendance.label(node)

    def named(by_node: Mapping[int, int]) -> dict[str, int]:
        return {sites.get(n) or called(n): size for n, size in by_node.items()}

    result = RoundResult(
        accepted=sorted(updates),
        refused={called(node): why for node, why in attendance.refused.items()},
        bytes_down=named(attendance.bytes_down),
        bytes_up=named(attendance.bytes_up),
        seconds=seconds,
    )
    record = round_record("handshake", 1, 1, result, {})
    record["sites"] = {n: {"counts": u.counts} for n, u in sorted(updates.items())}
    told = {name: u.privacy for name, u in updates.items() if u.privacy is not None}
    quotes = quotes_of(run.config, updates, played)
    return record | told_of(told, updates) | quotes | news_of(run)


def _settled(
    run: Run, state: RunState, by_site: dict[str, Update], record: dict[str, Any]
) -> RunState:
    """Return the state with the sites' descriptions and the federation's phenotype scaler."""
    scaler = Scaler.from_statistics(merge(by_site[n].sums for n in sorted(by_site)))
    return replace(
        state,
        weights=state.weights | start_in_units_of(run.config, state.weights, scaler),
        sites=_records(by_site),
        scaler_mean=tuple(float(v) for v in scaler.mean),
        scaler_sd=tuple(float(v) for v in scaler.sd),
        history=(*state.history, record),
    )


def _records(by_site: dict[str, Update]) -> dict[str, SiteRecord]:
    return {n: SiteRecord(u.modalities, u.counts, u.versions) for n, u in sorted(by_site.items())}
