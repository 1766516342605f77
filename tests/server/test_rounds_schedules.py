"""Thousands of random schedules: every update counts once, in its round, or not at all.

The bookkeeping is played without engine, clock or arrays to speak of, so that 10,000 schedules take
seconds. Expected sums are kept by hand beside it.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import server.gathering
import server.training
from cardionets_core.errors import RunError
from cardionets_core.messages import MISSING_PARTS, Update
from cardionets_core.model_config import ModelConfig
from cardionets_core.run_config import RunConfig, StageConfig
from cardionets_core.screening_config import ScreeningConfig
from cardionets_core.training.stages import configured
from server.aggregation import ExactMean
from server.exchange import Run
from server.round_book import RoundBook
from server.rounds import RoundResult
from server.screening import Asked, Firewall
from server.state import RunState, SiteRecord

WEIGHTS = {"p": {"w": np.zeros(1, dtype=np.float32)}}
SETTINGS = StageConfig(rounds=9)
EVENTS = ("answer", "answer", "answer", "duplicate", "late", "stolen", "replay", "lost", "silent")


def update_of(site, number, draw):
    """Return an honest update; `draw` makes each one unique."""
    delta = {"p": {"w": np.array([draw], dtype=np.float32)}}
    return Update(site, "run-1", "ecg_masked", number, 1, delta=delta)


class Play:
    """A run of a few rounds in which replies are copied, kept back, replayed and lost."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.sites = [f"s{i}" for i in range(self.random.randint(1, 5))]
        self.records = []
        self.folded = Counter()  # (site, round of the work) -> times in a sum
        self.wrong_round = 0
        self.late = []  # (message id, update) that come in a later round
        self.sent = 0
        self.history = []  # honest updates that a sum holds

    def round(self, number):
        book = RoundBook(self.sites)
        asked = Asked("run-1", "ecg_masked", number, WEIGHTS, len(self.sites))
        wall = Firewall(
            asked,
            config=ScreeningConfig(norm_factor=0),
            settings=SETTINGS,
            records=self.records,
        )
        wall.start_try()
        mean, expected = ExactMean(), Counter()
        for site in self.sites:
            self.ask(book, site)
        inbox = self.late + self.replies(book, number)
        self.late = [r for r in inbox if r[2]]
        inbox = [r for r in inbox if not r[2]]
        self.random.shuffle(inbox)
        while inbox:
            message_id, update, _ = inbox.pop()
            site = book.answered(message_id)
            if site is None:
                continue
            if update is None and book.ask_again(site):
                again = self.ask(book, site)
                second = update_of(site, number, self.sent) if self.random.random() < 0.7 else None
                inbox.append((again, second, False))
                continue
            reason = MISSING_PARTS
            if update is not None:
                reason = wall.judge(site, update, max_examples=1)
                if reason is None:
                    mean.fold(update.delta, update.num_examples)
                    work = float(update.delta["p"]["w"][0])
                    expected[work] += 1
                    self.folded[work] += 1
                    self.wrong_round += update.round != number
                    self.history.append(update)
            book.settle(site, reason)
        book.close()
        self.check(book, mean, expected)
        self.records.append(
            {
                "stage": "ecg_masked",
                "round": number,
                "accepted": book.accepted,
                "refused": book.refused,
                "num_examples": dict.fromkeys(book.accepted, 1),
                "screening": wall.record(book.accepted),
            }
        )

    def ask(self, book, site):
        self.sent += 1
        book.asked(f"m{self.sent}", site)
        return f"m{self.sent}"

    def replies(self, book, number):
        """Return (message id, update or None for lost parts, whether it comes a round later)."""
        found = []
        for message_id in book.waiting:
            site = self.sites[(int(message_id[1:]) - self.sent - 1) % len(self.sites)]
            event = self.random.choice(EVENTS)
            honest = update_of(site, number, int(message_id[1:]))
            if event in ("answer", "duplicate"):
                found += [(message_id, honest, False)] * (2 if event == "duplicate" else 1)
            elif event == "late":
                found.append((message_id, honest, True))
            elif event == "lost":
                found.append((message_id, None, False))
            elif event in ("replay", "stolen") and self.history:
                old = self.random.choice(self.history)
                if event == "replay":  # under this round's number and the site's own name
                    old = replace(old, site=site, round=number)
                found.append((message_id, old, False))
        return found

    def check(self, book, mean, expected):
        assert sorted([*book.accepted, *book.refused]) == self.sites  # each once, with one end
        assert mean.weight == len(book.accepted) == sum(expected.values())
        if mean.weight:
            got = float(mean.mean()["p"]["w"][0]) * mean.weight
            assert round(got) == sum(work * times for work, times in expected.items())


def test_exactly_once_over_10000_schedules(capsys, caplog):
    """RELIABILITY.md figure 7."""
    caplog.set_level("ERROR", logger="cardionets.server")
    used = 0
    ends = Counter()
    for seed in range(10_000):
        play = Play(seed)
        for number in range(1, 4):
            play.round(number)
        assert max(play.folded.values(), default=1) == 1, seed
        assert play.wrong_round == 0, seed
        used += sum(play.folded.values())
        for record in play.records:
            ends.update(record["refused"].values())
    refused = sum(ends.values())
    with capsys.disabled():
        print(f"\n10,000 schedules: {used} updates used, counted twice 0, in a wrong round 0")
        print(f"kept out: {refused} ({', '.join(f'{k} {v}' for k, v in sorted(ends.items()))})")
    assert {"replay", "late", MISSING_PARTS} < set(ends)
    assert set(ends) <= {"replay", "late", MISSING_PARTS, "wrong_round", "wrong_site", "duplicate"}


@given(st.integers(10_001, 10**9))
@settings(max_examples=50, deadline=None)
def test_exactly_once_in_schedules_of_any_seed(seed):
    play = Play(seed)
    for number in range(1, 6):
        play.round(number)
    assert max(play.folded.values(), default=1) == 1 and play.wrong_round == 0


def test_the_test_above_can_fail(monkeypatch):
    """Without the ledger of hashes a relabelled update counts again."""
    monkeypatch.setattr("server.screening.used_marks", lambda records, remembered: [])
    counted = []
    for seed in range(100):
        play = Play(seed)
        for number in range(1, 4):
            play.round(number)
        counted.append(max(play.folded.values(), default=1))
    assert max(counted) > 1


# ----------------------------------------------------------------------------------------- quorum

CONFIG = RunConfig(
    name="run-1",
    seed=3,
    model=ModelConfig(),
    stages=("handshake", "ecg_masked"),
    stage={"ecg_masked": StageConfig(rounds=1)},
    phenotypes=("lv_ef",),
    diseases=(),
)


@pytest.fixture
def quick(monkeypatch):
    """Leave out what takes time and does not decide: the model behind the names of arrays."""
    monkeypatch.setattr(server.training, "learned_names", lambda model, parts: {})


def test_quorum_over_1000_dropout_schedules(tmp_path, monkeypatch, quick, capsys, caplog):
    """RELIABILITY.md figure 4: sites drop out, answer late, or send what the firewall refuses."""
    caplog.set_level("ERROR", logger="cardionets.server")
    draw = random.Random(4)
    aggregated = ended = below = 0
    for _ in range(1000):
        sites = [f"s{i}" for i in range(draw.randint(1, 8))]
        needed = draw.randint(1, len(sites))
        tries = []
        monkeypatch.setattr(server.gathering, "send_round", dropouts(draw, tries))
        settings_ = StageConfig(rounds=1, min_sites=needed)
        config = replace(CONFIG, stage={"ecg_masked": settings_})
        run = Run(None, config, tmp_path, lambda record: None, nodes=dict.fromkeys(sites, 1))
        stage = configured("ecg_masked", {}, CONFIG.model)
        record = SiteRecord(("ecg",), {"train_studies": 9}, {})
        weights = {p: {"w": np.zeros(2, dtype=np.float32)} for p in stage.parts}
        state = RunState(weights=weights, sites=dict.fromkeys(sites, record))
        try:
            after = server.training.train_round(
                run, state, stage, settings_, sites=sites, round_index=0
            )
        except RunError as error:
            ended += 1
            assert max(tries) < needed and "refused" in str(error)
            continue
        aggregated += 1
        used = after.history[-1]["accepted"]
        below += len(used) < needed
        assert len(used) == tries[-1]
        moved = np.float32(sum(value_of(s) for s in used) / len(used))
        assert all(np.all(after.weights[p]["w"] == moved) for p in stage.trains)
    with capsys.disabled():
        print(
            f"\n1,000 dropout schedules: {aggregated} rounds, {ended} ended, {below} below quorum"
        )
    assert below == 0 and aggregated > 200 and ended > 200


def value_of(site):
    """Return what a site moves every weight by: none is a copy of another's."""
    return 1.0 + int(site[1:]) / 1024


def dropouts(draw, tries):
    """Return a stand-in for send_round in which each site answers, fails, is late or cheats."""

    def send_round(run, state, heads, accept, deadline_s, extra=None, enough=None):
        result = RoundResult()
        share = draw.random()
        for site, head in heads.items():
            if draw.random() > share:
                result.refused[site] = draw.choice(["late", "flower_2", "internal"])
                continue
            values = np.full(2, value_of(site), dtype=np.float32)
            if draw.random() < 0.1:
                values[1] = np.nan
            delta = {p: {"w": values} for p in head.trains}
            update = Update(site, "run-1", head.stage, head.round, 1, delta=delta)
            reason = accept(site, update)
            if reason is None:
                result.accepted.append(site)
            else:
                result.refused[site] = reason
        tries.append(len(result.accepted))
        return result

    return send_round


def test_a_bound_that_is_wrong_costs_one_try_and_not_the_run(tmp_path, monkeypatch, quick):
    """All sites send 1,000 x what the round before saw: the second try goes without the bound."""
    settings_ = StageConfig(rounds=3, min_sites=3)
    config = replace(CONFIG, stage={"ecg_masked": settings_})
    sites = [f"s{i}" for i in range(5)]
    run = Run(None, config, tmp_path, lambda record: None, nodes=dict.fromkeys(sites, 1))
    stage = configured("ecg_masked", {}, CONFIG.model)
    record = SiteRecord(("ecg",), {"train_studies": 9}, {})
    weights = {p: {"w": np.ones(2, dtype=np.float32)} for p in stage.parts}
    state = RunState(weights=weights, sites=dict.fromkeys(sites, record))
    tries = []

    def send_round(run, state, heads, accept, deadline_s, extra=None, enough=None):
        result = RoundResult()
        scale = 1e-3 if head_round(heads) == 1 else 1.0
        for site, head in heads.items():
            values = np.full(2, scale * value_of(site) * head.round, dtype=np.float32)
            delta = {p: {"w": values} for p in head.trains}
            update = Update(site, "run-1", head.stage, head.round, 1, delta=delta)
            reason = accept(site, update)
            if reason is None:
                result.accepted.append(site)
            else:
                result.refused[site] = reason
        tries.append(dict(result.refused))
        return result

    monkeypatch.setattr(server.gathering, "send_round", send_round)
    for index in range(3):
        state = server.training.train_round(
            run, state, stage, settings_, sites=sites, round_index=index
        )
    assert tries == [{}, dict.fromkeys(sites, "norm"), {}, {}]
    assert [r["screening"]["lifted"] for r in state.history] == [False, True, False]


def head_round(heads):
    return next(iter(heads.values())).round
