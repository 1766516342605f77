"""The evaluate stage: sites fit sums, the server solves the probes, sites score with them."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cardionets_core.evaluation.evaluate import solve_probes, summarise
from cardionets_core.evaluation.options import trained_sections
from cardionets_core.evaluation.summary import residual_sd
from cardionets_core.evaluation.sums import merge
from cardionets_core.privacy.evaluation import private_options
from cardionets_core.privacy.intervals import with_noise
from server.exchange import Run, header, round_record, send_round
from server.expectation import expectation
from server.gathering import TRIES
from server.handshake import admitted, news_of
from server.privacy import keeps_to, told_of
from server.refusals import in_words, too_few
from server.screening import misdirected
from server.sums import (
    LARGEST_FIT,
    LARGEST_SCORE,
    fit_groups,
    private_fit_groups,
    score_groups,
    usable_sums,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cardionets_core.evaluation.options import EvaluationOptions, Section
    from cardionets_core.evaluation.sums import Sums
    from cardionets_core.messages import TaskHeader, Update
    from cardionets_core.packing import Groups
    from cardionets_core.run_config import RunConfig
    from server.exchange import Action
    from server.state import RunState

PROBES = "probes"
"""Group of the solved probes in a score task."""

LEAST_DEADLINE_S = 3600.0
"""Seconds that a round of the evaluation may take; longer where a stage of the plan may."""

RESUMED = "Look into the sites' logs; the run can be resumed, and evaluates again."

log = logging.getLogger("cardionets.server")


def run_evaluation(run: Run, state: RunState) -> RunState:
    """Run both rounds of the evaluate stage and return the state with its metrics.

    Raises:
        IncompleteError: too few sites answered a round, TRIES times. Nothing of the stage is saved
            then, so that a resumed run evaluates anew.
    """
    state, fitted = _collect(run, admitted(run, state), "fit", 1, {})
    merged = merge(fitted.values())
    probes = solve_probes(merged, evaluation_options(run.config))
    state, scored = _collect(run, state, "score", 2, {PROBES: dict(probes)})
    total = merge(scored.values())
    metrics = summarise(
        scored,
        total,
        run.config.phenotypes,
        run.config.diseases,
        phenotype_sd=state.scaler_sd,
        probes=probes,
    )
    if run.config.privacy.is_on:
        noise, options = run.config.privacy.evaluation_noise, evaluation_options(run.config)
        metrics = with_noise(metrics, scored, total, options, noise=noise)
    spread = residual_sd(probes, len(run.config.phenotypes))
    return replace(state, metrics=metrics, residual_sd=spread)


def evaluation_options(config: RunConfig) -> EvaluationOptions:
    """Return the run's options without the sections that no stage has trained for."""
    options = trained_sections(config.evaluation, (*config.stages, *config.start.stages))
    return private_options(options) if config.privacy.is_on else options


def evaluated_parts(modalities: tuple[str, ...], sections: tuple[Section, ...]) -> tuple[str, ...]:
    """Return the parts that a site needs for what it can serve of the evaluation.

    A site without ECGs has nothing to score, and its sums of round `score` are empty; but it helps
    to fit: its labels the covariates-only reference, its cines the probe that measures phenotypes
    on generated ones (CMR encoder only).
    """
    parts: tuple[str, ...] = ()
    if "ecg" in modalities:
        parts = ("ecg_encoder", "phenotype_head", "disease_head")
    if "pairs" in modalities:
        return (*parts, "ecg_projector", "cmr_encoder", "cmr_projector", "tokenizer", "generator")
    if "cine" in modalities and "generation" in sections:
        return (*parts, "cmr_encoder")
    return parts


def _collect(
    run: Run, state: RunState, action: Action, number: int, extra: Groups
) -> tuple[RunState, dict[str, Sums]]:
    sums: dict[str, Sums] = {}
    due, largest = _due(run.config, action, extra)

    def accept(site: str, update: Update) -> str | None:
        astray = misdirected(
            update, site=site, run=run.config.name, stage="evaluate", number=number
        )
        if astray is not None:
            return astray
        if not keeps_to(update, heads[site].privacy):
            return "privacy"
        if not all(np.isfinite(v).all() for v in update.sums.values()):
            return "not_finite"
        if not usable_sums(update.sums, due, largest=largest):
            return "sums"
        sums[site] = dict(update.sums)
        return None

    heads, deadline_s = _heads(run, state, action, number), deadline_of(run.config)
    expected_s = None if run.config.privacy.is_on else expectation(run.config, state)

    def enough(sites: Sequence[str]) -> bool:
        return len(sites) >= run.config.min_sites

    for attempt in range(1, TRIES + 1):
        sums.clear()
        result = send_round(
            run, state, heads, accept, deadline_s, extra, enough=enough, expected_s=expected_s
        )
        if enough(result.accepted):
            record: dict[str, Any] = round_record("evaluate", number, 2, result, {})
            record |= {"tries": attempt, **told_of(run.ledgers, heads), **news_of(run)}
            run.report(record)
            state = replace(state, history=(*state.history, record))
            return state, {n: sums[n] for n in sorted(sums)}
        log.warning("evaluate (%s): try %d had too few replies", action, attempt)
    raise too_few(
        f"evaluate ({action}): {len(result.accepted)} of {run.config.min_sites} sites needed "
        f"answered (refused: {in_words(result.refused)}).",
        result.refused,
        private=run.config.privacy.is_on,
        lacking=run.config.min_sites - len(result.accepted),
        otherwise=RESUMED,
    )


def _due(config: RunConfig, action: Action, extra: Groups) -> tuple[list[Sums], float]:
    """Return what a site may send, group by group, and the largest number in it."""
    options = evaluation_options(config)
    if action == "fit":
        due = private_fit_groups if config.privacy.is_on else fit_groups
        return due(config, options), LARGEST_FIT
    return score_groups(config, options, extra[PROBES]), LARGEST_SCORE


def _heads(run: Run, state: RunState, action: Action, number: int) -> dict[str, TaskHeader]:
    """Return site -> header of its task, for every site that ever came in."""
    options = evaluation_options(run.config)
    return {
        site: header(
            run,
            state,
            "evaluate",
            action=action,
            number=number,
            parts=evaluated_parts(state.sites[site].modalities, options.sections),
            evaluation=options,
        )
        for site in sorted(state.sites)
    }


def deadline_of(config: RunConfig) -> float:
    """Return the seconds that a try of a round may take: no less than any training round."""
    planned = [config.stage[n].deadline_s for n in config.stages if n in config.stage]
    return max([LEAST_DEADLINE_S, *planned])
