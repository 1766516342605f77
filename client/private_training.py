"""What a private training task does: charge the ledger, then take its noisy steps, all of them.

No count of patients decides anything here: not whether the task is served, nor how many steps it
takes, nor what the update weighs. What leaves is in client/release.py.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cardionets_core.codec import encode
from cardionets_core.errors import SiteError
from cardionets_core.faults import fault_point
from cardionets_core.privacy.bank import open_bank
from cardionets_core.privacy.clippable import pick_engine
from cardionets_core.privacy.latents import MEASURED, release_latent_statistics
from cardionets_core.privacy.mechanism import mechanism_for
from cardionets_core.privacy.metrics import release_charge
from cardionets_core.privacy.objectives import private_objective
from cardionets_core.privacy.places import engine_here
from cardionets_core.privacy.rng import PrivacyRandom
from cardionets_core.privacy.step import require_trainable, train_privately
from cardionets_core.privacy.units import PatientIndex
from cardionets_core.runtime import derive_seed, pick_device
from client.charging import charged
from client.memory import LOCAL, RESIDUAL, Memory
from client.policy import is_enough, needs_bank
from client.release import trained_update
from client.weights import difference, gather_weights, load_model, personal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cardionets_core.data.dataset import SiteDataset
    from cardionets_core.messages import Task, TaskHeader, Update
    from cardionets_core.models.cardionet import CardioNet
    from cardionets_core.privacy.accounting import Charge
    from cardionets_core.privacy.bank import Bank
    from cardionets_core.privacy.engines import Engine
    from cardionets_core.privacy.mechanism import Mechanism
    from cardionets_core.training.objective import Objective
    from cardionets_core.training.stages import Stage
    from client.site import Site

log = logging.getLogger("cardionets.site")


def trained_privately(
    task: Task, site: Site, stages: Sequence[Stage], memory: Memory, *, mark: str
) -> tuple[Update, Memory]:
    """Train with differential privacy; return the update with what the site must remember of it.

    Args:
        task: admitted by the site's policy.
        site: this hospital.
        stages: the stage, or the members of it that are asked for, by what the site declares.
        memory: of the run.
        mark: of the task.

    Raises:
        SiteError: `refused_cohort`, where the hospital declares too few patients.
        PrivacyError: the ledger does not allow it; nothing was computed.
    """
    header, plan, privacy = task.header, task.header.train, site.config.privacy
    assert plan is not None
    if not is_enough(site.config.policy, header, privacy.patients):
        raise SiteError("refused_cohort")
    dataset = site.dataset(header)
    weights = gather_weights(task, site)
    model = load_model(header, weights, memory.groups.get(LOCAL, {}))
    model = model.to(pick_device(site.config.device))
    bank = open_bank(site.config, dataset) if needs_bank(header) else None
    members = [_Member.of(stage, header, patients=privacy.patients, bank=bank) for stage in stages]
    engines = [member.engine_for(model) for member in members]
    fault_point("loaded")
    report = charged(site, dataset, header, charges_of(members), mark=mark)
    fault_point("charged")
    for member, engine in zip(members, engines, strict=True):
        _train(model, dataset, member, engine, site=site, header=header)
    fault_point("trained")
    parts = tuple(p for stage in stages for p in stage.trains)
    delta = difference(model, {p: weights[p] for p in parts if p in weights})
    sent, residual = encode(delta, plan.codec, memory.groups.get(RESIDUAL, {}))
    after = {
        LOCAL: memory.groups.get(LOCAL, {}) | personal(model, parts, header.local),
        RESIDUAL: memory.groups.get(RESIDUAL, {}) | residual,
    }
    update = trained_update(header, site.name, privacy, delta=sent, report=report)
    return update, Memory(header.stage, after)


@dataclass(frozen=True)
class _Member:
    """A stage, or a member of one, as it is trained privately.

    Attributes:
        latent_noise: of the release of the tokenizer's latent statistics; 0: there is none.
    """

    stage: Stage
    objective: Objective
    mechanism: Mechanism
    latent_noise: float

    @classmethod
    def of(cls, stage: Stage, header: TaskHeader, *, patients: int, bank: Bank | None) -> _Member:
        plan, asked = header.train, header.privacy
        assert plan is not None and asked is not None
        objective = private_objective(
            stage.name, plan.options, plan.progress, task=asked, bank=bank
        )
        mechanism = mechanism_for(asked, stage=stage.name, patients=patients)
        measured = MEASURED in stage.trains
        return cls(stage, objective, mechanism, asked.latent_noise if measured else 0.0)

    def engine_for(self, model: CardioNet) -> Engine:
        """Return the engine to use; what cannot be trained privately is refused before a charge."""
        objective, trains, mechanism = self.objective, self.stage.trains, self.mechanism
        asked = pick_engine(model, trains, model.device)
        require_trainable(model, objective, trains=trains, mechanism=mechanism, engine=asked)
        if mechanism.grouping == "bucket":
            return asked  # of no use there
        return engine_here(asked, model, objective, trains)


def charges_of(members: Sequence[_Member]) -> dict[str, Charge]:
    """Return what a task costs: the steps of every member, for a patient may be in all of them.

    And the release of the latent statistics, where it is asked for.
    """
    steps = [member.mechanism.charge for member in members]
    charges = {"train": replace(steps[0], steps=sum(c.steps for c in steps))}
    for member in members:
        if member.latent_noise:
            charges["latents"] = release_charge(member.latent_noise)
    return charges


def _train(
    model: CardioNet,
    dataset: SiteDataset,
    member: _Member,
    engine: Engine,
    *,
    site: Site,
    header: TaskHeader,
) -> None:
    """Take the noisy steps of one stage, or of one member of it, in place."""
    plan, stage, declared = header.train, member.stage, site.config.privacy.patients
    assert plan is not None
    there = PatientIndex(dataset, stage.needs).patients
    log.info("stage %s: %d patients here, %d declared", stage.name, there, declared)
    own = () if stage.name == header.stage else (stage.name,)
    rng = PrivacyRandom()
    train_privately(
        model,
        dataset,
        member.objective,
        trains=stage.trains,
        needs=stage.needs,
        plan=plan,
        mechanism=member.mechanism,
        rng=rng,
        seed=derive_seed(header.seed, site.name, *own),
        device=model.device,
        engine=engine,
    )
    if member.latent_noise:
        release_latent_statistics(
            model, dataset, needs=stage.needs, noise=member.latent_noise, rng=rng
        )
