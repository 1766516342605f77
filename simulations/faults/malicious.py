"""One of five hospitals attacks: what is left of the model under each strategy (figure 14).

A logistic regression on drawn patients, trained by rounds of local steps through the functions that
a run uses; the real model would tell the same in minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.serverapp.strategy import FedAvg, FedMedian, FedTrimmedAvg, Krum, MultiKrum
from scipy.stats import rankdata

from cardionets_core.strategy_config import StrategyConfig
from server.strategies.averaging import fedavg
from server.strategies.combine import combining
from simulations.faults.flower_average import average, reply

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Step = Callable[["Floats", Mapping[str, "Floats"]], "Floats"]
"""Makes the next weights of the weights and the updates of all sites."""

SITES, ATTACKER = 5, "site4"
FEATURES, PATIENTS, ROUNDS, STEPS = 20, 300, 30, 5
TRUTH = np.random.default_rng(0).normal(size=FEATURES)

FEDAVG = StrategyConfig("fedavg")
ROBUST = {
    "median": StrategyConfig("median"),
    "trimmed_mean": StrategyConfig("trimmed_mean", {"trim": 0.2}),
    "krum": StrategyConfig("krum", {"malicious": 1}),
    "multi_krum": StrategyConfig("multi_krum", {"malicious": 1}),
}
"""The strategies that hold against one malicious site of five."""

FLOWER: dict[str, Callable[[], FedAvg]] = {
    "fedavg": FedAvg,
    "median": FedMedian,
    "trimmed_mean": lambda: FedTrimmedAvg(beta=0.2),
    "krum": lambda: Krum(num_malicious_nodes=1),
    "multi_krum": lambda: MultiKrum(num_malicious_nodes=1, num_nodes_to_select=2),
}
"""Flower's strategies of the same names, with the same numbers."""

TURNED, LABELS, NOISE = "turned x 10", "labels turned", "noise"
ATTACKS: dict[str, Callable[[Floats], Any]] = {
    TURNED: lambda update: -10 * update,
    LABELS: lambda update: update,  # its patients' labels are turned, not its update
    NOISE: lambda update: np.random.default_rng(9).normal(size=FEATURES),
}
"""What the attacker sends in place of its update."""


def patients(seed: int, count: int) -> tuple[Floats, Floats]:
    """Return features and labels of a hospital; hospitals differ in their mean patient."""
    source = np.random.default_rng([1, seed])
    x = source.normal(source.normal(0, 0.3, FEATURES), 1.0, size=(count, FEATURES))
    y = source.random(count) < 1 / (1 + np.exp(-(x @ TRUTH)))
    return x, y.astype(np.float64)


def local_update(weights: Floats, x: Floats, y: Floats) -> Floats:
    """Return how a site's own steps move the weights."""
    moved = weights.copy()
    for _ in range(STEPS):
        moved -= 0.2 * x.T @ (1 / (1 + np.exp(-(x @ moved))) - y) / len(y)
    return moved - weights


def auroc(weights: Floats) -> float:
    """Return the area under the ROC curve on patients that no site has."""
    x, y = patients(99, 4000)
    ranks, positive = rankdata(x @ weights), y.sum()
    below = ranks[y == 1].sum() - positive * (positive + 1) / 2
    return float(below / (positive * (len(y) - positive)))


def ours(strategy: StrategyConfig, folder: Path) -> Step:
    """Return the step of a strategy; robust rules keep the updates of a round in `folder`."""

    def step(weights: Floats, updates: Mapping[str, Floats]) -> Floats:
        with combining(strategy, folder / "spool") as combiner:
            for name, update in updates.items():
                combiner.fold(name, {"head": {"w": update.astype(np.float32)}}, PATIENTS)
            moved = fedavg({"head": {"w": weights.astype(np.float32)}}, combiner.combined())
        return moved["head"]["w"].astype(np.float64)

    return step


def flowers(name: str) -> Step:
    """Return the step of Flower's strategy of this name, which averages weights."""

    def step(weights: Floats, updates: Mapping[str, Floats]) -> Floats:
        replies = [
            reply({"w": (weights + update).astype(np.float32)}, PATIENTS, node=2 + i)
            for i, update in enumerate(updates.values())
        ]
        arrays = average(replies, FLOWER[name]())
        if arrays is None:
            raise RuntimeError(f"Flower's {name} gave no average")
        return arrays["w"].astype(np.float64)

    return step


def federate(step: Step, attack: str = "") -> float:
    """Return the AUROC of the model that five hospitals train.

    Args:
        step: how their updates are combined.
        attack: what the last of them does; empty: it is honest.
    """
    sites = {f"site{i}": patients(i, PATIENTS) for i in range(SITES)}
    if attack == LABELS:
        x, y = sites[ATTACKER]
        sites[ATTACKER] = (x, 1 - y)
    weights = np.zeros(FEATURES)
    for _ in range(ROUNDS):
        updates = {name: local_update(weights, x, y) for name, (x, y) in sites.items()}
        if attack:
            updates[ATTACKER] = ATTACKS[attack](updates[ATTACKER])
        weights = step(weights, updates)
    return auroc(weights)


def worst_loss(step: Step, honest: float) -> float:
    """Return the largest loss of AUROC over all attacks, against an honest federated average."""
    return max(honest - federate(step, attack) for attack in ATTACKS)
