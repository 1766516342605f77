"""SCAFFOLD at the server (Karimireddy et al. 2020, arXiv 1910.06378, Algorithm 1, option II).

    x <- x + lr x mean(y_i - x)            c <- c + |S| / N x mean(c_i' - c_i)

Sites send no control variates: with option II, c_i' - c_i = -c - (y_i - x) / (K_i x lr_local),
which the server knows from the update itself. So nothing more travels up, and no site can claim a
control variate that its update does not bear out. Pure functions on named arrays.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cardionets_core.training.control import PREFIX
from cardionets_core.training.loop import planned_steps
from server.strategies.averaging import stepped

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from cardionets_core.messages import TaskHeader, TrainPlan, Update
    from cardionets_core.packing import Groups

    History = Sequence[Mapping[str, Any]]
    Mode = Literal["start", "keep"]

CONTROL = "control"
"""Name of the server's control variate among the moments, also in the checkpoint."""


def start_control(weights: Groups, learned: Mapping[str, Collection[str]]) -> Groups:
    """Return the control variate before the first round: zeros, for what an optimizer moves."""
    return {
        part: {n: np.zeros_like(a) for n, a in arrays.items() if n in learned[part]}
        for part, arrays in weights.items()
    }


def with_moves(
    delta: Groups, weights: Mapping[str, int], *, steps: int, learned: Mapping[str, Collection[str]]
) -> tuple[Groups, dict[str, int]]:
    """Return an update with its mean local step beside it, as `control.PART`, and all weights.

    The learning rate is the same at all sites, so that it waits until the mean is taken; what is
    folded is then never larger than the update itself.

    Args:
        delta: a site's update.
        weights: part -> training studies behind it.
        steps: K, the local steps behind it, at least 1.
        learned: part -> names of the arrays that an optimizer moves.
    """
    moves = {
        PREFIX + part: {n: a / np.float64(steps) for n, a in arrays.items() if n in learned[part]}
        for part, arrays in delta.items()
    }
    return delta | moves, {**weights, **{PREFIX + part: weights[part] for part in delta}}


def scaffold_step(
    weights: Groups,
    control: Groups,
    mean: Groups,
    *,
    lr: float,
    local_lr: float,
    shares: Mapping[str, float],
) -> tuple[Groups, Groups]:
    """Return the next weights and the next control variate.

    Arrays that no optimizer moves take the mean itself, whatever `lr`; parts that did not come back
    stay as they are.

    Args:
        weights: x, the trained parts.
        control: c.
        mean: of `with_moves` over the sites.
        lr: the server's.
        local_lr: the sites'.
        shares: part -> |S| / N, the share of its sites whose update was used.
    """
    following: Groups = {}
    after: Groups = {}
    for part, arrays in weights.items():
        moved, before = mean.get(part, {}), control.get(part, {})
        following[part] = {
            n: stepped(a, moved[n] * (lr if n in before else 1.0)) if n in moved else a
            for n, a in arrays.items()
        }
        moves = mean.get(PREFIX + part, {})
        after[part] = {
            n: stepped(c, shares[part] * (-moves[n] / local_lr - c)) if n in moves else c
            for n, c in before.items()
        }
    return following, after


def begun(history: History, stage: str, sites: Collection[str]) -> int:
    """Return the round (1-based) in which the control variates of a stage began, or begin anew.

    The server's must stay the mean of the sites', or it steers all of them wrong for good. It does
    not where a site has lost its own, or joins: so everybody begins at zero in the round after.

    Args:
        history: records of the finished rounds.
        stage: the stage in hand.
        sites: that are asked in the coming round.
    """
    rounds = [r for r in history if r["stage"] == stage]
    asked = [{*r["accepted"], *r["refused"]} for r in rounds] + [set(sites)]
    first = 1
    for record, (before, now) in zip(rounds, pairwise(asked), strict=True):
        if record.get("memory_lost") or not now <= before:
            first = record["round"] + 1
    return first


def control_heads(
    heads: Mapping[str, TaskHeader], history: History, *, first: int
) -> dict[str, TaskHeader]:
    """Return the headers of a round, each saying whether its site keeps its control variate.

    Args:
        heads: site -> header of its task.
        history: records of the finished rounds.
        first: the round in which the control variates began (`begun`).
    """
    kept = {
        (record["stage"], site)
        for record in history
        if record["round"] >= first
        for site in record["accepted"]
    }
    following = {}
    for site, head in heads.items():
        assert head.train is not None
        mode: Mode = "keep" if (head.stage, site) in kept else "start"
        following[site] = replace(head, train=replace(head.train, control=mode))
    return following


def steps_fit(update: Update, plan: TrainPlan, *, partial: bool) -> bool:
    """Return whether an update claims the local steps that its studies take.

    Args:
        update: a site's answer.
        plan: what it was asked.
        partial: whether it may have done less than was planned.
    """
    planned = planned_steps(update.num_examples, plan)
    return 1 <= update.steps <= planned and (partial or update.steps == planned)


def control_groups(control: Groups) -> Groups:
    """Return the server's control variate as it travels; while it is zero, nothing does."""
    return {
        PREFIX + part: arrays
        for part, arrays in control.items()
        if any(a.any() for a in arrays.values())
    }
