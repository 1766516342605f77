"""Sites whose privacy budget cannot pay a plan: found in the handshake, before round 1.

A site tells what is spent by one number, epsilon at its delta and at the order by which its ledger
gates; there epsilon adds up, so what the schedule adds to it is known. If nothing else is charged
meanwhile, a site which is called short refuses a round in the stage that is named: it cannot pay
everything up to that stage's end. Another run can only make it refuse earlier.

What comes after is not certain by that. A round that is refused is not charged, and what is left of
its price may pay a cheaper stage. For a later stage a site is counted out only if it cannot pay
even that stage's last round by itself, with nothing charged in between; else it is only warned of.
A site that is short and not found refuses the round that does not fit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cardionets_core.errors import IncompleteError
from cardionets_core.privacy.ledger import SAME
from cardionets_core.privacy.order import epsilon_with
from cardionets_core.privacy.plan import LATENTS, Planned, planned
from cardionets_core.training.stages import STAGES, configured
from server.gathering import sites_needed
from server.owners import owners_of, shares_of, short_parts, with_quorum
from server.quotes import MEASURING
from server.refusals import SPENT, SPENT_WAYS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from cardionets_core.privacy.accounting import Charge
    from cardionets_core.privacy_config import PrivacyReport
    from cardionets_core.run_config import RunConfig
    from server.privacy import Ledgers
    from server.state import SiteRecord

Short = dict[str, str]
"""Site -> the first stage up to whose end its budget cannot pay everything."""


def short_sites(config: RunConfig, sites: Mapping[str, SiteRecord], ledgers: Ledgers) -> Short:
    """Return the sites that certainly cannot pay all that the plan asks after the handshake.

    At the latest in the stage that is named, they refuse a round. What they can pay of the stages
    after it is not said.

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
    for row in _to_pay(config, record):
        charges.append(row.charge)
        if _is_above(report, charges):
            return row.stage
    return ""


def _to_pay(config: RunConfig, record: SiteRecord) -> list[Planned]:
    """Return what the plan asks of a site after the handshake, the latents under their stage."""
    rows = [row for row in planned(config, record.modalities) if row.stage != "handshake"]
    return [replace(row, stage=MEASURING) if row.stage == LATENTS else row for row in rows]


def _is_above(report: PrivacyReport, charges: list[Charge]) -> bool:
    """Return whether charges certainly do not fit into what is left of a budget."""
    after = epsilon_with(report.epsilon, charges, delta=report.delta, order=report.order)
    return after > report.budget * SAME


def short_words(short: Short, ledgers: Ledgers) -> list[str]:
    """Return what is said of the sites that cannot pay the plan."""
    return [
        f"{site}: epsilon {ledgers[site].epsilon:.2f} of {ledgers[site].budget:g} is counted "
        f"already, and the rest cannot pay the plan: at the latest, stage {stage} will be refused "
        "(privacy_spent) before its end."
        for site, stage in short.items()
    ]


def require_budgets(
    config: RunConfig, sites: Mapping[str, SiteRecord], ledgers: Ledgers, short: Short
) -> None:
    """Check that no stage lacks sites because of budgets that cannot pay it.

    Better said now than when the others have been charged for rounds that end in nothing. A site
    that is short counts as lacking in the stage that `short` names (it answers no round after the
    first that it refuses there, since all cost the same or more), and in a later one only if that
    one's last round alone is above its budget. A stage that some of those refuse in spite of this
    ends the run when its turn comes.

    Raises:
        IncompleteError: names the stage and the sites.
    """
    for name in config.stages:
        unable = {s for s in short if _is_unable(config, name, sites[s], ledgers[s], short[s])}
        lacking = _lacking(config, name, sites, unable) if unable else ""
        if lacking:
            raise IncompleteError(
                f"stage {name} cannot be played to its end: {lacking}. "
                f"{' '.join(short_words(short, ledgers))} Nobody has been charged for training. "
                f"{SPENT_WAYS}",
                short,
                resume_helps=False,  # the same budgets would be short again
                refused=dict.fromkeys(short, SPENT),
            )


def _is_unable(
    config: RunConfig, name: str, record: SiteRecord, report: PrivacyReport, ends_at: str
) -> bool:
    """Return whether a short site is counted out of a stage.

    Args:
        config: the plan.
        name: of the stage.
        record: what the site declares.
        report: what its ledger said last.
        ends_at: the stage that `short_sites` names for it.
    """
    if config.stages.index(name) <= config.stages.index(ends_at):
        return name == ends_at
    # Nothing of what comes between is certain to be charged, earlier rounds of this stage neither.
    last = [_one_of(row) for row in _to_pay(config, record) if row.stage == name]
    return bool(last) and _is_above(report, last)


def _one_of(row: Planned) -> Charge:
    """Return the charge of one of the releases of a row."""
    return replace(row.charge, steps=row.charge.steps // row.releases)


def _lacking(
    config: RunConfig, name: str, sites: Mapping[str, SiteRecord], unable: Collection[str]
) -> str:
    """Return what a stage lacks without the sites that cannot pay it; nothing where it goes."""
    paying = {site: record for site, record in sites.items() if site not in unable}
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


def _too_few(there: int, needed: int) -> str:
    return f"{there} of {needed} sites needed can pay it"
