"""How much noise a training needs for a budget, and what that noise leaves of the signal."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cardionets_core.errors import ConfigError
from cardionets_core.privacy.accounting import Charge, epsilon_at, epsilon_rdp, noise_for
from cardionets_core.privacy.order import best_order, first_charge
from cardionets_core.privacy.schedule import Quote, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cardionets_core.privacy.accounting import Accountant

COMFORTABLE, HOPELESS = 0.3, 1.0
"""Noise to signal over a whole training: below is comfortable, above is hopeless. A rule of thumb,
and an optimistic one: it takes every clipped gradient to point the same way."""

USUAL_DELTA = 1e-5

LARGEST_EPSILON = 1000.0
"""Of a plan: beyond, nothing is promised against anybody, and the accountants' numbers end."""

MOST_STEPS = 10**9
"""Of a stage: more than any training takes."""


@dataclass(frozen=True)
class StageNeed:
    """Noisy steps whose noise is looked for.

    Attributes:
        name: of the stage.
        rate: q, the probability with which a patient is in a step.
        steps: noisy steps of each member; of a run they are rounds x max_steps.
        members: stages that it is made of at the site, each of which takes all steps.
        bucket: mean patients of a bucket; 0 where each patient is clipped.
    """

    name: str
    rate: float
    steps: int
    members: int = 1
    bucket: int = 0

    def __post_init__(self) -> None:
        """Refuse steps that no site takes.

        Raises:
            ConfigError: says which number and what is possible.
        """
        if not 0 < self.rate <= 1:
            raise ConfigError(f"{self.name}: rate is {self.rate:g}; choose above 0 and at most 1.")
        if not 1 <= self.steps <= MOST_STEPS:
            raise ConfigError(
                f"{self.name}: {self.steps:.3g} noisy steps are planned; choose 1 to "
                f"{MOST_STEPS:,}: fewer epochs, or a larger batch."
            )

    @classmethod
    def of_epochs(
        cls, name: str, epochs: float, *, batch: int, patients: int, members: int = 1
    ) -> StageNeed:
        """Return the steps that passes over the patients take; a pass is one in expectation.

        Args:
            name: of the stage.
            epochs: passes, of each member.
            batch: expected patients in a step.
            patients: declared number.
            members: see StageNeed.

        Raises:
            ConfigError: the batch is larger than the hospital, or there are no epochs.
        """
        if not 0 < batch <= patients:
            raise ConfigError(
                f"{name}: a batch of {batch} of {patients} patients is not possible; choose 1 to "
                f"{patients}."
            )
        if not (math.isfinite(epochs) and epochs > 0):
            raise ConfigError(
                f"{name}: epochs is {epochs:g}; it must be above 0, for instance 20 passes."
            )
        rate = batch / patients
        return cls(name, rate, max(1, round(min(epochs / rate, 10.0 * MOST_STEPS))), members)

    @property
    def charged(self) -> int:
        """Steps that a ledger is charged."""
        return self.steps * self.members

    @property
    def epochs(self) -> float:
        """Expected passes over the patients, of each member."""
        return self.steps * self.rate

    def batch(self, patients: int) -> float:
        """Return the expected patients in a step."""
        return self.rate * patients

    @property
    def sensitivity(self) -> int:
        """What one patient can move, in units of C: docs/privacy.md, Contrastive losses."""
        return 2 if self.bucket else 1

    def noise_to_signal(self, noise: float, patients: int, weights: int) -> float:
        """Return noise over signal after all steps, at best.

        sigma sqrt(d) / (B sqrt(T)), and 2 s of that where s patients share one clipped gradient.
        """
        share = noise * math.sqrt(weights) / (self.batch(patients) * math.sqrt(self.steps))
        return share * self.sensitivity * max(1, self.bucket)


@dataclass(frozen=True)
class NoisePlan:
    """Stages that share a budget, all with the same noise.

    Attributes:
        patients: declared number.
        epsilon: the budget.
        delta: of the guarantee.
        stages: in the order in which they are trained.
        spent: what a ledger holds already.
        kept: (what for, charge) of sums, and of stages with a noise of their own.
        least: smallest noise multiplier that the site lets in.
        order: of the ledger that pays; None: there is none yet, and it is the best one for this.
    """

    patients: int
    epsilon: float
    delta: float
    stages: tuple[StageNeed, ...]
    spent: tuple[Charge, ...] = ()
    kept: tuple[tuple[str, Charge], ...] = ()
    least: float = 0.0
    order: float | None = None

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
                f"({1 / self.patients:.2g}): above, publishing one whole record would pass. Leave "
                f"--delta out for the usual {usual_delta(self.patients):.2g}."
            )
        if not 0 < self.epsilon <= LARGEST_EPSILON:
            raise ConfigError(
                f"epsilon is {self.epsilon:g}; it must be above 0 and at most {LARGEST_EPSILON:g}. "
                "8 is the usual upper end."
            )

    @property
    def before(self) -> tuple[Charge, ...]:
        """All that is charged besides the stages."""
        return (*self.spent, *(charge for _, charge in self.kept))

    def charges(self, noise: float) -> tuple[Charge, ...]:
        """Return the charges of the stages alone, in their order."""
        return tuple(Charge(noise, s.rate, s.charged) for s in self.stages)

    def noise(self, by: Accountant = "rdp") -> float:
        """Return the noise multiplier that makes all of it fit; at least what the site lets in.

        Raises:
            ConfigError: nothing does; what is charged besides is too much.
        """
        spent = self.epsilon_before()
        try:
            if spent >= self.epsilon:
                raise ValueError(f"no noise keeps this within epsilon {self.epsilon:g}")
            found = noise_for(
                [(s.rate, s.charged) for s in self.stages],
                epsilon=self.epsilon,
                delta=self.delta,
                by=by,
                order=self.order,
                spent=self.before,
            )
        except ValueError as error:
            at = "" if self.order is None else self._of_order(self.order)
            raise ConfigError(
                f"{str(error).partition(':')[0]}{at}: epsilon {spent:.3g} is spent already or goes "
                "to sums and stages with a noise of their own. Plan for a larger epsilon, fewer "
                "steps or noisier sums (--run privacy.evaluation_noise=6)."
            ) from None
        return max(found, self.least)

    def quote(self, noise: float) -> Quote:
        """Return what all of it costs, by both accountants."""
        return quoted((*self.before, *self.charges(noise)), self.delta, order=self.order)

    def cost(self, charges: Iterable[Charge]) -> float:
        """Return what charges cost by RDP, at the plan's order."""
        if self.order is None:
            return epsilon_rdp(charges, self.delta)
        return epsilon_at(charges, self.delta, self.order)

    def _of_order(self, order: float) -> str:
        first = first_charge(self.delta, order)
        return (
            f" (at the ledger's order {order:g}, where the first charge alone counts {first:.3g})"
        )

    def epsilon_before(self) -> float:
        """Return epsilon without the stages, by RDP."""
        return self.cost(self.before)

    def best_order(self) -> float:
        """Return the order at which the whole plan costs least when it takes the whole budget.

        Raises:
            ConfigError: no noise makes it fit.
        """
        noise = replace(self, order=None).noise()
        return best_order((*self.before, *self.charges(noise)), self.delta)

    def with_batches(self, factor: float) -> NoisePlan:
        """Return the same epochs in batches `factor` times as large."""
        stages = tuple(
            replace(s, rate=s.rate * factor, steps=max(1, round(s.steps / factor)))
            for s in self.stages
        )
        return replace(self, stages=stages)


def usual_delta(patients: int) -> float:
    """Return the usual delta: 1e-5, and never above a tenth of 1 / patients."""
    return min(USUAL_DELTA, 0.1 / max(1, patients))
