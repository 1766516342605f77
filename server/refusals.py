"""What the sites' refusals mean for a run that ends for want of sites, and what helps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cardionets_core.errors import SITE_ERROR_CODES, IncompleteError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SPENT, PLAN = "privacy_spent", "privacy_plan"

RESUME = "The run can be resumed from its last round."

NOT_ALONE = "To resume alone does not help: the same would be refused again."

_BUDGETS = (
    "The hospital alone can raise its budget (`cardionets-site budget raise`, then privacy.epsilon "
    "in its YAML); then resume. Or submit another run: one that costs less (fewer rounds or steps, "
    "a smaller rate, more noise), or with a lower min_sites; start.checkpoint takes this run's "
    "weights over."
)

SPENT_WAYS = f"{NOT_ALONE} {_BUDGETS}"

_PLAN = (
    "The plan is private, and each site's log says what it does not allow: sites have least noise, "
    "largest rates and ledgers of their own. Submit a plan that these sites allow."
)

_NOT_PRIVATE = (
    "The plan has privacy.mode=none, and these sites take private tasks only. Submit a private one "
    "(plan=private is); or the hospital sets privacy.required=false, then resume."
)

_POLICY = (
    "The hospital changes the section `policy` of its YAML, then resume; or submit a plan that "
    "these sites allow."
)

WAYS: dict[str, str] = {
    "config": "The hospital corrects its YAML, of which its own log names the key; then resume.",
    "privacy_ledger": (
        "The hospital puts the newest state of its ledger's three files back, as its own log says; "
        "nothing else helps. Then resume."
    ),
    "secure_aggregation": (
        "The hospital's log names the rule. Where it wants more sites in a sum "
        "(privacy.secure_sites), it lowers that number or more sites join; or submit a run with a "
        "higher secure_aggregation.threshold (docs/secure_aggregation.md). Where it does not know "
        "another's key (privacy.peers), it adds it. Then resume."
    ),
    "refused_version": "Bring both sides to the same version of CardioNets, then resume.",
    "refused_stage": _POLICY,
    "refused_cohort": _POLICY,
    "refused_task": _POLICY,
    SPENT: _BUDGETS,
    PLAN: _PLAN,
}
"""Code -> who must do what, of refusals that are the same whenever the same is asked.

A secure round has been tried twice with fresh keys by the time it is refused: keys that were lost
are not the reason then.
"""


def too_few(
    what: str,
    refused: Mapping[str, str],
    *,
    private: bool,
    lacking: int,
    missing: Iterable[str] | None = None,
    otherwise: str = RESUME,
) -> IncompleteError:
    """Return the error that ends a run for want of sites.

    Args:
        what: what there was too little of, in a sentence.
        refused: site -> code.
        private: the plan asks its tasks with privacy.
        lacking: sites that were lacking; where only parts were, no number above 0.
        missing: the sites that are named as missing; None: those of `refused`.
        otherwise: what to do where the codes do not say it.
    """
    passing = [site for site, code in refused.items() if code not in WAYS]
    stuck = len(passing) < len(refused)
    helps = not stuck or (len(passing) > 0 and len(passing) >= lacking)
    return IncompleteError(
        f"{what} {next_steps(refused, private=private, otherwise=otherwise if helps else '')}",
        refused if missing is None else missing,
        resume_helps=helps,
        refused=refused,
    )


def next_steps(refused: Mapping[str, str], *, private: bool, otherwise: str = RESUME) -> str:
    """Return what the codes of the sites' own refusals say, site by site, and what to do.

    Args:
        refused: site -> code; codes that are not a site's own are left out.
        private: the plan asks its tasks with privacy.
        otherwise: what to do first; empty: nothing helps but what the codes ask for.
    """
    said = [
        f"{site}: {SITE_ERROR_CODES[code]}."
        for site, code in sorted(refused.items())
        if code in SITE_ERROR_CODES
    ]
    ways = {code: way for code, way in WAYS.items() if code in refused.values()}
    if PLAN in ways and not private:
        ways[PLAN] = _NOT_PRIVATE
    # Two codes may have one way out, which is said once.
    return " ".join([*said, otherwise or NOT_ALONE, *dict.fromkeys(ways.values())])


def in_words(refused: Mapping[str, str]) -> str:
    """Return who refused, and how: `hill: late, north: config`, or `none`."""
    return ", ".join(f"{site}: {code}" for site, code in sorted(refused.items())) or "none"
