"""What handshake, training and evaluation share: the run's facts, task headers, and sending."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from cardionets_core.config_tree import digest
from cardionets_core.errors import UPDATE_REFUSALS
from cardionets_core.messages import (
    MISSING_MEMORY,
    MISSING_PARTS,
    Notice,
    Task,
    TaskHeader,
    TrainPlan,
    Update,
)
from cardionets_core.packing import Groups, fingerprint
from cardionets_core.privacy.plan import private_task
from cardionets_core.runtime import derive_seed
from server.attendance import Attendance
from server.memory import generations, named
from server.privacy import Ledgers, knowing, note_report
from server.rounds import Expected, RoundResult, run_round

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from flwr.serverapp import Grid

    from cardionets_core.evaluation.options import EvaluationOptions
    from cardionets_core.run_config import RunConfig
    from server.state import RunState, SiteRecord

Action = Literal["describe", "train", "fit", "score"]


@dataclass
class Run:
    """The engine, the plan, and who is there.

    Attributes:
        grid: Flower's message door.
        config: the frozen plan.
        folder: the run's folder.
        report: called after every round with its record (progress, tracking).
        nodes: site name -> node id, from the handshake of this Flower run.
        sent: site name -> part -> fingerprint of the frozen weights that the site holds.
        notices: site name -> what its next task tells it of its last answer.
        waiting: told which sites the run waits for, whenever that changes; [] when it goes on.
        arrivals: sites that came in since the last round, with what they said of themselves.
        news: what the next round's record says of sites that came in otherwise than before.
        ledgers: site name -> what its privacy ledger said last, in a private run.
        attendance: which site is at which node, and who is away.
    """

    grid: Grid
    config: RunConfig
    folder: Path
    report: Callable[[dict[str, Any]], None]
    nodes: dict[str, int] = field(default_factory=dict)
    sent: dict[str, dict[str, str]] = field(default_factory=dict)
    notices: dict[str, Notice] = field(default_factory=dict)
    waiting: Callable[[list[str]], None] = lambda sites: None
    arrivals: dict[str, SiteRecord] = field(default_factory=dict)
    news: list[str] = field(default_factory=list)
    ledgers: Ledgers = field(default_factory=dict)
    attendance: Attendance = field(init=False)

    def __post_init__(self) -> None:
        """Begin with nobody seen."""
        self.attendance = Attendance(self.grid, self.nodes)

    @property
    def checkpoint(self) -> Path:
        """Folder of the checkpoint that is written after every round."""
        return self.folder / "checkpoint"


def header(
    run: Run,
    state: RunState,
    stage: str,
    *,
    action: Action = "train",
    number: int = 1,
    trains: Iterable[str] = (),
    parts: Iterable[str] = (),
    plan: TrainPlan | None = None,
    evaluation: EvaluationOptions | None = None,
) -> TaskHeader:
    """Make the header of a task; the weights that it names are the deployed ones where frozen.

    A part that stays at the sites is not named: nothing of it travels.
    """
    trains, config = tuple(trains), run.config
    frozen = state.deployed()
    return TaskHeader(
        run=config.name,
        config_hash=digest(config),
        stage=stage,
        action=action,
        round=number,
        seed=derive_seed(config.seed, stage, action, number),
        threads=config.threads,
        model=config.sized_model(),
        phenotypes=config.phenotypes,
        diseases=config.diseases,
        scaler_mean=state.scaler_mean,
        scaler_sd=state.scaler_sd,
        trains=trains,
        parts={
            p: fingerprint(state.weights[p] if p in trains else frozen[p])
            for p in parts
            if p in frozen
        },
        min_patients=config.min_patients,
        train=plan,
        evaluation=evaluation,
        local=config.local_parts,
        model_seed=config.seed if config.local_parts else 0,
        privacy=private_task(config, stage, action, number),
    )


def send_round(
    run: Run,
    state: RunState,
    heads: Mapping[str, TaskHeader],
    accept: Callable[[str, Update], str | None],
    deadline_s: float,
    extra: Groups | None = None,
    *,
    enough: Callable[[Sequence[str]], bool] = bool,
    expected_s: Expected | None = None,
    first_s: float = math.inf,
) -> RoundResult:
    """Run one round: trained parts always travel, frozen ones where a site lacks them.

    A training task is told how long it may take: what comes after the deadline nobody reads.

    Args:
        heads: site -> header of its task; these are the sites that are asked.
        extra: further groups of arrays for every site (the probes of the evaluate stage).
        enough: whether the updates of these sites make a quorum.
        expected_s: see run_round; likewise `first_s`.
        first_s: see `expected_s`.
    """
    frozen = state.deployed()
    memories = generations(run.config, state.history)

    def make(site: str, lost: frozenset[str], left_s: float) -> Task:
        head = within(heads[site], left_s)
        held = {} if MISSING_PARTS in lost else run.sent.setdefault(site, {})
        weights = {p: state.weights[p] for p in head.trains if p in state.weights}
        for part, mark in head.parts.items():
            if part not in head.trains and held.get(part) != mark:
                weights[part] = frozen[part]
        memory = named(memories.get(site, ()), lost=MISSING_MEMORY in lost)
        head = replace(head, notice=run.notices.get(site), memory=memory)
        return Task(knowing(head, run.ledgers.get(site)), weights | (extra or {}))

    def heard(site: str, update: Update) -> str | None:
        if update.site == site:
            note_report(run.ledgers, site, update.privacy)  # also of one that is not used
        return accept(site, update)

    result = run_round(
        run.attendance,
        heads,
        make_task=make,
        accept=heard,
        deadline_s=deadline_s,
        enough=enough,
        rejoin_s=run.config.rejoin_s,
        waiting=run.waiting,
        expected_s=expected_s,
        first_s=first_s,
    )
    for site in result.accepted:
        head = heads[site]
        kept = {p: m for p, m in head.parts.items() if p not in head.trains}
        run.sent.setdefault(site, {}).update(kept)
    for site, head in heads.items():
        keep_notice(run.notices, head.stage, head.round, site=site, code=result.refused.get(site))
    return result


def within(head: TaskHeader, left_s: float) -> TaskHeader:
    """Return a header whose training ends, at the latest, when nobody would read its update."""
    if head.train is None:
        return head
    # In whole seconds, so that a task has as many bytes in every run.
    left_s = float(max(1, int(left_s)))
    budget = min(left_s, head.train.budget_s or left_s)
    return replace(head, train=replace(head.train, budget_s=budget))


def keep_notice(
    notices: dict[str, Notice], stage: str, number: int, *, site: str, code: str | None
) -> None:
    """Keep what a site must be told of its answer, or drop what it has been told.

    Args:
        code: why the answer was not used; None where it was. Of its own refusal, and of Flower's
            errors, a site needs not be told.
    """
    if code in UPDATE_REFUSALS:
        notices[site] = Notice(stage, number, code)
    else:
        notices.pop(site, None)


def notices_of(history: Iterable[dict[str, Any]]) -> dict[str, Notice]:
    """Return what is still to be told after these rounds: a restarted server goes on telling."""
    notices: dict[str, Notice] = {}
    for record in history:
        outcomes = dict.fromkeys(record["accepted"]) | record["refused"]
        for site, code in outcomes.items():
            keep_notice(notices, record["stage"], record["round"], site=site, code=code)
    return notices


def round_record(
    stage: str, number: int, rounds: int, result: RoundResult, updates: dict[str, Update]
) -> dict[str, Any]:
    """Return the JSON record of a round: who, how long, how many bytes, mean metrics."""
    total = sum(u.num_examples for u in updates.values())
    names = sorted({k for u in updates.values() for k in u.metrics})
    lost: dict[str, Any] = {"memory_lost": result.memory_lost} if result.memory_lost else {}
    if result.losses:
        lost["losses"] = dict(sorted(result.losses.items()))
    return {
        "stage": stage,
        "round": number,
        "rounds": rounds,
        "seconds": round(result.seconds, 3),
        "seconds_by_site": {n: round(s, 3) for n, s in sorted(result.seconds_by_site.items())},
        "accepted": result.accepted,
        "refused": result.refused,
        **lost,
        "bytes_down": dict(sorted(result.bytes_down.items())),
        "bytes_up": dict(sorted(result.bytes_up.items())),
        "num_examples": {n: u.num_examples for n, u in sorted(updates.items())},
        "metrics": {k: _weighted(k, updates, total) for k in names},
        "site_metrics": {n: dict(sorted(u.metrics.items())) for n, u in sorted(updates.items())},
    }


def _weighted(key: str, updates: dict[str, Update], total: int) -> float:
    """Return the mean of a metric over the sites that report it, weighted by training patients."""
    having = [u for _, u in sorted(updates.items()) if key in u.metrics]
    weight = sum(u.num_examples for u in having)
    return sum(u.metrics[key] * u.num_examples for u in having) / weight
