"""What the sites' refusals mean for a run that ends for want of sites, and what helps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cardionets_core.errors import SITE_ERROR_CODES, IncompleteError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SPENT = "privacy_spent"

RESUME = "The run can be resumed from its last round."

SPENT_WAYS = (
    "To resume alone does not help: the same round would be refused again. The hospital alone can "
    "raise its budget (`cardionets-site budget raise`, then privacy.epsilon in its YAML); then "
    "resume. Or submit another run: one that costs less (fewer rounds or steps, a smaller rate, "
    "more noise), or with a lower min_sites; start.checkpoint takes this run's weights over."
)


PLAN = "privacy_plan"

PLAN_WAYS = (
    "To resume does not help: the same would be asked again. Submit a plan that these sites allow; "
    "each site's log says what it does not. A plan with privacy.mode=none asks for no privacy at "
    "all (plan=private does), and sites have least noise, largest rates and budgets of their own."
)


def too_few(
    what: str,
    refused: Mapping[str, str],
    *,
    missing: Iterable[str] | None = None,
    otherwise: str = RESUME,
) -> IncompleteError:
    """Return the error that ends a run for want of sites.

    Args:
        what: what there was too little of, in a sentence.
        refused: site -> code.
        missing: the sites that are named as missing; None: those of `refused`.
        otherwise: what to do where the codes do not say it.
    """
    return IncompleteError(
        f"{what} {next_steps(refused, otherwise)}",
        refused if missing is None else missing,
        resume_helps=not {SPENT, PLAN} & set(refused.values()),
    )


def next_steps(refused: Mapping[str, str], otherwise: str = RESUME) -> str:
    """Return what the codes of the sites' own refusals say, site by site, and what to do.

    Args:
        refused: site -> code; codes that are not a site's own are left out.
        otherwise: what to do where no privacy budget is spent.
    """
    said = [
        f"{site}: {SITE_ERROR_CODES[code]}."
        for site, code in sorted(refused.items())
        if code in SITE_ERROR_CODES
    ]
    codes = set(refused.values())
    ways = SPENT_WAYS if SPENT in codes else PLAN_WAYS if PLAN in codes else otherwise
    return " ".join([*said, ways])
