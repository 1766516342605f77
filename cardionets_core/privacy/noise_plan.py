"""How much noise a training needs for a budget, and what that noise leaves of the signal."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cardionets_core.errors import ConfigError
from cardionets_core.privacy.accounting import Charge, epsilon_prv, epsilon_rdp, noise_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cardionets_core.privacy.accounting import Accountant

COMFORTABLE, HOPELESS = 0.3, 1.0
"""Noise to signal over a whole training: below is comfortable, above is hopeless. A rule of thumb,
and an optimistic one: it takes every clipped gradient to point the same way."""

USUAL_DELTA = 1e-5


@dataclass(frozen=True)
class StageNeed:
    """What a stage would like to do.

    Attributes:
        name: of the stage.
        epochs: expected passes over the patients.
        batch: expected patients in a step.
        bucket: mean patients of a bucket; 0 where each patient is clipped.
    """

    name: str
    epochs: float
    batch: int
    bucket: int = 0

    def rate(self, patients: int) -> float:
        """Return q.

        Raises:
            ConfigError: the batch is larger than the hospital.
        """
        if not 0 < self.batch <= patients:
            raise ConfigError(
                f"{self.name}: a batch of {self.batch} of {patients} patients is not possible; "
                f"choose 1 to {patients}."
            )
        return self.batch / patients

    def steps(self, patients: int) -> int:
        """Return the noisy steps that the epochs take; only rounds x steps of a round matter."""
        return max(1, round(self.epochs / self.rate(patients)))

    @property
    def sensitivity(self) -> int:
        """What one patient can move, in units of C: docs/privacy.md, Contrastive losses."""
        return 2 if self.bucket else 1

    def noise_to_signal(self, noise: float, patients: int, weights: int) -> float:
        """Return noise over signal after all steps, at best.

        sigma sqrt(d) / (B sqrt(T)), and 2 s of that where s patients share one clipped gradient.
        """
        steps = self.steps(patients)
        share = noise * math.sqrt(weights) / (self.batch * math.sqrt(steps))
        return share * self.sensitivity * max(1, self.bucket)


@dataclass(frozen=True)
class NoisePlan:
    """Stages that share a budget, all with the same noise.

    Attributes:
        patients: declared number.
        epsilon: the budget.
        delta: of the guarantee.
        stages: in the order in which they are trained.
        before: what is charged besides: an older ledger, phenotype sums, evaluations.
    """

    patients: int
    epsilon: float
    delta: float
    stages: tuple[StageNeed, ...]
    before: tuple[Charge, ...] = ()

    def __post_init__(self) -> None:
        """Refuse numbers that no ledger takes.

        Raises:
            ConfigError: says which and why.
        """
        if self.patients < 1 or not self.stages:
            raise ConfigError("A plan needs patients and a stage; name --patients and --epochs.")
        if not 0 < self.delta <= 1 / self.patients:
            raise ConfigError(
                f"delta is {self.delta:g}; it must be above 0 and at most 1 / patients "
                f"({1 / self.patients:.2g}): above, publishing one whole record would pass."
            )
        if not self.epsilon > 0:
            raise ConfigError(f"epsilon is {self.epsilon}; it must be above 0.")

    def charges(self, noise: float) -> tuple[Charge, ...]:
        """Return the charges of the stages alone, in their order."""
        return tuple(
            Charge(noise, s.rate(self.patients), s.steps(self.patients)) for s in self.stages
        )

    def noise(self, by: Accountant = "rdp") -> float:
        """Return the noise multiplier that makes all of it fit.

        Raises:
            ConfigError: nothing does; what was charged before is too much.
        """
        stages = [(s.rate(self.patients), s.steps(self.patients)) for s in self.stages]
        try:
            return noise_for(
                stages, epsilon=self.epsilon, delta=self.delta, by=by, spent=self.before
            )
        except ValueError as error:
            raise ConfigError(f"{error}; plan for a larger epsilon.") from None

    def spent(self, noise: float, by: Accountant = "rdp") -> float:
        """Return epsilon after all stages."""
        rule = epsilon_rdp if by == "rdp" else epsilon_prv
        return rule((*self.before, *self.charges(noise)), self.delta)

    def spent_before(self) -> float:
        """Return epsilon before the first stage, by RDP."""
        return epsilon_rdp(self.before, self.delta)

    def with_batches(self, factor: float) -> NoisePlan:
        """Return the same epochs in batches `factor` times as large."""
        stages = (replace(s, batch=max(1, round(s.batch * factor))) for s in self.stages)
        return replace(self, stages=tuple(stages))


def usual_delta(patients: int) -> float:
    """Return the usual delta: 1e-5, and never above a tenth of 1 / patients."""
    return min(USUAL_DELTA, 0.1 / max(1, patients))


def stage_needs(words: Sequence[str], *, epochs: float, batch: int) -> tuple[StageNeed, ...]:
    """Return the stages that `NAME=EPOCHS[,batch=N][,bucket=S]` name; without any, one of `epochs`.

    Args:
        words: one for each stage.
        epochs: of the only stage.
        batch: of stages that name none.

    Raises:
        ConfigError: a word cannot be read.
    """
    if not words:
        return (StageNeed("training", epochs, batch),)
    return tuple(_stage_need(word, batch) for word in words)


def _stage_need(word: str, batch: int) -> StageNeed:
    name, _, rest = word.partition("=")
    first, *options = rest.split(",")
    try:
        values = {"batch": batch, "bucket": 0}
        for option in options:
            key, _, value = option.partition("=")
            values = {**values, key.strip(): int(value)}
        need = StageNeed(name.strip(), float(first), **values)
    except (ValueError, TypeError):
        raise ConfigError(
            f"--stage {word!r} cannot be read; write NAME=EPOCHS[,batch=N][,bucket=S], for example "
            "contrastive=50,batch=256,bucket=4."
        ) from None
    if not (math.isfinite(need.epochs) and need.epochs > 0) or need.bucket == 1 or need.bucket < 0:
        raise ConfigError(f"--stage {word!r}: epochs must be above 0, and a bucket at least 2.")
    return need
