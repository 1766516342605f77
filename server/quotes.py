"""What a private run costs each of its sites: told when they have said what they declare.

The server charges nothing: these are quotes for the schedule as it stands before round 1, and what
each ledger says of itself. docs/privacy.md, Ledger.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cardionets_core.privacy.accounting import epsilon_rdp
from cardionets_core.privacy.expected_errors import errors_of_plan, scored_outputs
from cardionets_core.privacy.latents import MEASURED
from cardionets_core.privacy.noise_plan import USUAL_DELTA
from cardionets_core.privacy.order import epsilon_with
from cardionets_core.privacy.plan import EVERYTHING, LATENTS, planned, planned_charges
from cardionets_core.privacy.schedule import Quote, quoted
from cardionets_core.privacy_config import NOT_MEMBERSHIP
from cardionets_core.training.stages import STAGES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from cardionets_core.messages import Update
    from cardionets_core.privacy.accounting import Charge
    from cardionets_core.privacy.expected_errors import ExpectedErrors
    from cardionets_core.privacy_config import PrivacyReport
    from cardionets_core.run_config import RunConfig
    from server.state import SiteRecord

MEASURING = next(name for name, stage in STAGES.items() if MEASURED in stage.trains)
"""The stage whose last round also releases the latent statistics."""


def schedule_of(config: RunConfig) -> dict[str, Any]:
    """Return what a plan costs a site that serves all of it, stage by stage; {} without privacy."""
    if not config.privacy.is_on:
        return {}
    stages = planned(config, EVERYTHING)
    rows = [
        {
            "stage": row.stage,
            "noise": row.charge.noise,
            "rate": row.charge.rate,
            "steps": row.charge.steps,
            "releases": row.releases,
            "epsilon_rdp": epsilon_rdp([row.charge], USUAL_DELTA),
        }
        for row in stages
    ]
    whole = quoted((row.charge for row in stages), USUAL_DELTA)
    return {"stages": rows, "whole": _values(whole)}


def site_quote(
    config: RunConfig,
    record: SiteRecord | Update,
    report: PrivacyReport,
    played: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Return what the schedule costs one site, at its ledger's order, and what its ledger says.

    Epsilon at one order adds up: what the ledger will count after the whole schedule is known, if
    nothing else is charged meanwhile.

    Args:
        config: the plan.
        record: what the site declares.
        report: what its ledger said last.
        played: of a run that goes on, stage -> rounds that are done. What the sites were charged
            for the round in hand they are not charged again, so that `after` is the most.
    """
    delta, order = report.delta, report.order
    quote = quoted(planned_charges(config, record.modalities), delta, order=order)
    to_pay = charges_left(config, record.modalities, played or {})
    after = epsilon_with(report.epsilon, to_pay, delta=delta, order=order)
    told: dict[str, Any] = {}
    if report.budget:
        told = {"budget": report.budget, "left": report.left}
    if played is not None:
        told["resumed"] = True
    patients = record.counts.get("patients", 0)
    values = {"patients": patients, "order": order, **_values(quote)}
    return values | {"spent": report.epsilon, "after": after} | told


def charges_left(
    config: RunConfig, modalities: Collection[str], played: Mapping[str, int]
) -> list[Charge]:
    """Return what a plan charges a site after the handshake, without the rounds that are done.

    Args:
        config: the plan.
        modalities: what the site declares.
        played: stage -> rounds that are done.
    """
    left: list[Charge] = []
    for row in planned(config, modalities):
        if row.stage == LATENTS:  # released in the last round of their stage
            releases = int(played.get(MEASURING, 0) < config.stage[MEASURING].rounds)
        else:
            releases = row.releases - played.get(row.stage, 0)
        if releases > 0 and row.stage != "handshake":
            each = row.charge.steps // row.releases
            left.append(replace(row.charge, steps=each * releases))
    return left


def quotes_of(
    config: RunConfig, updates: Mapping[str, Update], played: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Return what a handshake's record says of costs; {} without privacy.

    Args:
        config: the plan.
        updates: site -> its description.
        played: of a run that goes on, stage -> rounds that are done.
    """
    if not config.privacy.is_on:
        return {}
    quotes = {
        site: site_quote(config, update, update.privacy, played)
        for site, update in sorted(updates.items())
        if update.privacy is not None
    }
    return {"quotes": quotes, "warnings": warnings_of(config, updates.values())}


def warnings_of(config: RunConfig, sites: Collection[SiteRecord | Update]) -> list[str]:
    """Return what must be said of a private plan before its first round.

    Args:
        config: the plan.
        sites: what each declares.
    """
    told = [] if config.privacy.profile == "membership" else [f"{NOT_MEMBERSHIP}."]
    scored = [site.counts.get("patients", 0) for site in sites if "ecg" in site.modalities]
    errors = errors_of_plan(config, sum(scored), sites=len(scored)) if scored else None
    return told if errors is None else [*told, *_evaluation_warning(config, errors)]


def _evaluation_warning(config: RunConfig, errors: ExpectedErrors) -> list[str]:
    if not errors.asked:
        return [
            "evaluate has nothing to score, as no stage trains phenotypes or diseases, and every "
            "site is charged for its two releases all the same. Leave `evaluate` out."
        ]
    if not errors.unusable:
        return []
    what = "no usable metric" if errors.leaves_nothing else f"no {' or '.join(errors.unusable)}"
    return [
        f"privacy.evaluation_noise={config.privacy.evaluation_noise:g} leaves {what}: expect "
        f"{errors.words()} of all sites (a fifth of those declared), at best. Ask for fewer than "
        f"{scored_outputs(config)} (the plan's {' and '.join(f'`{k}`' for k in errors.asked)}), "
        "for less noise, or leave `evaluate` out and judge on public patients."
    ]


def beyond_plan(
    config: RunConfig, record: SiteRecord, reports: Iterable[tuple[str, PrivacyReport]]
) -> int:
    """Return how many entries a ledger has got since the handshake that the schedule does not hold.

    A task that was charged again after a crash, another run, a clock that a person accepted: the
    schedule's quote is then not of all that was charged. A raised budget is an entry that is told
    by itself.

    Args:
        config: the plan.
        record: what the site declares.
        reports: (stage of the round, what the ledger said), in the order of the rounds.
    """
    told = list(reports)
    if not told:
        return 0
    stages = planned(config, record.modalities)
    releases = sum(p.releases for p in stages if p.stage != told[0][0] or p.stage != "handshake")
    charged = [r.entries - r.raises for _, r in told]
    return max(0, max(charged) - charged[0] - releases)


def _values(quote: Quote) -> dict[str, Any]:
    values: dict[str, Any] = {"delta": quote.delta, "epsilon_rdp": quote.rdp}
    values["epsilon_prv"] = quote.prv
    return values | ({"no_prv": quote.why} if quote.why else {})
