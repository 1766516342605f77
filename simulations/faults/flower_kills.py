"""Plain Flower under kill -9, as real processes: what is left of a run (figures 1, 2, 3, 5)."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from server.server_app import write_config
from simulations.faults.plain_federation import CLIENT_APP, SERVER_APP, SUPERLINK, PlainFederation
from simulations.faults.small import NANO, ecg_hospitals, plan

if TYPE_CHECKING:
    from pathlib import Path

SITES, ROUNDS, HOLD_S = 2, 4, 2.0
DOWN_S = 5.0
"""How long a killed SuperLink stays away before it is started again."""

END_S = 240.0
"""Longest wait for a run to end, or for a round to go on."""


@dataclass(frozen=True)
class ServerKill:
    """What became of a run whose server was killed.

    Attributes:
        done: rounds that were complete when it was killed.
        status: what `flwr ls` said in the end.
        seconds: from the kill until `flwr ls` called the run finished.
        kept: rounds that a person finds done who submits the run again.
    """

    done: int
    status: str
    seconds: float
    kept: int


@dataclass(frozen=True)
class SiteKill:
    """What became of the round in which a site was killed.

    Attributes:
        replies: usable replies that closed the round.
        asked: sites that were asked, all of which `min_train_nodes` demands.
        seconds: from the kill until the round closed.
        new_name: whether the restarted site came back under another node id.
        remembered: rounds that the site's own state counts before the kill and after it.
    """

    replies: int
    asked: int
    seconds: float
    new_name: bool
    remembered: tuple[int, int]


@contextmanager
def federation(work: Path, name: str) -> Iterator[PlainFederation]:
    """Start plain Flower over two small hospitals in `work/flower-NAME`."""
    folder = work / f"flower-{name}"
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier measurement
    hospitals = ecg_hospitals(folder / "hospitals", SITES)
    words = [*NANO, "stages=[handshake,ecg_masked]", f"stage.ecg_masked.rounds={ROUNDS}"]
    write_config(folder / "plan", plan(name, words, sites=SITES))
    config = folder / "plan" / "config.json"
    with PlainFederation(folder, hospitals, config, env={"OMP_NUM_THREADS": "1"}) as running:
        yield running


@cache
def server_app_killed(work: Path) -> ServerKill:
    """Kill the ServerApp while round 2 is being trained."""
    with federation(work, "server-app") as flower:
        run = flower.submit(rounds=ROUNDS, hold_s=HOLD_S)
        done = _until_round_two(flower)
        for process in flower.apps(SERVER_APP):
            process.kill()
        state, seconds = flower.wait_until_finished(run, END_S)
        return ServerKill(done, state.status, seconds, _kept(flower))


@cache
def superlink_killed(work: Path) -> ServerKill:
    """Kill the SuperLink while round 2 is being trained; start it again on its database."""
    with federation(work, "superlink") as flower:
        run = flower.submit(rounds=ROUNDS, hold_s=HOLD_S)
        done = _until_round_two(flower)
        _kill(flower, SUPERLINK)
        killed = time.monotonic()
        time.sleep(DOWN_S)
        flower.start_superlink()
        flower.wait_until_up()
        state, _ = flower.wait_until_finished(run, END_S)
        return ServerKill(done, state.status, time.monotonic() - killed, _kept(flower))


@cache
def site_killed(work: Path) -> SiteKill:
    """Kill one of two sites in the training of round 2, start it again, watch round 3."""
    with federation(work, "site") as flower:
        name = next(iter(flower.sites))
        flower.submit(rounds=ROUNDS, hold_s=HOLD_S)
        _until_round_two(flower)
        before = _remembered(flower, name)[-1] + 1
        _kill(flower, f"site-{name}")
        killed = time.monotonic()
        flower.start_site(name)
        flower.wait_for(lambda: len(flower.steps("train_back")) >= 2, "the end of round 2", END_S)
        seconds = time.monotonic() - killed
        trained = len(_remembered(flower, name))
        flower.wait_for(lambda: len(_remembered(flower, name)) > trained, "round 3", END_S)
        flower.wait_for(lambda: len(flower.steps("train_back")) >= 3, "the end of round 3", END_S)
        first, second, third = flower.steps("train_back")[:3]
        new = set(third["nodes"]) - set(first["nodes"])
        after = _remembered(flower, name)[-1]
        return SiteKill(len(second["nodes"]), SITES, seconds, bool(new), (before, after))


def _until_round_two(flower: PlainFederation) -> int:
    """Wait until the sites train round 2; return the rounds that are done."""

    def training() -> bool:
        loaded = [s for s in flower.steps("train_loaded") if s["round"] == 2]
        return len(loaded) == SITES

    flower.wait_for(training, "round 2", END_S)
    return len(flower.steps("round_done"))


def _kept(flower: PlainFederation) -> int:
    """Submit the same run again and return how many rounds it does not have to repeat."""
    before = len(flower.steps("train_sent"))
    flower.submit(rounds=ROUNDS, hold_s=HOLD_S)
    flower.wait_for(lambda: len(flower.steps("train_sent")) > before, "the new run", END_S)
    return int(flower.steps("train_sent")[before]["round"]) - 1


def _remembered(flower: PlainFederation, site: str) -> list[int]:
    return [s["remembered"] for s in flower.steps("train_done") if s["site"] == site]


def _kill(flower: PlainFederation, name: str) -> None:
    """Kill a process that we started, and for a site its app, as a power cut would."""
    process = flower.processes.processes[name]
    session = process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    if name != SUPERLINK:
        for app in flower.apps(CLIENT_APP):
            if os.getsid(app.pid) == session:
                app.kill()
