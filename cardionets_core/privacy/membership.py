"""Membership inference: can somebody who holds the released model tell who was in its training?

A likelihood-ratio attack with few shadow models (LiRA; Carlini et al., "Membership inference
attacks from first principles", IEEE S&P 2022), in its online form with one spread for all patients:

    attack = likelihood_ratios(shadow_scores, shadow_in, target_scores)      # [targets, patients]
    result = judged(attack, target_in, seed=0)

A score is high where the model fits a patient well, e.g. minus the logarithm of the loss. What is
measured is this attack, on this model: an AUC of 0.5 proves nothing, one above says who is exposed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

FALSE_ALARMS = 0.01
"""False positive rate at which the true positive rate is quoted."""

REPLICATES = 200
"""Bootstrap samples of patients behind an interval."""


@dataclass(frozen=True)
class Membership:
    """How well members are told from others.

    Attributes:
        auc: 0.5 is chance.
        low: of the 95 % interval of `auc` over patients.
        high: likewise.
        caught: share of members that are found at FALSE_ALARMS false alarms.
        patients: attacked, members and others.
        targets: models that were attacked.
    """

    auc: float
    low: float
    high: float
    caught: float
    patients: int
    targets: int

    @property
    def better_than_chance(self) -> bool:
        """Whether the whole interval lies above 0.5."""
        return self.low > 0.5


def likelihood_ratios(shadow_scores: Floats, shadow_in: Flags, target_scores: Floats) -> Floats:
    """Return log p(score | member) - log p(score | not) of target models, [targets, patients].

    Means are of each patient, the two spreads are shared by all patients: with few shadow models a
    spread of one's own is mostly noise (Carlini et al. 2022, section VI-C).

    Args:
        shadow_scores: [shadows, patients].
        shadow_in: [shadows, patients], whether the shadow was trained on the patient.
        target_scores: [targets, patients].

    Raises:
        ValueError: a patient is in all shadow models, or in none.
    """
    count = shadow_in.sum(axis=0)
    if not (np.all(count > 0) and np.all(count < len(shadow_in))):
        raise ValueError("each patient must be in some shadow models and out of some")
    ratio = np.zeros_like(target_scores)
    for member, sign in ((True, 1.0), (False, -1.0)):
        chosen = shadow_in if member else ~shadow_in
        mean = np.where(chosen, shadow_scores, 0.0).sum(axis=0) / chosen.sum(axis=0)
        left = np.where(chosen, shadow_scores - mean, 0.0)
        # One degree of freedom of each patient went into the mean.
        free = max(1, int(chosen.sum()) - shadow_scores.shape[1])
        std = max(float(np.sqrt((left**2).sum() / free)), np.finfo(np.float64).tiny)
        ratio += sign * stats.norm.logpdf(target_scores, mean, std)
    return ratio


def judged(attack: Floats, member: Flags, *, seed: int) -> Membership:
    """Return how well an attack's values [targets, patients] rank members before others.

    Args:
        attack: higher where the patient seems to be a member.
        member: the truth, of the same shape.
        seed: of the bootstrap over patients, who appear in every target together.
    """
    rng = np.random.default_rng(seed)
    draws = rng.integers(attack.shape[1], size=(REPLICATES, attack.shape[1]))
    spread = [auc(attack[:, d].ravel(), member[:, d].ravel()) for d in draws]
    low, high = np.nanpercentile(spread, [2.5, 97.5])
    return Membership(
        auc=auc(attack.ravel(), member.ravel()),
        low=float(low),
        high=float(high),
        caught=true_positives(attack.ravel(), member.ravel(), false_alarms=FALSE_ALARMS),
        patients=attack.shape[1],
        targets=len(attack),
    )


def auc(values: Floats, member: Flags) -> float:
    """Return the area under the ROC curve (Mann-Whitney); NaN where all or none are members."""
    inside = int(member.sum())
    outside = len(member) - inside
    if not inside or not outside:
        return float("nan")
    ranks = stats.rankdata(values)
    return float((ranks[member].sum() - inside * (inside + 1) / 2) / (inside * outside))


def true_positives(values: Floats, member: Flags, *, false_alarms: float) -> float:
    """Return the share of members above the value that at most this share of others exceeds."""
    others = np.sort(values[~member])[::-1]
    limit = others[min(int(false_alarms * len(others)), len(others) - 1)]
    return float((values[member] > limit).mean())
