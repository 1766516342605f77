"""Rounds of five sites before the firewall, with updates of one small part."""

from __future__ import annotations

import numpy as np

from cardionets_core.messages import Update
from cardionets_core.run_config import StageConfig
from cardionets_core.screening_config import ScreeningConfig
from server.screening import Asked, Firewall

WEIGHTS = {
    "ecg_encoder": {
        "w": np.ones((2, 3), dtype=np.float32),
        "steps": np.zeros((), dtype=np.int64),
    }
}
SITES = ("a", "b", "c", "d", "e")


def an_update(num_examples=10, site="a", number=1, **arrays):
    delta = {
        "w": np.full((2, 3), 0.1, dtype=np.float32),
        "steps": np.zeros((), dtype=np.int64),
    }
    delta = {"ecg_encoder": delta | arrays}
    return Update(site, "run-1", "ecg_masked", number, num_examples, delta=delta)


def firewall(number=1, records=(), *, sites=5, settings_=None, **config):
    asked = Asked("run-1", "ecg_masked", number, WEIGHTS, sites)
    settings_ = settings_ or StageConfig(rounds=20, batch_size=8, lr_floor=1.0)
    wall = Firewall(asked, config=ScreeningConfig(**config), settings=settings_, records=records)
    wall.start_try()
    return wall


def judged(wall, update, site=None):
    return wall.judge(site or update.site, update, max_examples=1000)


def noise(seed, scale=0.01):
    return np.random.default_rng(seed).normal(0, scale, (2, 3)).astype(np.float32)


def round_of(number, updates, *, records=(), **config):
    """Judge a round and return its record, as server/training.py keeps it."""
    wall = firewall(number, records, **config)
    reasons = {u.site: judged(wall, u) for u in updates}
    accepted = [s for s, r in reasons.items() if r is None]
    return {
        "stage": "ecg_masked",
        "round": number,
        "accepted": accepted,
        "refused": {s: r for s, r in reasons.items() if r is not None},
        "num_examples": {u.site: u.num_examples for u in updates if u.site in accepted},
        "screening": wall.record(accepted),
    }


def clean_round(number, records=(), scale=0.01, **config):
    updates = [
        an_update(site=s, number=number, w=noise([number, i], scale)) for i, s in enumerate(SITES)
    ]
    return round_of(number, updates, records=records, **config)
