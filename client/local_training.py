"""What a site does with a task: describe itself, train, or evaluate."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cardionets_core.codec import decode, encode
from cardionets_core.errors import SiteError, WireError
from cardionets_core.evaluation.evaluate import fit_sums, score_sums
from cardionets_core.faults import fault_place, fault_point
from cardionets_core.messages import Task, TaskHeader, Update
from cardionets_core.runtime import derive_seed, pick_device, set_up, versions
from cardionets_core.training.loop import Budget, measure, train_locally
from cardionets_core.training.objectives import make_objective
from cardionets_core.training.stages import STAGES, configured
from client.members import Cohort, Trained, examples_of, metrics_of, studies_of
from client.memory import CONTROL, LOCAL, RESIDUAL, Memory, RunMemory, remembers, task_mark
from client.policy import (
    admit,
    admit_private,
    floored,
    is_enough,
    outgoing,
    require_patients,
    site_options,
)
from client.private_answers import answer_privately
from client.private_training import trained_privately
from client.secure_rounds import serve_securely
from client.weights import Controls, difference, gather_weights, load_model, personal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cardionets_core.data.dataset import SiteDataset
    from cardionets_core.messages import TrainPlan
    from cardionets_core.models.cardionet import CardioNet
    from cardionets_core.packing import Groups
    from cardionets_core.training.objective import Objective
    from cardionets_core.training.stages import Stage
    from client.site import Site

PROBES = "probes"
"""Group of arrays in a score task that are not model weights."""

SHORTEST_S = 0.001
"""What is left of a budget at least, where 0 would mean no limit."""

log = logging.getLogger("cardionets.site")


def serve(task: Task, site: Site) -> Update:
    """Serve one task.

    Raises:
        SiteError: the site refuses, with the code that the coordinator gets.
    """
    header = task.header
    fault_place(stage=header.stage, number=header.round, site=site.name)
    fault_point("received")
    admit(site.config.policy, header)
    admit_private(site.config.privacy, header, mark=site.ledger_mark)
    set_up(header.threads)
    if header.privacy is not None and header.action != "train":
        return answer_privately(task, site)
    if header.action == "describe":
        return _describe(header, site)
    if header.action == "train" and (header.secure or site.config.privacy.secure_sites):
        return serve_securely(task, site, _train)
    if header.action == "train":
        return _train(task, site)
    return _evaluate(task, site)


def _describe(header: TaskHeader, site: Site) -> Update:
    dataset = site.dataset(header)
    counts = dataset.counts()
    require_patients(site.config.policy, header, counts["patients"])
    return Update(
        site=site.name,
        run=header.run,
        stage=header.stage,
        round=header.round,
        counts=counts,
        versions=versions(),
        modalities=tuple(sorted(dataset.modalities)),
        sums=floored(dataset.statistics(), site.config.policy.min_patients),
    )


def _train(task: Task, site: Site) -> Update:
    header = task.header
    stages = asked_stages(header)
    memory = RunMemory(site.runs, header)
    mark = task_mark(task, site.config)
    assert header.train is not None  # `asked_stages` has looked
    with memory.alone(header.train.budget_s) as waited_s:
        answered = memory.answer(mark)
        if answered is not None:
            log.info("stage %s, round %d: answered again as before", header.stage, header.round)
            if header.privacy is not None:
                return answered  # the same bytes, for no charge; a time would be content
            # What this task has waited for the other one, the server has seen itself.
            return replace(answered, seconds_before=max(0.0, answered.seconds_before - waited_s))
        started = time.monotonic()
        before = memory.read(header.memory).entering(header.stage)
        sooner = _sooner(task, waited_s)
        if header.privacy is not None:
            update, after = trained_privately(sooner, site, stages, before, mark=mark)
            kept = update
        else:
            update, after = _trained(sooner, site, stages, before)
            kept = replace(update, seconds_before=time.monotonic() - started)
        if remembers(header):
            memory.write(header, after)
        memory.keep_answer(mark, kept)
        fault_point("ledger_written")
        return update


def _sooner(task: Task, waited_s: float) -> Task:
    """Return the task with what is left of its budget: nobody waits longer than that."""
    plan = task.header.train
    assert plan is not None
    if not plan.budget_s:
        return task
    left = replace(plan, budget_s=max(SHORTEST_S, plan.budget_s - waited_s))
    return replace(task, header=replace(task.header, train=left))


def asked_stages(header: TaskHeader) -> tuple[Stage, ...]:
    """Return the stage of a training task, or the members of it that this site is asked for.

    Raises:
        SiteError: `refused_task`: it would train other parts than the stage does.
        WireError: there is no such stage, or no plan.
    """
    plan = header.train
    if plan is None or header.stage not in STAGES:
        raise WireError(f"a train task for stage {header.stage!r} without a plan")
    asked = configured(header.stage, plan.options, header.model).training(header.trains)
    if not asked:
        # The site knows what a stage trains; a server cannot widen it.
        raise SiteError("refused_task")
    return asked


def _trained(
    task: Task, site: Site, stages: Sequence[Stage], memory: Memory
) -> tuple[Update, Memory]:
    """Train, and return the update with what the site must remember of it."""
    header, plan = task.header, task.header.train
    assert plan is not None
    dataset = site.dataset(header)
    fault_point("loading")
    cohorts = _cohorts(dataset, stages, site=site, header=header)
    weights = gather_weights(task, site)
    model = load_model(header, weights, memory.groups.get(LOCAL, {}))
    model = model.to(pick_device(site.config.device))
    arrived = {p: weights[p] for p in header.trains if p in weights}
    control = Controls.of(task, memory, arrived)
    fault_point("loaded")
    budget = Budget(plan.budget_s)  # one for all members of a stage
    trained = [
        _train_stage(model, dataset, cohort, site=site, task=task, control=control, budget=budget)
        for cohort in cohorts
    ]
    fault_point("trained")
    parts = tuple(p for t in trained for p in t.parts)
    delta = difference(model, {p: arrived[p] for p in parts if p in arrived})
    sent, residual = encode(delta, plan.codec, memory.groups.get(RESIDUAL, {}))
    update = Update(
        site=site.name,
        run=header.run,
        stage=header.stage,
        round=header.round,
        num_examples=studies_of(trained),
        metrics=outgoing(metrics_of(trained)),
        delta=sent,
        steps=sum(t.result.steps for t in trained),
        planned_steps=sum(t.result.planned_steps for t in trained),
        examples={p: n for p, n in examples_of(trained).items() if p in sent},
    )
    after = {
        LOCAL: memory.groups.get(LOCAL, {}) | personal(model, parts, header.local),
        RESIDUAL: memory.groups.get(RESIDUAL, {}) | residual,
        CONTROL: _controls_after(control, model, sent, trained=trained, plan=plan),
    }
    return update, Memory(header.stage, after)


def _controls_after(
    control: Controls,
    model: CardioNet,
    sent: Groups,
    *,
    trained: Sequence[Trained],
    plan: TrainPlan,
) -> Groups:
    """Return the site's control variates after training; nothing where the task uses none."""
    if not control.used:
        return {}
    # From what the server gets of the update, so that both go on from the same numbers.
    got = decode(sent, plan.codec)
    after = dict(control.own)
    for t in trained:
        moved = {p: got[p] for p in t.parts if p in got}
        after |= control.after(model, moved, steps=t.result.steps, lr=plan.lr)
    return after


def _cohorts(
    dataset: SiteDataset, stages: Sequence[Stage], *, site: Site, header: TaskHeader
) -> list[Cohort]:
    """Return whom each stage is trained on; of several, those with too few patients are left out.

    Raises:
        SiteError: `refused_cohort`: too few for all of them.
    """
    plan, policy = header.train, site.config.policy
    assert plan is not None
    kept: list[Cohort] = []
    most = 0
    for stage in stages:
        indices = dataset.indices("train", stage.needs)
        patients = persons(dataset, indices)
        if plan.max_steps:
            patients = min(patients, plan.max_steps * plan.batch_size)
        most = max(most, patients)
        if is_enough(policy, header, patients):
            kept.append(Cohort(stage, indices))
    require_patients(policy, header, most)
    return kept


def _train_stage(
    model: CardioNet,
    dataset: SiteDataset,
    cohort: Cohort,
    *,
    site: Site,
    task: Task,
    control: Controls,
    budget: Budget,
) -> Trained:
    """Train one stage, or one member of a stage, in place."""
    header, plan, stage = task.header, task.header.train, cohort.stage
    assert plan is not None
    objective = make_objective(stage.name, plan.options, plan.progress)
    before = _held_out(model, dataset, objective, stage=stage, site=site, task=task)
    # Members draw numbers of their own; a stage by itself draws what it always drew.
    own = () if stage.name == header.stage else (stage.name,)
    result = train_locally(
        model,
        dataset,
        objective,
        trains=stage.trains,
        indices=cohort.indices,
        plan=plan,
        seed=derive_seed(header.seed, site.name, *own),
        device=model.device,
        compile_step=site.config.compile,
        correction=control.correction(stage.trains),
        budget=budget,
    )
    if stage.name == "tokenizer":
        update_latent_statistics(model, dataset, cohort.indices, plan.batch_size)
    return Trained(cohort, result, before)


def _held_out(
    model: CardioNet,
    dataset: SiteDataset,
    objective: Objective,
    *,
    stage: Stage,
    site: Site,
    task: Task,
) -> dict[str, float]:
    """Return the loss before training on the validation split, if it holds enough patients."""
    plan = task.header.train
    assert plan is not None
    rows = dataset.indices("validation", stage.needs)
    if persons(dataset, rows) < site.config.policy.min_patients:
        rows = rows[:0]  # a loss over so few would tell about single patients
    return measure(
        model,
        dataset,
        objective,
        indices=rows,
        batch_size=plan.batch_size,
        # The same draw every round, so that the curve shows the model and not the dice.
        seed=derive_seed("validation", stage.name, site.name),
        device=model.device,
    )


def _evaluate(task: Task, site: Site) -> Update:
    header = task.header
    if header.evaluation is None:
        raise WireError("an evaluate task without options")
    dataset = site.dataset(header)
    require_patients(site.config.policy, header, dataset.counts()["patients"])
    options = site_options(site.config.policy, header.evaluation)
    weights = gather_weights(task, site)
    named = header.memory if header.local else ""
    own = RunMemory(site.runs, header).read(named).groups.get(LOCAL, {})
    model = load_model(header, weights, own).to(pick_device(site.config.device)).eval()
    if header.action == "fit":
        sums = fit_sums(model, dataset, options)
    else:
        probes = {k: np.array(v) for k, v in task.weights.get(PROBES, {}).items()}
        seed = derive_seed(header.seed, site.name)
        sums = score_sums(model, dataset, probes, options, seed=seed)
    return Update(site=site.name, run=header.run, stage=header.stage, round=header.round, sums=sums)


def persons(dataset: SiteDataset, indices: np.ndarray) -> int:
    """Return how many different patients stand behind these studies."""
    return int(dataset.manifest.table["patient_id"].iloc[indices].nunique())


def update_latent_statistics(
    model: CardioNet, dataset: SiteDataset, indices: np.ndarray, batch_size: int
) -> None:
    """Measure the mean and mean square of the tokenizer's latents over the training patients."""
    model.eval()
    model.update_latent_statistics(
        dataset.batch(indices[i : i + batch_size], rng=None).to(next(model.parameters()).device)
        for i in range(0, len(indices), batch_size)
    )
