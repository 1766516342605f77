"""Which stages this hospital would take part in, and why not in the others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cardionets_core.training.stages import STAGES, Stage
from client.checks.findings import Finding, StageVerdict, error, ok, warning
from client.local_training import persons
from client.policy import allows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cardionets_core.data.dataset import SiteDataset
    from cardionets_core.run_config import RunConfig
    from cardionets_core.site_config import SitePolicy

OFFERS = {
    "ecg": "no ECG",
    "cine": "no cine",
    "pairs": "no patient with ECG and cine",
    "phenotypes": "no phenotypes",
    "diseases": "no disease labels",
}
"""What a stage needs -> what a site without it is told."""


def judge_stages(
    policy: SitePolicy, dataset: SiteDataset, plan: RunConfig
) -> tuple[StageVerdict, ...]:
    """Return a verdict on every stage, by the rules that a task meets (client/local_training.py).

    Args:
        policy: the site's own.
        dataset: its records.
        plan: the default plan of a run: its floor, and the local epochs that it asks for.
    """
    everyone = dataset.counts()["patients"]
    verdicts = [_judge("handshake", policy, everyone, plan)]
    verdicts += [_judge_training(stage, policy, dataset, plan) for stage in STAGES.values()]
    return (*verdicts, _judge_evaluate(policy, dataset, plan))


def _judge_evaluate(policy: SitePolicy, dataset: SiteDataset, plan: RunConfig) -> StageVerdict:
    """Return the verdict on the stage that reports: it counts the patients of the test split."""
    counts = dataset.counts()
    verdict = replace(
        _judge("evaluate", policy, counts["patients"], plan), patients=counts["test_patients"]
    )
    floor = _floor_of(policy, plan)
    if not verdict.takes_part or verdict.patients >= floor:
        return verdict
    why = f"the test split holds fewer than the floor of {floor}: no results of this site"
    return replace(verdict, takes_part=False, why=why)


def _floor_of(policy: SitePolicy, plan: RunConfig) -> int:
    """Return the fewest persons that anything is told of."""
    return max(policy.min_patients, plan.min_patients, 1)


def _judge_training(
    stage: Stage, policy: SitePolicy, dataset: SiteDataset, plan: RunConfig
) -> StageVerdict:
    """Return the verdict on a training stage; one with members goes by the largest of them."""
    served = stage.at(dataset.modalities)
    if not served:
        lacks = OFFERS.get(stage.modality, "no ECG and no cine")
        if stage.modality in dataset.modalities:
            lacks = next(OFFERS[n] for n in sorted(stage.needs) if n not in dataset.modalities)
        return StageVerdict(stage.name, False, 0, lacks)
    groups = {m.name: persons(dataset, dataset.indices("train", m.needs)) for m in served}
    floor = _floor_of(policy, plan)
    members = [name for name, patients in groups.items() if patients >= floor]
    members = members if stage.members else []
    return _judge(stage.name, policy, max(groups.values()), plan, members)


def _judge(
    name: str,
    policy: SitePolicy,
    patients: int,
    plan: RunConfig,
    members: Sequence[str] = (),
) -> StageVerdict:
    floor = _floor_of(policy, plan)
    settings = plan.stage.get(name)
    if not allows(policy, name, members):
        return StageVerdict(name, False, patients, "policy.stages does not list it")
    if patients < floor:
        return StageVerdict(name, False, patients, f"fewer persons than the floor of {floor}")
    if settings is not None and settings.local_epochs > policy.max_local_epochs:
        why = f"asks for {settings.local_epochs} local epochs, policy.max_local_epochs is"
        return StageVerdict(name, False, patients, f"{why} {policy.max_local_epochs}")
    return StageVerdict(name, True, patients, "takes part")


def check_policy(
    policy: SitePolicy, stages: tuple[StageVerdict, ...], persons_in_all: int
) -> list[Finding]:
    """Look whether the policy leaves this site something to do."""
    found: list[Finding] = []
    if policy.min_patients > persons_in_all:
        found.append(_floor(policy.min_patients, persons_in_all))
    found += _unlisted(policy, stages)
    training = [s for s in stages if s.name in STAGES]
    if not any(s.takes_part for s in training) and not found:
        found.append(_nothing_left(training))
    epochs = [s.name for s in training if "max_local_epochs" in s.why]
    if epochs:
        found.append(
            warning(
                "policy",
                "policy_epochs",
                f"policy.max_local_epochs is {policy.max_local_epochs}: {', '.join(epochs)} of the "
                "default plan ask for more.",
                cause="A task over the limit is refused, and the round goes on without this site.",
                next_step="Raise it, or agree on fewer local epochs with the coordinator.",
            )
        )
    return found or [_summary(policy)]


def _summary(policy: SitePolicy) -> Finding:
    allowed = ", ".join(policy.stages) or "all"
    return ok(
        "policy",
        f"Stages allowed: {allowed}; floor {policy.min_patients} persons; at most "
        f"{policy.max_local_epochs} local epochs.",
    )


def _floor(minimum: int, persons_in_all: int) -> Finding:
    return error(
        "policy",
        "policy_floor",
        f"policy.min_patients is {minimum}, and the site has {persons_in_all} persons.",
        cause="Every task is refused, the handshake too: the site would never be seen.",
        next_step="Add patients, or lower policy.min_patients if the hospital agrees.",
    )


def _unlisted(policy: SitePolicy, stages: tuple[StageVerdict, ...]) -> list[Finding]:
    if not policy.stages:
        return []
    listed = f"policy.stages lists {', '.join(policy.stages)}"
    if "handshake" not in policy.stages:
        return [
            error(
                "policy",
                "policy_handshake",
                f"{listed}, and not handshake.",
                cause="A run begins with it: a site that refuses it is asked for nothing else.",
                next_step="Add handshake to the list, or empty the list to allow all stages.",
            )
        ]
    served = [s for s in stages if s.name in policy.stages and s.name in STAGES and s.takes_part]
    if served:
        return []
    return [
        error(
            "policy",
            "policy_no_stage",
            f"{listed}: none of them trains on what this site has.",
            cause="The site would introduce itself and then sit out every stage.",
            next_step="List stages that the table below shows data for, or empty the list.",
        )
    ]


def _nothing_left(training: list[StageVerdict]) -> Finding:
    reasons = sorted({s.why for s in training})
    return error(
        "policy",
        "no_stage",
        "There is no training stage that this site could serve.",
        cause=f"The reasons: {'; '.join(reasons)}.",
        next_step="See the table of stages; more patients or more columns in the manifest help.",
    )
