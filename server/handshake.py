"""The handshake: which node is which site, what each can serve, and the phenotype scaler."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from cardionets_core.data.dataset import Scaler
from cardionets_core.errors import RunError
from cardionets_core.evaluation.sums import merge
from cardionets_core.messages import Task, Update
from server.exchange import Run, header, round_record
from server.rounds import RoundResult, run_round
from server.state import RunState, SiteRecord

STATISTICS = ("phenotype_n", "phenotype_sum", "phenotype_square")
"""The sums that the scaler is made of."""


def greet(run: Run, state: RunState) -> RunState:
    """Learn which node is which site and what each can serve; on the first time also the scaler.

    Raises:
        RunError: too few sites, or two nodes under one name.
    """
    nodes = wait_for_nodes(run)
    updates: dict[str, Update] = {}

    def accept(node: str, update: Update) -> str | None:
        if not usable_statistics(update, phenotypes=len(run.config.phenotypes)):
            return "sums"
        updates[node] = update
        return None

    def make(node: str, lost: frozenset[str]) -> Task:
        return Task(header(run, state, "handshake", action="describe"))

    result = run_round(
        run.grid, nodes, make_task=make, accept=accept, deadline_s=run.config.wait_s * 4
    )
    for node, update in updates.items():
        if update.site in run.nodes:
            raise RunError(
                f"two nodes call themselves {update.site!r}; give each site its own name."
            )
        run.nodes[update.site] = nodes[node]
    if len(run.nodes) < run.config.min_sites:
        refused = ", ".join(f"{n}: {r}" for n, r in result.refused.items()) or "none refused"
        raise RunError(
            f"handshake: {len(run.nodes)} of {run.config.min_sites} sites answered ({refused}). "
            "Look into the logs of the missing sites, or lower min_sites."
        )
    by_site = {u.site: u for u in updates.values()}
    names = {node: u.site for node, u in updates.items()}
    record = round_record("handshake", 1, 1, _renamed(result, names), {})
    record["sites"] = {n: {"counts": u.counts} for n, u in sorted(by_site.items())}
    run.report(record)
    if state.scaler_mean:
        # Resumed: the scaler stays, and a site that was not there before may join from here on.
        return replace(state, sites=state.sites | _records(by_site))
    return _settled(state, by_site, record)


def _settled(state: RunState, by_site: dict[str, Update], record: dict[str, Any]) -> RunState:
    """Return the state with the sites' descriptions and the federation's phenotype scaler."""
    scaler = Scaler.from_statistics(merge(by_site[n].sums for n in sorted(by_site)))
    return replace(
        state,
        sites=_records(by_site),
        scaler_mean=tuple(float(v) for v in scaler.mean),
        scaler_sd=tuple(float(v) for v in scaler.sd),
        history=(*state.history, record),
    )


def usable_statistics(update: Update, *, phenotypes: int) -> bool:
    """Return whether the sums behind the scaler are there, finite and of the right length."""
    sums = [update.sums.get(key) for key in STATISTICS]
    return all(
        s is not None and s.shape == (phenotypes,) and bool(np.isfinite(s).all()) for s in sums
    )


def _records(by_site: dict[str, Update]) -> dict[str, SiteRecord]:
    return {n: SiteRecord(u.modalities, u.counts, u.versions) for n, u in sorted(by_site.items())}


def wait_for_nodes(run: Run) -> dict[str, int]:
    """Wait until `min_sites` nodes are online; return them under provisional names.

    Raises:
        RunError: too few within `wait_s`.
    """
    deadline = time.monotonic() + run.config.wait_s
    while True:
        ids = sorted(run.grid.get_node_ids())
        if len(ids) >= run.config.min_sites:
            return {f"node-{i}": node for i, node in enumerate(ids)}
        if time.monotonic() > deadline:
            raise RunError(
                f"{len(ids)} of {run.config.min_sites} sites are online after "
                f"{run.config.wait_s:.0f} s; start the missing ones (`cardionets-site start`), "
                "or lower min_sites."
            )
        time.sleep(0.5)


def _renamed(result: RoundResult, names: dict[str, str]) -> RoundResult:
    return RoundResult(
        accepted=sorted(names[n] for n in result.accepted),
        refused=result.refused,
        bytes_down={names.get(n, n): b for n, b in result.bytes_down.items()},
        bytes_up={names.get(n, n): b for n, b in result.bytes_up.items()},
        seconds=result.seconds,
    )
