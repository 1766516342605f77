"""Sites whose privacy budget cannot pay a plan: found in the handshake, before round 1.

A site tells what is spent by one number, epsilon at its delta. What the schedule adds to it is
known only within bounds; here the lower one counts (`least_epsilon_rdp`), so that no site is
called short which is not. One that is short and not found refuses the round that does not fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cardionets_core.errors import IncompleteError
from cardionets_core.privacy.accounting import Charge, least_epsilon_rdp
from cardionets_core.privacy.latents import MEASURED
from cardionets_core.privacy.ledger import SAME
from cardionets_core.privacy.plan import LATENTS, planned
from cardionets_core.training.stages import STAGES, configured
from server.gathering import sites_needed
from server.owners import owners_of, shares_of, short_parts, with_quorum
from server.refusals import SPENT_WAYS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cardionets_core.privacy_config import PrivacyReport
    from cardionets_core.run_config import RunConfig
    from server.privacy import Ledgers
    from server.state import SiteRecord

Short = dict[str, str]
"""Site -> the first stage that its budget cannot pay to the end."""


def short_sites(config: RunConfig, sites: Mapping[str, SiteRecord], ledgers: Ledgers) -> Short:
    """Return the sites that certainly cannot pay what the plan asks after the handshake.

    Args:
        config: the plan; none of its rounds has been played.
        sites: what each declares.
        ledgers: what each said last.
    """
    known = {site: ledgers[site] for site in sorted(sites) if site in ledgers}
    ends = {site: _ends_at(config, sites[site], report) for site, report in known.items()}
    return {site: stage for site, stage in ends.items() if stage}


def _ends_at(config: RunConfig, record: SiteRecord, report: PrivacyReport) -> str:
    if not report.budget:
        return ""  # it is not told
    charges: list[Charge] = []
    for row in planned(config, record.modalities):
        if row.stage == "handshake":
            continue  # paid
        charges.append(row.charge)
        after = least_epsilon_rdp(report.epsilon, charges, report.delta)
        if after > report.budget * SAME:
            return _MEASURING if row.stage == LATENTS else row.stage
    return ""


_MEASURING = next(name for name, stage in STAGES.items() if MEASURED in stage.trains)
"""The stage whose last round also releases the latent statistics."""


def short_words(short: Short, ledgers: Ledgers) -> list[str]:
    """Return what is said of the sites that cannot pay the plan."""
    return [
        f"{site}: epsilon {ledgers[site].epsilon:.2f} of {ledgers[site].budget:g} is counted "
        f"already, and the rest cannot pay the plan: stage {stage} will be refused "
        "(privacy_spent) before its end."
        for site, stage in short.items()
    ]


def require_budgets(
    config: RunConfig, sites: Mapping[str, SiteRecord], ledgers: Ledgers, short: Short
) -> None:
    """Check that every stage has sites enough that can pay it.

    Better said now than when the others have been charged for rounds that end in nothing.

    Raises:
        IncompleteError: names the stage and the sites.
    """
    for name in config.stages:
        lacking = _lacking(config, name, sites, short) if short else ""
        if lacking:
            raise IncompleteError(
                f"stage {name} cannot be played to its end: {lacking}. "
                f"{' '.join(short_words(short, ledgers))} Nobody has been charged for training. "
                f"{SPENT_WAYS}",
                short,
            )


def _lacking(config: RunConfig, name: str, sites: Mapping[str, SiteRecord], short: Short) -> str:
    """Return what a stage lacks without the sites that cannot pay it; nothing where it goes."""
    place = config.stages.index(name)
    paying = {s: r for s, r in sites.items() if s not in short or _after(config, short[s], place)}
    if name == "evaluate":
        short_of = len(paying) < min(config.min_sites, len(sites))
        return _too_few(len(paying), config.min_sites) if short_of else ""
    if name not in STAGES:
        return ""
    settings = with_quorum(config, name, sites)
    stage = configured(name, settings.options, config.model)
    asked, shares = (shares_of(config, stage, there) for there in (sites, paying))
    if len(shares) == len(asked):
        return ""  # what it lacks besides, other checks say
    needed = sites_needed(config, settings)
    if config.secure_aggregation.enabled:
        needed = max(needed, config.secure_aggregation.threshold_for(len(asked)))
    if len(shares) < needed:
        return _too_few(len(shares), needed)
    parts = short_parts(config, settings, owners_of(stage.trains, shares))
    return ", ".join(f"{part} would come from {few} sites needed" for part, few in parts.items())


def _after(config: RunConfig, stage: str, place: int) -> bool:
    """Return whether a stage comes after the place of another one."""
    return config.stages.index(stage) > place


def _too_few(there: int, needed: int) -> str:
    return f"{there} of {needed} sites needed can pay it"
