"""Server optimizers: FedAvgM, FedAdam, FedYogi; pure functions on named arrays.

The mean update of a round is taken as a gradient (with its sign turned) and given to an optimizer
with a memory. FedAvgM: Hsu et al. 2019, arXiv 1909.06335; FedAdam and FedYogi: Reddi et al. 2021,
arXiv 2003.00295, Algorithm 2, without the bias correction that the paper does not have either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from server.strategies.averaging import stepped

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from cardionets_core.packing import Groups
    from cardionets_core.strategy_config import StrategyConfig

FIRST, SECOND = "moment_1", "moment_2"
"""Names of the moments, also in the checkpoint: running mean of the updates, and of squares."""

MOMENTS: dict[str, tuple[str, ...]] = {
    "fedavgm": (FIRST,),
    "fedadam": (FIRST, SECOND),
    "fedyogi": (FIRST, SECOND),
}
"""Strategies with a server optimizer -> the moments that they keep from round to round."""

Moments = dict[str, "Groups"]
"""Name of the moment -> part -> name -> array."""


def start_moments(
    strategy: StrategyConfig, weights: Groups, learned: Mapping[str, Collection[str]]
) -> Moments:
    """Return the moments before the first round of a stage.

    The first moment begins at 0, the second at tau^2, the smallest start that the paper allows.

    Args:
        weights: the parts that the stage trains.
        learned: part -> names of its parameters. Other arrays (buffers) have no moments.
    """
    level = {FIRST: 0.0, SECOND: strategy.numbers().get("tau", 0.0) ** 2}
    return {
        moment: {
            part: {
                n: np.full_like(a, level[moment]) for n, a in arrays.items() if n in learned[part]
            }
            for part, arrays in weights.items()
        }
        for moment in MOMENTS.get(strategy.name, ())
    }


def optimise(
    strategy: StrategyConfig, weights: Groups, mean: Groups, moments: Moments
) -> tuple[Groups, Moments]:
    """Return the next weights and moments from the mean update of a round.

    An array with moments takes the optimizer's step; one without (a buffer, such as the statistics
    of the latents, which are means already) takes the mean itself. Sums are made in float64;
    weights and moments keep their dtype, so that what is saved is what training goes on from.

    Args:
        weights: the trained parts.
        mean: the mean update of the parts that came back; a part that did not stays as it is, and
            so do its moments.
    """
    options = strategy.numbers()
    following: Groups = {}
    kept: Moments = {m: dict(groups) for m, groups in moments.items()}
    for part, arrays in weights.items():
        if part not in mean:
            following[part] = arrays
            continue
        following[part] = {}
        for moment in kept:
            kept[moment][part] = {}
        for name, array in arrays.items():
            step = mean[part][name]
            before = {
                m: groups[part][name]
                for m, groups in moments.items()
                if name in groups.get(part, {})
            }
            if before:
                step, after = optimizer_step(strategy.name, step, before, options)
                for moment, values in after.items():
                    kept[moment][part][name] = np.asarray(values, dtype=array.dtype)
            following[part][name] = stepped(array, step)
    return following, kept


def optimizer_step(
    name: str,
    delta: NDArray[Any],
    moments: Mapping[str, NDArray[Any]],
    options: Mapping[str, float],
) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """Return what to add to one array, and its new moments, in float64.

    Args:
        name: a key of MOMENTS.
        delta: mean update of the array.
        moments: its moments, by name.
        options: `lr` and `momentum`, or `lr`, `beta_1`, `beta_2` and `tau`.
    """
    first = moments[FIRST].astype(np.float64)
    if name == "fedavgm":
        first = options["momentum"] * first + delta
        return options["lr"] * first, {FIRST: first}
    first = options["beta_1"] * first + (1 - options["beta_1"]) * delta
    second, square = moments[SECOND].astype(np.float64), np.square(delta, dtype=np.float64)
    if name == "fedadam":
        second = options["beta_2"] * second + (1 - options["beta_2"]) * square
    else:
        second = second - (1 - options["beta_2"]) * square * np.sign(second - square)
    step = options["lr"] * first / (np.sqrt(second) + options["tau"])
    return step, {FIRST: first, SECOND: second}
