"""The hospital's veto: what is asked against what its own YAML allows."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cardionets_core import __version__
from cardionets_core.errors import SiteError
from cardionets_core.privacy.latents import MEASURED
from cardionets_core.privacy.mechanism import MIXING_STAGES
from cardionets_core.privacy_config import BUCKET_SIZES, LARGE_EPSILON
from cardionets_core.training.stages import STAGES
from cardionets_core.wire_limits import LARGEST_METRIC, METRIC_PREFIXES

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from cardionets_core.evaluation.options import EvaluationOptions
    from cardionets_core.messages import TaskHeader
    from cardionets_core.privacy_config import PrivateTask, SitePrivacy
    from cardionets_core.site_config import SitePolicy

ACTION_STAGES = {"describe": "handshake", "fit": "evaluate", "score": "evaluate"}
"""Action of a task -> the stage that it belongs to; `train` belongs to all others."""

LEAST_CLIP, LARGEST_CLIP = 1e-6, 1e6
"""Of a private step: beyond, rounding is no longer small beside the noise."""

STAGE_OF_OTHERS = frozenset(ACTION_STAGES.values())

log = logging.getLogger("cardionets.site")


def admit(policy: SitePolicy, header: TaskHeader) -> None:
    """Let a task in, or refuse it.

    Raises:
        SiteError: `refused_version`, `refused_stage` or `refused_task`.
    """
    if header.stage in STAGE_OF_OTHERS or header.action in ACTION_STAGES:
        # What is done decides which stage it is; a server cannot rename an evaluation.
        if ACTION_STAGES.get(header.action) != header.stage:
            raise SiteError("refused_task")
    if header.version != __version__:
        raise SiteError("refused_version")
    members = asked_members(header)
    if not allows(policy, header.stage, members):
        raise SiteError("refused_stage")
    if header.train is not None and header.train.local_epochs > policy.max_local_epochs:
        raise SiteError("refused_task")


def admit_private(privacy: SitePrivacy, header: TaskHeader, *, mark: Path | None = None) -> None:
    """Let a task in by what the hospital demands of privacy, or refuse it.

    Nothing here looks at the records: whether a task is refused tells nothing about them.

    Args:
        privacy: the site's settings.
        header: of the task.
        mark: of a ledger that pays for the site's records (`found_mark`): where the YAML names
            none and does not say otherwise, it counts like one that is named.

    Raises:
        SiteError: `privacy_plan`.
    """
    asked = header.privacy
    if asked is None:
        if privacy.is_required or (mark is not None and privacy.required is None):
            log.warning(
                "refused: this hospital has a privacy ledger%s, or privacy.required, and the task "
                "is not private; privacy.required=false would let it in",
                f" (by {mark})" if mark is not None else "",
            )
            raise SiteError("privacy_plan")
        return
    reason = not_admitted(privacy, header, asked)
    if reason:
        log.warning("refused: %s", reason)
        raise SiteError("privacy_plan")


def not_admitted(privacy: SitePrivacy, header: TaskHeader, asked: PrivateTask) -> str:
    """Return why this hospital refuses a private task; nothing where it lets it in."""
    return _not_allowed(privacy, asked) or _not_private(privacy, header, asked)


def _not_allowed(privacy: SitePrivacy, asked: PrivateTask) -> str:
    """Return why this hospital does not allow what a task asks; nothing where it does."""
    if not privacy.ledger:
        return "privacy.ledger is not set, so this site takes no part in private runs"
    numbers = (asked.noise, asked.rate, asked.clip, asked.latent_noise)
    if not all(math.isfinite(v) for v in numbers):
        return "a number of the privacy plan is not finite"
    if asked.profile != "membership" and not privacy.is_large:
        return (
            f"the plan is {asked.profile}, which hides nobody's taking part, and this hospital's "
            f"privacy.epsilon is {privacy.epsilon:g}; only {LARGE_EPSILON:g} or more, recorded by "
            "`cardionets-site budget raise`, would let it in"
        )
    if asked.noise < privacy.min_noise:
        return f"noise {asked.noise:g} is below privacy.min_noise {privacy.min_noise:g}"
    if asked.latent_noise and asked.latent_noise < privacy.min_noise:
        return (
            f"latent_noise {asked.latent_noise:g} is below privacy.min_noise {privacy.min_noise:g}"
        )
    if not LEAST_CLIP <= asked.clip <= LARGEST_CLIP:
        return f"clip {asked.clip:g} is not between {LEAST_CLIP:g} and {LARGEST_CLIP:g}"
    if not 0 < asked.rate <= 1 or asked.steps < 1 or asked.bucket_size not in BUCKET_SIZES:
        return "rate, steps or bucket_size of the privacy plan is out of range"
    return ""


def _not_private(privacy: SitePrivacy, header: TaskHeader, asked: PrivateTask) -> str:
    """Return why a task of this kind cannot be served privately; nothing where it can."""
    plan = header.train
    if asked.latent_noise and MEASURED not in header.trains:
        return f"latent statistics are asked for, and the task does not train the {MEASURED}"
    if header.action != "train" or plan is None:
        # A release over all patients, once: no sampling that would hide anybody.
        return "" if (asked.rate, asked.steps) == (1.0, 1) else "a release is of rate 1, once"
    if asked.rate > privacy.max_rate:
        return f"rate {asked.rate:g} is above privacy.max_rate {privacy.max_rate:g}"
    if plan.max_steps != asked.steps:
        return f"max_steps is {plan.max_steps} and the privacy plan says {asked.steps} steps"
    if plan.control != "none":
        return "SCAFFOLD's control variates are not part of private training"
    if plan.partial:
        return "a private round takes all of its steps: partial work is not taken"
    if needs_bank(header) and not privacy.bank:
        return "the contrastive loss is to use a public bank, and privacy.bank is not set"
    return ""


def needs_bank(header: TaskHeader) -> bool:
    """Return whether a private training task takes its negatives from the site's public bank."""
    asked = header.privacy
    mixes = header.stage in MIXING_STAGES
    return mixes and asked is not None and asked.contrastive == "public_negatives"


def asked_members(header: TaskHeader) -> tuple[str, ...]:
    """Return the members of a stage that a task asks this site to train, where it has members."""
    stage = STAGES.get(header.stage)
    if stage is None or not stage.members:
        return ()
    return tuple(member.name for member in stage.training(header.trains))


def allows(policy: SitePolicy, stage: str, members: Collection[str] = ()) -> bool:
    """Return whether the policy lets a stage in: it, or each of its members, stands in the list.

    Args:
        policy: the site's own; an empty list allows every stage.
        stage: its name.
        members: of a stage that is made of several, those that this site would train.
    """
    if not policy.stages or stage in policy.stages:
        return True
    return bool(members) and set(members) <= set(policy.stages)


def require_patients(policy: SitePolicy, header: TaskHeader, patients: int) -> None:
    """Refuse to answer over too few patients.

    Raises:
        SiteError: `refused_cohort`.
    """
    if not is_enough(policy, header, patients):
        raise SiteError("refused_cohort")


def is_enough(policy: SitePolicy, header: TaskHeader, patients: int) -> bool:
    """Return whether a task may be answered over so many patients."""
    return patients >= max(policy.min_patients, header.min_patients, 1)


def floored(statistics: Mapping[str, NDArray[np.float64]], minimum: int) -> dict[str, Any]:
    """Return the phenotype sums of the handshake; a phenotype of fewer patients leaves as zeros.

    Args:
        statistics: `phenotype_n`, `phenotype_sum` and `phenotype_square`, each [P]; all else stays.
        minimum: patients below which a sum would tell about single ones.
    """
    enough = statistics["phenotype_n"] >= minimum
    names = ("phenotype_n", "phenotype_sum", "phenotype_square")
    return {name: np.where(enough, statistics[name], 0.0) for name in names}


def site_options(policy: SitePolicy, asked: EvaluationOptions) -> EvaluationOptions:
    """Return the evaluation options that this site follows, whatever the server asked for.

    No bootstrap replicate leaves (of a small cohort they give every patient's values away), and no
    sum over fewer patients than the site's own floor.
    """
    floor = max(policy.min_patients, asked.minimum_patients)
    return replace(asked, replicates=0, minimum_patients=floor)


def outgoing(metrics: dict[str, float]) -> dict[str, float]:
    """Return the metrics that may leave, in the order of their names; none that is not finite.

    Nor one so large that the coordinator would refuse the whole update for it.
    """
    return {
        k: v
        for k, v in sorted(metrics.items())
        if k.startswith(METRIC_PREFIXES) and abs(v) <= LARGEST_METRIC
    }
