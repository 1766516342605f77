"""The column of plain Flower: for each figure, what Flower gives under the same fault.

Every function is `(work: Path) -> str` and measures anew; what Flower has nothing for is
`no such thing`, and docs/reliability.md says why.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np

from cardionets_core.messages import Update
from simulations.faults.attacks import FIGURE_12, count_attacks
from simulations.faults.flower_average import average, error_reply, flat, reply
from simulations.faults.flower_kills import server_app_killed, site_killed, superlink_killed
from simulations.faults.orders import different_models, five_updates
from simulations.faults.row import NO_SUCH_THING, is_quick

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flwr.app import Message

    from cardionets_core.packing import Groups
    from simulations.faults.flower_average import Named
    from simulations.faults.orders import Floats, Weighted

SHAPES = {"a": (64, 33), "b": (33,), "c": (7, 5, 3)}


def flower_1(work: Path) -> str:
    """Kill the server mid-run: how much of the run is left."""
    app, link = server_app_killed(work), superlink_killed(work)
    return (
        f"rounds kept: {app.kept} of {app.done} after the ServerApp, {link.kept} of {link.done} "
        f"after the SuperLink; both runs {app.status}, {link.status}"
    )


def flower_2(work: Path) -> str:
    """Kill the server mid-run: how long until work goes on by itself."""
    app, link = server_app_killed(work), superlink_killed(work)
    return (
        f"never: {app.status} after {app.seconds:.0f} s (ServerApp), {link.status} after "
        f"{link.seconds:.0f} s (SuperLink); a person starts again at round {app.kept + 1}"
    )


def flower_3(work: Path) -> str:
    """Kill one of two sites mid-round and start it again."""
    kill = site_killed(work)
    name = "another node id" if kill.new_name else "its node id"
    return (
        f"round closed with {kill.replies} of {kill.asked} replies (min_train_nodes "
        f"{kill.asked}) after {kill.seconds:.0f} s; the site came back with {name}, its state "
        f"{kill.remembered[0]} -> {kill.remembered[1]} rounds"
    )


def flower_4(work: Path) -> str:
    """Lose sites at random: how often FedAvg averages fewer than `min_train_nodes`."""
    from flwr.serverapp.strategy import FedAvg

    rng, sites, needed = np.random.default_rng(4), 5, 3
    schedules = 100 if is_quick() else 1000
    below = 0
    for _ in range(schedules):
        there = rng.random(sites) < rng.random()
        replies = [_of(i) if there[i] else error_reply(node=2 + i) for i in range(sites)]
        result = average(replies, FedAvg(min_train_nodes=needed, min_available_nodes=needed))
        below += result is not None and int(there.sum()) < needed
    return f"{below} of {schedules:,} schedules averaged fewer than min_train_nodes = {needed}"


def flower_5(work: Path) -> str:
    """Whether Flower's words agree with what happened."""
    app = server_app_killed(work)
    nothing = average([error_reply(node=2 + i) for i in range(3)]) is None
    lost = "the old weights stand and the run goes on to `completed`" if nothing else "averaged"
    return f"a killed ServerApp counts as running for {app.seconds:.0f} s; 3 of 3 errors: {lost}"


def flower_7(work: Path) -> str:
    """Hand a site's old reply in again: how often it counts."""
    rng, schedules = np.random.default_rng(7), 100 if is_quick() else 1000
    counted = 0
    for number in range(schedules):
        honest = [_of(i, number) for i in range(3)]
        again = _of(int(rng.integers(3)), number - 1 - int(rng.integers(3)))
        alone, both = average(honest), average([*honest, again])
        counted += _differ(alone, both)
    return f"a copy of an old reply counted in {counted:,} of {schedules:,} schedules"


def flower_8(work: Path) -> str:
    """Average five updates in all orders of arrival: how many different models."""

    def fedavg(updates: Sequence[Weighted]) -> Floats:
        replies = [reply({"w": w}, n, node=2 + i) for i, (w, n) in enumerate(updates)]
        return (average(replies) or {})["w"]

    found = different_models(fedavg, five_updates(seed=3, decades=0.0))
    return f"{found} different models in 120 orders"


def flower_9(work: Path) -> str:
    """Peak memory of FedAvg over its replies, in models."""
    megabytes = 10 if is_quick() else 40
    peaks = []
    for sites in (2, 8, 32):
        words = [sys.executable, "-m", "simulations.faults.flower_memory", str(sites)]
        done = subprocess.run(
            [*words, str(megabytes)], capture_output=True, text=True, check=True, timeout=300
        )
        peaks.append(f"{float(done.stdout):.1f} x at {sites} sites")
    return ", ".join(peaks)


def flower_11(work: Path) -> str:
    """Torn checkpoints: Flower writes none."""
    return f"{NO_SUCH_THING}: no checkpoint, no resume"


def flower_12(work: Path) -> str:
    """The bad updates of figure 12: how many of them FedAvg averages in."""
    taken, ends = [], []
    for name, (attack, _) in FIGURE_12.items():
        past = [_update("hill", 1), _update("hill", 2)]
        spoilt = attack(past[-1], past)
        if not isinstance(spoilt, Update):
            continue
        replies = [_of(1), _of(2), reply(flat(spoilt), spoilt.num_examples, node=4)]
        try:
            average(replies)
        # Whatever the strategy raises ends a run of Flower: which kind it is does not matter.
        except Exception:
            ends.append(name)
        else:
            taken.append(name)
    refused = count_attacks(list(FIGURE_12)) - count_attacks(taken) - count_attacks(ends)
    return f"refused {refused} of 12; averaged in {count_attacks(taken)}, {_ended(ends)}"


def flower_13(work: Path) -> str:
    """An ECG-only site beside paired ones."""
    paired = {"ecg.w": np.ones(3, dtype=np.float32), "cmr.w": np.ones(3, dtype=np.float32)}
    replies = [reply(paired, 10), reply({"ecg.w": paired["ecg.w"]}, 10, node=3)]
    try:
        average(replies)
    except Exception as error:
        return f"the run ends: {type(error).__name__}"
    return "averaged"


def _differ(first: Named | None, second: Named | None) -> bool:
    """Return whether two averages are not the same bit for bit."""
    if first is None or second is None:
        return first is not second
    return any(not np.array_equal(first[key], second[key]) for key in first)


def _ended(names: list[str]) -> str:
    listed = f" ({', '.join(names)})" if names else ""
    return f"run ended by {count_attacks(names)}{listed}"


def _of(site: int, number: int = 0) -> Message:
    """Return an honest reply of a site to a round."""
    update = _update(f"site{site}", number)
    return reply(flat(update), update.num_examples, node=2 + site)


def _update(site: str, number: int) -> Update:
    rng = np.random.default_rng([sum(map(ord, site)), number + 10])
    arrays = {n: rng.normal(0, 0.01, s).astype(np.float32) for n, s in SHAPES.items()}
    delta: Groups = {"ecg_encoder": {**arrays, "steps": np.zeros((), dtype=np.int64)}}
    return Update(site, "run", "ecg_masked", number, 10 + len(site), delta=delta)
