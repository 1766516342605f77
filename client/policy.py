"""The hospital's veto: what is asked against what its own YAML allows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cardionets_core import __version__
from cardionets_core.errors import SiteError
from cardionets_core.training.stages import STAGES
from cardionets_core.wire_limits import LARGEST_METRIC, METRIC_PREFIXES

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from cardionets_core.evaluation.options import EvaluationOptions
    from cardionets_core.messages import TaskHeader
    from cardionets_core.site_config import SitePolicy

ACTION_STAGES = {"describe": "handshake", "fit": "evaluate", "score": "evaluate"}
"""Action of a task -> the stage that it belongs to; `train` belongs to all others."""

STAGE_OF_OTHERS = frozenset(ACTION_STAGES.values())


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
