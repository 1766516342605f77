"""What a run's plan costs as it stands: the first thing that `budget plan` says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cardionets_core.errors import ConfigError
from cardionets_core.privacy.ledger import SAME
from cardionets_core.privacy.planning import CHECKPOINT, run_words, words_to_add
from cardionets_core.privacy.schedule import quoted
from client.budget_gate import require_admitted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cardionets_core.privacy.noise_plan import NoisePlan
    from cardionets_core.privacy.schedule import Quote
    from cardionets_core.run_config import RunConfig
    from cardionets_core.site_config import SiteConfig


@dataclass(frozen=True)
class Unchanged:
    """A run's plan with the noise that it has.

    Attributes:
        noise: of all stages that name none of their own.
        alone: what the plan costs by itself, at its best order.
        counted: what the ledger counts with it, at the ledger's order.
        plan: stages, budget and order.
        refused: why the site would refuse it, whatever is left; empty: it would not.
    """

    noise: float
    alone: Quote
    counted: float
    plan: NoisePlan
    refused: str = ""

    @property
    def fits(self) -> bool:
        """Whether the hospital would answer all of it."""
        return not self.refused and self.counted <= self.plan.epsilon * SAME

    def words(self) -> str:
        """Return it for a person."""
        plan, begin = self.plan, f"as the plan stands: noise {self.noise:g}"
        if self.refused:
            return f"{begin}: refused. {self.refused}"
        left = max(0.0, plan.epsilon - self.counted)
        verdict = f"fits, {left:.2f} would be left" if self.fits else "does not fit"
        already = f", with {plan.cost(plan.spent):.2f} that is there already" if plan.spent else ""
        return (
            f"{begin}: epsilon {self.counted:.2f} of {plan.epsilon:g}, as a ledger at order "
            f"{plan.order:g} counts{already}: {verdict}. By itself, at its best order, it costs "
            f"{self.alone.words()}"
        )


def unchanged(config: RunConfig, plan: NoisePlan, site: SiteConfig | None) -> Unchanged:
    """Return what a run costs with its own noise.

    Args:
        config: the run.
        plan: what it was made into, at an order.
        site: the hospital, with the patients that are planned for; None: nobody's limits are asked.
    """
    noise = config.privacy.noise
    own = (*(charge for _, charge in plan.kept), *plan.charges(noise))
    counted = plan.cost((*plan.spent, *own))
    refused = "" if site is None else _refused(config, site)
    return Unchanged(noise, quoted(own, plan.delta), counted, plan, refused)


def why_not_at_all(config: RunConfig, plan: NoisePlan, error: ConfigError) -> ConfigError:
    """Return the error of a run that no noise makes fit, with what it would cost as it stands."""
    noise = config.privacy.noise
    cost = plan.cost((*plan.before, *plan.charges(noise)))
    spent = ", with what is counted already" if plan.spent else ""
    return ConfigError(
        f"As the plan stands (noise {noise:g}) it costs epsilon {cost:.2f}{spent}, and does not "
        f"fit into {plan.epsilon:g}; {error}"
    )


def to_fill_in(words: Sequence[str]) -> str:
    """Return what of a run's words a person has to fill in; empty: nothing."""
    if CHECKPOINT not in words:
        return ""
    return "fill in    start.checkpoint: of the run whose parts this one begins with"


def handed_unchanged(run: Sequence[str]) -> tuple[str, ...]:
    """Return the words of a run as it stands, with what it needs to be one.

    Args:
        run: overrides that were typed.
    """
    return (*run_words(run), *words_to_add(run))


def _refused(config: RunConfig, site: SiteConfig) -> str:
    try:
        require_admitted(config, site)
    except ConfigError as error:
        return str(error)
    return ""
