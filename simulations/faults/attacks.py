"""Bad updates: what a broken or malicious site may send in place of its own (figure 12).

An attack is a function of the site's honest update and of those of the rounds before; it returns
the update that is sent instead, or the code of a refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cardionets_core.messages import Update

if TYPE_CHECKING:
    from numpy.typing import NDArray

Attack = Callable[[Update, Sequence[Update]], Update | str]
"""(the honest update, those up to now with this one last) -> what is sent instead."""


def first_tensor(update: Update) -> tuple[str, str, NDArray[Any]]:
    """Return part, name and value of the first floating tensor with more than one number."""
    return next(
        (part, name, array)
        for part, arrays in sorted(update.delta.items())
        for name, array in sorted(arrays.items())
        if array.dtype == np.float32 and array.size > 1
    )


def changed(update: Update, value: NDArray[Any] | None) -> Update:
    """Return the update with another first tensor, or without it."""
    part, name, _ = first_tensor(update)
    arrays = {**update.delta[part], name: value}
    kept = {n: a for n, a in arrays.items() if a is not None}
    return replace(update, delta=update.delta | {part: kept})


def full(value: float) -> Attack:
    """Return the attack that fills the first tensor with one number."""
    return lambda update, past: changed(update, np.full_like(first_tensor(update)[2], value))


def scaled(factor: float) -> Attack:
    """Return the attack that multiplies the whole update."""

    def attack(update: Update, past: Sequence[Update]) -> Update:
        delta = {
            part: {n: (a * factor).astype(a.dtype) for n, a in arrays.items()}
            for part, arrays in update.delta.items()
        }
        return replace(update, delta=delta)

    return attack


def counted(studies: int) -> Attack:
    """Return the attack that claims another weight."""
    return lambda update, past: replace(update, num_examples=studies)


def with_extra_key(update: Update, past: Sequence[Update]) -> Update:
    """Send one tensor more than was asked for."""
    part, _, _ = first_tensor(update)
    arrays = update.delta[part] | {"more": np.zeros(2, dtype=np.float32)}
    return replace(update, delta=update.delta | {part: arrays})


def to_float64(update: Update, past: Sequence[Update]) -> Update:
    """Send one tensor in another dtype."""
    return changed(update, first_tensor(update)[2].astype(np.float64))


def replayed(update: Update, past: Sequence[Update]) -> Update:
    """Send the numbers of an earlier round under this round's name."""
    return replace(update, delta=past[0].delta)


FIGURE_12: dict[str, tuple[Attack, str]] = {
    "NaN": (full(np.nan), "not_finite"),
    "Inf": (full(-np.inf), "not_finite"),
    "1e30": (full(1e30), "too_large"),
    "n = 0": (counted(0), "num_examples"),
    "n = -9": (counted(-9), "unreadable"),
    "n = 1e12": (counted(10**12), "num_examples"),
    "broadcastable shape": (lambda u, past: changed(u, np.zeros(1, dtype=np.float32)), "shape"),
    "dtype change": (to_float64, "shape"),
    "missing key": (lambda u, past: changed(u, None), "keys"),
    "extra key": (with_extra_key, "keys"),
    "stale round": (lambda u, past: past[0], "wrong_round"),
    "replay": (replayed, "replay"),
    "wrong site": (lambda u, past: replace(u, site="north"), "wrong_site"),
}
"""The attacks of figure 12 -> the code that the coordinator sees; a missing and an extra key are
one attack there, and both are tried."""

ATTACKS: dict[str, tuple[Attack, str]] = {
    "sign-flip x 10": (scaled(-10), "norm"),
    **FIGURE_12,
    "wrong run": (lambda u, past: replace(u, run="attack-0"), "wrong_run"),
    "wrong stage": (lambda u, past: replace(u, stage="contrastive"), "wrong_stage"),
    "metric 1.7e308": (lambda u, past: replace(u, metrics={"train_loss": 1.7e308}), "unreadable"),
    "name that is a path": (lambda u, past: replace(u, site="../../x\n"), "unreadable"),
}
"""These and more, with the median bound on norms at work."""

TWINS = frozenset({"missing key", "extra key"})


def count_attacks(names: Sequence[str]) -> int:
    """Return how many attacks of figure 12 these are: those on keys are one, if both are named."""
    alone = [n for n in names if n not in TWINS]
    return len(alone) + int(set(names) >= TWINS)
