"""What a noise plan may spend: as a person typed it, or as a site's YAML and ledger have it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cardionets_core.errors import ConfigError
from cardionets_core.privacy.noise_plan import usual_delta
from cardionets_core.privacy.plan import EVERYTHING
from cardionets_core.privacy.planning import Allowance
from client.budget_standing import is_made, require_whole, to_look_at

if TYPE_CHECKING:
    from cardionets_core.privacy_config import SitePrivacy
    from cardionets_core.site_config import SiteConfig

USUAL_EPSILON = 8.0


@dataclass(frozen=True)
class BudgetAsked:
    """What a person typed of a budget; None where nothing was."""

    patients: int | None
    epsilon: float | None
    delta: float | None


def allowance(asked: BudgetAsked, site: SiteConfig | None) -> Allowance:
    """Return what may be spent: of the flags, or of a site and at most what it allows.

    Args:
        asked: what a person typed.
        site: a hospital, or None.

    Raises:
        ConfigError: nobody says how many patients, or more is asked than the site allows.
        PrivacyError: the site's ledger is lost, was put back, or cannot be read.
    """
    if asked.patients is not None and asked.patients < 1:
        raise ConfigError(f"--patients is {asked.patients}; patients must be at least 1.")
    if site is not None:
        return _at_most(_of_site(site), asked)
    if asked.patients is None:
        raise ConfigError("A plan needs --patients, or --config of a site that declares them.")
    return Allowance(
        patients=asked.patients,
        epsilon=USUAL_EPSILON if asked.epsilon is None else asked.epsilon,
        delta=usual_delta(asked.patients) if asked.delta is None else asked.delta,
    )


def stated(settings: SitePrivacy) -> Allowance:
    """Return what a site's YAML allows, before it has a ledger."""
    return Allowance(
        patients=settings.patients,
        epsilon=settings.epsilon,
        delta=settings.delta,
        modalities=settings.modalities or EVERYTHING,
        max_rate=settings.max_rate,
        min_noise=settings.min_noise,
    )


def _of_site(site: SiteConfig) -> Allowance:
    """Return what a site allows; a ledger that is not made yet holds nothing."""
    own = stated(site.privacy)
    if not site.privacy.ledger or not is_made(site):
        return own
    with to_look_at(site) as ledger:
        too_much = ledger.above_recorded()
        if too_much:
            raise ConfigError(f"Every private task is refused: {too_much} Then plan.")
        require_whole(ledger, site)
        return replace(own, spent=ledger.charges, order=ledger.order)


def _at_most(site: Allowance, asked: BudgetAsked) -> Allowance:
    """Return what a site allows, or less of it, as was asked.

    Raises:
        ConfigError: more was asked than the site allows.
    """
    for name, typed, own in (
        ("epsilon", asked.epsilon, site.epsilon),
        ("delta", asked.delta, site.delta),
    ):
        if typed is not None and typed > own:
            raise ConfigError(
                f"--{name} {typed:g} is above the site's privacy.{name} {own:g}, and its ledger "
                f"would refuse what is planned. Plan for {own:g} or less, or without --config."
            )
    patients = site.patients if asked.patients is None else asked.patients
    if patients < 1:
        raise ConfigError("The site declares no patients; set privacy.patients, or --patients.")
    epsilon = site.epsilon if asked.epsilon is None else asked.epsilon
    delta = site.delta if asked.delta is None else asked.delta
    return replace(site, patients=patients, epsilon=epsilon, delta=delta)
