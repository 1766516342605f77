"""Honest updates of sites of very different sizes, for counting wrong refusals (figure 12)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cardionets_core.messages import Update
from cardionets_core.run_config import StageConfig
from cardionets_core.screening_config import ScreeningConfig
from server.screening import Asked, Firewall

SITES, NUMBERS = 10, 200


def federation(
    rounds: int, seed: int, *, factor: float = 5.0, gain: float = 0.0
) -> list[dict[str, Any]]:
    """Play rounds of sites whose sizes and gradients have heavy tails.

    Patients are log-normal (a median of 60, one in twenty above 700); each local step moves the
    weights by lr x a random direction plus a drift that all steps share, times a log-normal
    strength per site and round. Sites with more steps so drift faster than the root of them.

    Args:
        rounds: how many.
        seed: of sizes and updates.
        factor: the firewall's `norm_factor`.
        gain: site 0 sends gain x its update from round 3 on; 0: it is honest.

    Returns:
        each record, after round 1, where the median bound does not judge yet.
    """
    rng = np.random.default_rng(seed)
    stage = StageConfig(rounds=rounds, batch_size=16, lr=1e-3, warmup_rounds=2)
    studies = np.maximum(5, np.exp(rng.normal(np.log(60), 1.5, SITES)).astype(int))
    expected = {"ecg_encoder": {"w": rng.normal(0, 0.05, NUMBERS).astype(np.float32)}}
    records: list[dict[str, Any]] = []
    for number in range(1, rounds + 1):
        asked = Asked("run-1", "ecg_masked", number, expected, len(studies))
        wall = Firewall(
            asked, config=ScreeningConfig(norm_factor=factor), settings=stage, records=records
        )
        wall.start_try()
        reasons = {}
        for i, n in enumerate(studies):
            w = _walk(rng, math.ceil(n / stage.batch_size)) * stage.lr_at(number - 1)
            w *= gain if gain and i == 0 and number > 2 else 1.0
            delta = {"ecg_encoder": {"w": w.astype(np.float32)}}
            update = Update(f"s{i}", "run-1", "ecg_masked", number, int(n), delta=delta)
            reasons[f"s{i}"] = wall.judge(f"s{i}", update, max_examples=int(n))
        accepted = [s for s, r in reasons.items() if r is None]
        records.append(
            {
                "stage": "ecg_masked",
                "round": number,
                "accepted": accepted,
                "refused": {s: r for s, r in reasons.items() if r},
                "num_examples": {f"s{i}": int(n) for i, n in enumerate(studies)},
                "screening": wall.record(accepted),
            }
        )
    return records[1:]


def _walk(rng: np.random.Generator, steps: int) -> np.ndarray:
    """Return how far so many steps go at a learning rate of 1."""
    walk = rng.normal(0, math.sqrt(steps), NUMBERS) + 0.15 * steps * rng.normal(0, 1, NUMBERS)
    return np.asarray(walk * math.exp(rng.normal(0, 0.25)))


def false_refusals(*, federations: int = 10, rounds: int = 11) -> tuple[int, int]:
    """Return how many clean updates were refused, and of how many (10 a round, round 1 aside)."""
    records = [r for seed in range(federations) for r in federation(rounds, seed)]
    refused = sum(len(r["refused"]) for r in records)
    return refused, refused + sum(len(r["accepted"]) for r in records)
