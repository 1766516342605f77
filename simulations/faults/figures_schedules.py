"""Figures 4 and 7: quorum and exactly-once, over random schedules of everything that goes wrong.

The server's own round loop, bookkeeping, firewall and exact sum are played against an engine on a
clock of its own (schedules.py); what is right is counted by hand beside them.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cardionets_core.errors import IncompleteError
from cardionets_core.flower_compat import task_identity
from cardionets_core.messages import Task, TaskHeader, TrainPlan, Update
from cardionets_core.model_config import ModelConfig
from cardionets_core.run_config import RunConfig, StageConfig
from cardionets_core.screening_config import ScreeningConfig
from server.aggregation import ExactMean
from server.attendance import Attendance
from server.exchange import Run
from server.gathering import gather
from server.rounds import RoundResult, run_round
from server.screening import Asked, Firewall
from server.state import RunState, SiteRecord
from simulations.faults.flower_side import flower_4, flower_7
from simulations.faults.row import Row, is_quick
from simulations.faults.schedules import DEADLINE_S, FickleEngine
from simulations.faults.silence import silenced

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

STAGE: Literal["ecg_masked"] = "ecg_masked"
PART = "ecg_encoder"
WEIGHTS = {PART: {"w": np.zeros(1, dtype=np.float32)}}
HEADER = TaskHeader(
    run="run-1",
    config_hash="",
    stage=STAGE,
    action="train",
    round=1,
    seed=1,
    threads=1,
    model=ModelConfig(),
    phenotypes=(),
    diseases=(),
    trains=(PART,),
    train=TrainPlan(1, 1, 1e-3, 0.0, 0.0, 0, 0.0),
)
ROUNDS = 3
REJOIN_S = 15.0


@dataclass
class Counted:
    """What the schedules came to.

    Attributes:
        used: updates that a sum holds.
        twice: updates that a sum, or two of them, hold more than once.
        astray: updates in the sum of another round than they were made for.
        unlike: rounds whose exact sum is not the one that was counted by hand.
        ends: reason -> how often an answer, or a site, stayed out.
        losses: how often a site was lost and asked again.
        fates: what became of the tasks.
    """

    used: int = 0
    twice: int = 0
    astray: int = 0
    unlike: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    losses: int = 0
    fates: Counter[str] = field(default_factory=Counter)


class Play:
    """A run of a few rounds on a fickle engine, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.sites = [f"s{i}" for i in range(Random(seed).randint(1, 4))]
        self.made = 0
        self.used: Counter[float] = Counter()
        self.counted = Counted()
        self.records: list[dict[str, Any]] = []
        self.engine = FickleEngine(seed, self.sites, self.work)
        self.attendance = attend(self.engine)

    def work(self, site: str, number: int) -> Update:
        """Return an honest update; the number in it is its own and says for which round it is."""
        self.made += 1
        return update_of(site, number, value=number * 1000.0 + self.made)

    def round(self, number: int) -> None:
        """Play a round and count what came of it."""
        asked = Asked("run-1", STAGE, number, expected=WEIGHTS, sites=len(self.sites))
        config = ScreeningConfig(norm_factor=0)
        wall = Firewall(asked, config=config, settings=StageConfig(rounds=9), records=self.records)
        wall.start_try()
        mean, expected = ExactMean(), Counter[float]()

        def accept(site: str, update: Update) -> str | None:
            reason = wall.judge(site, update, max_examples=1)
            if reason is None:
                mean.fold(update.delta, 1)
                expected[float(update.delta[PART]["w"][0])] += 1
                self.engine.past.append(update)
            return reason

        result = run_round(
            self.attendance,
            self.sites,
            make_task=lambda site, lost, left_s: Task(replace(HEADER, round=number), WEIGHTS),
            accept=accept,
            deadline_s=DEADLINE_S,
            rejoin_s=REJOIN_S,
        )
        self._count(number, result, mean, expected)
        self.records.append(
            {
                "stage": STAGE,
                "round": number,
                "accepted": result.accepted,
                "refused": result.refused,
                "num_examples": dict.fromkeys(result.accepted, 1),
                "screening": wall.record(result.accepted),
            }
        )

    def _count(
        self, number: int, result: RoundResult, mean: ExactMean, expected: Counter[float]
    ) -> None:
        counted = self.counted
        ended = sorted([*result.accepted, *result.refused])
        total = mean.weight
        sums_up = total == len(result.accepted) == expected.total() and ended == self.sites
        if total:
            got = round(float(mean.mean()[PART]["w"][0]) * total)
            sums_up = sums_up and got == sum(work * times for work, times in expected.items())
        counted.unlike += not sums_up
        self.used += expected
        counted.used += expected.total()
        counted.astray += sum(t for work, t in expected.items() if int(work) // 1000 != number)
        counted.ends.update(result.refused.values())
        counted.losses += sum(result.losses.values())


def update_of(site: str, number: int, *, value: float) -> Update:
    """Return an update of one number."""
    delta = {PART: {"w": np.array([value], dtype=np.float32)}}
    return Update(site, "run-1", STAGE, number, 1, delta=delta, steps=1, planned_steps=1)


def attend(engine: FickleEngine) -> Attendance:
    """Return who is there at an engine, after its handshake."""
    attendance = Attendance(
        engine,  # type: ignore[arg-type]
        engine.places(),
        clock=engine.clock,
        sleep=engine.clock.sleep,
    )

    def welcome(node: int, update: Update) -> None:
        attendance.nodes[update.site] = node

    attendance.describe = lambda node: Task(replace(HEADER, stage="handshake", action="describe"))
    attendance.welcome = welcome
    return attendance


def exactly_once(schedules: int, *, first: int = 0) -> Counted:
    """Play so many schedules, of the seeds from `first` on, and add up what they came to."""
    total = Counted()
    with _planned_losses(), task_identity(run_id=1, node_id=1):
        for seed in range(first, first + schedules):
            play = Play(seed)
            for number in range(1, ROUNDS + 1):
                play.round(number)
            one = play.counted
            total.used += one.used
            total.twice += sum(times - 1 for times in play.used.values())
            total.astray += one.astray
            total.unlike += one.unlike
            total.losses += one.losses
            total.ends.update(one.ends)
            total.fates.update(play.engine.fates)
    return total


def figure_7(work: Path) -> Row:
    """Every update counts once, in its round, or not at all."""
    schedules = 500 if is_quick() else 10_000
    got = exactly_once(schedules)
    kept_out = ", ".join(f"{reason} {times}" for reason, times in sorted(got.ends.items()))
    return Row(
        figure=7,
        what="copies, late replies, replays, lost and moved sites in random schedules",
        target="0 counted twice, 0 in a wrong round",
        ours=(
            f"{schedules} schedules: {got.used} updates used, {got.twice} counted twice, "
            f"{got.astray} in a wrong round, {got.unlike} sums other than by hand; "
            f"{got.losses} losses asked again; kept out: {kept_out}"
        ),
        flower=flower_7(work),
        met=got.twice == got.astray == got.unlike == 0 and got.used > 0,
    )


@dataclass
class Quorums:
    """What became of the rounds of figure 4.

    Attributes:
        aggregated: rounds that made new weights.
        ended: rounds that ended their run INCOMPLETE.
        below: rounds that were aggregated from fewer sites than planned.
        unlike: rounds whose mean is not the one that was counted by hand.
        unnamed: ends that did not name exactly the missing sites.
        again: aggregated rounds that took a second try.
    """

    aggregated: int = 0
    ended: int = 0
    below: int = 0
    unlike: int = 0
    unnamed: int = 0
    again: int = 0


def quorums(schedules: int, work: Path, *, first: int = 0) -> Quorums:
    """Play so many rounds with a planned minimum, of the seeds from `first` on."""
    total = Quorums()
    with _planned_losses(), task_identity(run_id=1, node_id=1):
        for seed in range(first, first + schedules):
            _play_quorum(seed, work, total)
    return total


def _play_quorum(seed: int, work: Path, total: Quorums) -> None:
    draw = Random(seed)
    sites = [f"s{i}" for i in range(draw.randint(1, 6))]
    needed = draw.randint(1, len(sites))
    values = {site: 1.0 + i / 64 for i, site in enumerate(sites)}

    def honest(site: str, number: int) -> Update:
        return update_of(site, number, value=values[site])

    engine = FickleEngine(seed, sites, honest)
    settings = StageConfig(rounds=1, min_sites=needed, deadline_s=DEADLINE_S)
    config = RunConfig(
        name="run-1",
        seed=1,
        model=ModelConfig(),
        stages=("handshake", STAGE),
        stage={STAGE: settings},
        phenotypes=(),
        rejoin_s=REJOIN_S,
    )
    run = Run(engine, config, work, lambda record: None)  # type: ignore[arg-type]
    run.attendance = attend(engine)
    records = {site: SiteRecord(("ecg",), {"train_studies": 1}, {}) for site in sites}
    state = RunState(weights=WEIGHTS, sites=records)
    asked = Asked("run-1", STAGE, 1, expected=WEIGHTS, sites=len(sites))
    wall = Firewall(asked, config=config.screening, settings=settings, records=())
    try:
        got = gather(run, state, HEADER, dict.fromkeys(sites, HEADER), wall)
    except IncompleteError as error:
        total.ended += 1
        present = len(sites) - len(error.sites)
        total.unnamed += present >= needed or any(s not in str(error) for s in error.sites)
        return
    used = got.result.accepted
    total.aggregated += 1
    total.again += got.tries > 1
    total.below += len(used) < needed
    by_hand = sum(values[site] for site in used) / len(used)
    total.unlike += abs(float(got.delta[PART]["w"][0]) - by_hand) > 1e-9


def figure_4(work: Path) -> Row:
    """No round is aggregated from fewer sites than planned."""
    schedules = 100 if is_quick() else 1000
    got = quorums(schedules, work)
    return Row(
        figure=4,
        what="sites drop out, answer late, move, refuse in random schedules",
        target="0 rounds below the planned minimum",
        ours=(
            f"{schedules} schedules: {got.aggregated} aggregated ({got.again} at the second try), "
            f"{got.below} below the minimum; {got.ended} ended INCOMPLETE, "
            f"{got.unnamed} of them without naming who was missing"
        ),
        flower=flower_4(work),
        met=got.below == got.unlike == got.unnamed == 0 and got.aggregated > 0,
    )


def _planned_losses() -> AbstractContextManager[None]:
    """Keep what the server says of ten thousand planned losses out of the terminal."""
    return silenced("cardionets.server", below=logging.ERROR)
