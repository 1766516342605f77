"""The mechanism of a private stage: clip, add noise, divide by a constant.

One step releases (sum over groups of clip_C(gradient) + N(0, std^2)) / groups. Every number is a
constant of the approved plan or of the site's declaration; none is measured on patients. Proofs of
the two sensitivities: docs/privacy.md, sections "Mechanism" and "Contrastive losses".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cardionets_core.privacy.accounting import Charge

if TYPE_CHECKING:
    from cardionets_core.privacy_config import PrivateTask

Grouping = Literal["patient", "bucket"]

MIXING_STAGES = frozenset({"contrastive"})
"""Stages whose loss of one patient depends on others, so that only buckets can be clipped."""


@dataclass(frozen=True)
class Mechanism:
    """The steps of one task.

    Attributes:
        noise: sigma, the noise multiplier that the accountant sees.
        rate: q, with which each patient is in a step, independently (Poisson sampling).
        clip: C, the largest L2 norm that one group adds.
        grouping: a group is one patient, or a bucket of patients with the same random label.
        groups: what the noisy sum is divided by: expected patients, or the number of buckets.
        steps: noisy steps, also where nobody is sampled.
    """

    noise: float
    rate: float
    clip: float
    grouping: Grouping
    groups: float
    steps: int

    def __post_init__(self) -> None:
        """Refuse what is no mechanism."""
        for name in ("noise", "rate", "clip", "groups", "steps"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}; a private step needs a number above 0")
        if self.rate > 1:
            raise ValueError(f"rate is {self.rate}; nobody is sampled more often than always")
        if self.grouping == "bucket" and self.groups != int(self.groups):
            raise ValueError(f"groups is {self.groups}; there is no part of a bucket")

    @property
    def sensitivity(self) -> float:
        """The most by which adding or removing one patient moves the sum, in L2.

        A patient's own clipped gradient has norm C at most. In a bucket they change the gradient
        of others too: it may turn from +C to -C (attained; tests/.../test_engines.py).
        """
        return 2.0 * self.clip if self.grouping == "bucket" else self.clip

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on every coordinate of the sum."""
        return self.noise * self.sensitivity

    @property
    def charge(self) -> Charge:
        """What the ledger is charged before the first step."""
        return Charge(self.noise, self.rate, self.steps)


def mechanism_for(task: PrivateTask, *, stage: str, patients: int) -> Mechanism:
    """Return the mechanism of a task at a site.

    Args:
        task: what the coordinator asks, admitted by the site's policy.
        stage: which stage, or member of a stage.
        patients: the declared number of patients (SitePrivacy.patients), never a count.

    Raises:
        ValueError: numbers that no mechanism has.
    """
    if patients < 1:
        raise ValueError(f"{patients} declared patients; declare the rounded, public number")
    expected = task.rate * patients
    bucketed = stage in MIXING_STAGES and task.contrastive == "bucket"
    return Mechanism(
        noise=task.noise,
        rate=task.rate,
        clip=task.clip,
        grouping="bucket" if bucketed else "patient",
        groups=float(max(1, round(expected / task.bucket_size))) if bucketed else expected,
        steps=task.steps,
    )
