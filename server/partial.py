"""How work counts that was not finished: by its share of the planned steps, or by its steps.

FedNova (Wang et al. 2020, arXiv 2007.07481, eq. 7): each update is divided by its number of local
steps tau_i, the quotients are averaged with the weights p_i = n_i / sum n_i, and the mean is taken
tau_eff = sum p_i tau_i times. A site that did fewer steps then pulls in its direction as strongly
per step as the others, so the fixed point is that of the weighted loss. The paper shows it for
plain local SGD, whose accumulated gradient is proportional to tau_i; AdamW scales its steps itself,
and for it this is a heuristic that treats the steps of all sites alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from cardionets_core.messages import Update
    from cardionets_core.packing import Groups


def usable_steps(update: Update, *, needed: bool) -> bool:
    """Return whether an update counts its steps as it should.

    Args:
        update: a site's.
        needed: whether the strategy divides by the steps.
    """
    if update.planned_steps == 0 and update.steps == 0:
        return not needed
    return 1 <= update.steps <= update.planned_steps


def counted(studies: Mapping[str, int], update: Update) -> dict[str, int]:
    """Return part -> weight of an update: its studies times the share of the steps done.

    In whole numbers, rounded down, at least 1: so the exact sum stays exact. One share for all
    parts: a stage of several members takes no budget (`check_plan`).
    """
    if update.planned_steps == 0:
        return dict(studies)
    return {p: max(1, n * update.steps // update.planned_steps) for p, n in studies.items()}


def per_step(delta: Groups, steps: int, learned: Mapping[str, Collection[str]]) -> Groups:
    """Return an update divided by its number of steps, in its own dtypes.

    Integers and measured statistics are no sums of steps: they stay.
    """
    return {
        part: {
            name: array / array.dtype.type(steps) if _walks(part, name, array, learned) else array
            for name, array in arrays.items()
        }
        for part, arrays in delta.items()
    }


def step_mean(
    mean: Groups, updates: Mapping[str, Update], learned: Mapping[str, Collection[str]]
) -> None:
    """Multiply the mean of updates per step with tau_eff of each part, in place.

    Args:
        mean: of what `per_step` gave; float64.
        updates: the updates in it, with `examples` per part and `steps`.
        learned: see `per_step`.
    """
    for part, arrays in mean.items():
        owners = [u for u in updates.values() if part in u.examples]
        studies = sum(u.examples[part] for u in owners)
        steps = sum(u.examples[part] * u.steps for u in owners) / studies
        for name, array in arrays.items():
            if _walks(part, name, array, learned):
                array *= steps


def _walks(part: str, name: str, array: np.ndarray, learned: Mapping[str, Collection[str]]) -> bool:
    """Return whether an array is moved step by step."""
    return name in learned.get(part, (name,)) and np.issubdtype(array.dtype, np.floating)
