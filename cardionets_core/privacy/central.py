"""Client-level privacy at the coordinator: hospitals hidden from each other, at a high price.

Every site's update is clipped to norm S, the updates are added up with equal weights, and the
coordinator adds Gaussian noise of z S once (DP-FedAvg, McMahan et al. 2018, arXiv 1710.06963, with
all sites in every round). It hides whether a *hospital* took part from those who see the model; it
hides no patient from the coordinator. With few sites the noise drowns the signal: `cost_of` says
by how much, before a run begins. docs/privacy.md, Utility.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cardionets_core.privacy.accounting import Charge, epsilon_rdp
from cardionets_core.privacy.rng import require_production

if TYPE_CHECKING:
    from cardionets_core.packing import Groups
    from cardionets_core.privacy.rng import RandomSource
    from cardionets_core.privacy_config import CentralPrivacy


@dataclass(frozen=True)
class CentralCost:
    """What client-level privacy costs a run.

    Attributes:
        sites: that take part in every round.
        rounds: of all stages.
        weights: trained numbers of the largest stage.
        epsilon: per hospital, add/remove, at `delta`; by RDP.
        delta: of the plan.
        per_round: length of a round's noise over the longest mean of clipped updates.
        per_run: the same after all rounds, if all of them pull in one direction.
    """

    sites: int
    rounds: int
    weights: int
    epsilon: float
    delta: float
    per_round: float
    per_run: float

    def sentence(self) -> str:
        """Return it for a person."""
        return (
            f"client-level privacy: epsilon {self.epsilon:.1f} per hospital at delta "
            f"{self.delta:g} over {self.rounds} rounds. With {self.sites} sites and "
            f"{self.weights:,} trained weights the noise of a round is {self.per_round:,.0f} times "
            f"the largest possible signal, {self.per_run:,.0f} times over the whole run. It hides "
            "hospitals from each other, no patient from the coordinator."
        )


def cost_of(plan: CentralPrivacy, *, sites: int, rounds: int, weights: int) -> CentralCost:
    """Return what a plan costs.

    The noise on the mean has length about z S sqrt(d) / N, the mean of clipped updates S at most.

    Args:
        plan: noise multiplier z and delta.
        sites: N.
        rounds: of all stages together.
        weights: d.
    """
    ratio = plan.noise * math.sqrt(weights) / sites
    epsilon = epsilon_rdp([Charge(plan.noise, 1.0, rounds)], plan.delta)
    per_run = ratio / math.sqrt(rounds)
    return CentralCost(sites, rounds, weights, epsilon, plan.delta, ratio, per_run)


def clipped_update(delta: Groups, clip: float) -> Groups:
    """Return an update whose L2 norm over all parts together is at most `clip`, float64."""
    arrays_of = [array for arrays in delta.values() for array in arrays.values()]
    squares = sum(float(np.square(a, dtype=np.float64).sum()) for a in arrays_of)
    factor = min(1.0, clip * (1 - 2.0**-30) / math.sqrt(squares)) if squares else 1.0
    return {
        part: {name: array.astype(np.float64) * factor for name, array in arrays.items()}
        for part, arrays in delta.items()
    }


def noised_mean(
    mean: Groups, owners: dict[str, int], *, sites: int, plan: CentralPrivacy, rng: RandomSource
) -> Groups:
    """Return (sum of clipped updates + noise) / sites: the divisor is planned, never counted.

    Args:
        mean: per part over the sites that gave it, float64.
        owners: part -> how many they were.
        sites: that were asked.
        plan: noise and clip.
        rng: PrivacyRandom.
    """
    require_production(rng)
    std = plan.noise * plan.clip
    return {
        part: {
            name: (array * owners[part] + rng.normal(array.shape, std)) / sites
            for name, array in arrays.items()
        }
        for part, arrays in mean.items()
    }
