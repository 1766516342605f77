"""The private loop itself, audited in one run each: canaries in, released weights out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from unittest.mock import patch

import numpy as np
import torch

from cardionets_core.messages import TrainPlan
from cardionets_core.privacy import step
from cardionets_core.privacy.accounting import epsilon_prv
from cardionets_core.privacy.audit import Expected, Moments, audit, expected_moments, moments
from cardionets_core.privacy.mechanism import Mechanism
from cardionets_core.privacy.rng import PrivacyRandom
from simulations.privacy.held import held
from simulations.privacy.linear import COORDINATE, PART, linear_model, weights_of, with_coordinates
from simulations.privacy.row import Row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from cardionets_core.privacy.rng import RandomSource

DELTA, SEED = 1e-5, 0
CANARIES, CLIP = 2000, 1.0
COINS = f"coins {SEED}; noise os"


@dataclass(frozen=True)
class Regime:
    """A setting of the mechanism; the canaries are all the patients there are."""

    noise: float
    rate: float
    steps: int

    def mechanism(self, *, noise: float = 1.0, clip: float = 1.0) -> Mechanism:
        """Return it, or a wrong one: noise or clip times a factor that nobody is told."""
        std = self.noise * noise
        groups = self.rate * CANARIES
        return Mechanism(std / clip, self.rate, CLIP * clip, "patient", groups, self.steps)


REGIMES = (Regime(1.0, 0.3, 40), Regime(1.5, 0.5, 40))
"""In both a canary stands out enough for its moments to be known to 2.5 %, a quarter of the
tolerance; what a lower bound sees depends on the setting."""


def one_run(work: Path) -> Iterator[Row]:
    """Audit the right mechanism in every regime, then broken ones that must be found."""
    for regime in REGIMES:
        epsilon = epsilon_prv([regime.mechanism().charge], DELTA)
        words = f"sigma {regime.noise:g}, q {regime.rate:g}, {regime.steps} steps"
        scores, included = trained(regime.mechanism())
        bound = audit(scores, included, delta=DELTA)
        yield Row(
            f"{words}: lower bound on epsilon from {CANARIES:,} canaries",
            f"<= {epsilon:.2f}, the epsilon that is claimed",
            f"{bound.epsilon:.2f}",
            bound.epsilon <= epsilon,
            seeds=COINS,
            note=f"{bound.correct} of {bound.guesses} guesses right, 95 % confidence",
        )
        yield _moments(words, moments(scores, included, _expected(regime)))
    yield from _controls(REGIMES[0])


def trained(
    mechanism: Mechanism, rng: RandomSource | None = None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Train on half of the canaries through the real loop; return their scores and who was in.

    Canary i's clipped gradient is -C in coordinate i and 0 elsewhere. With plain SGD and rate 1 the
    final weight i times the divisor is the sum of all that was released there.
    """
    included = np.random.default_rng(SEED).random(CANARIES) < 0.5
    model = linear_model(CANARIES)
    step.train_privately(
        model,
        held(with_coordinates(CANARIES), np.flatnonzero(included)),
        COORDINATE,
        trains=(PART,),
        needs=(),
        plan=sgd(1.0),
        mechanism=mechanism,
        rng=rng or PrivacyRandom(),
        seed=SEED,
        device=torch.device("cpu"),
    )
    return weights_of(model) * mechanism.groups, included


def sgd(lr: float, *, optimizer: str = "sgd") -> TrainPlan:
    """Return a plan of which the private loop reads optimizer and learning rate."""
    return TrainPlan(
        local_epochs=1,
        batch_size=1,
        lr=lr,
        weight_decay=0.0,
        clip_norm=0.0,
        max_steps=0,
        progress=0.0,
        optimizer=optimizer,  # type: ignore[arg-type]
    )


def _expected(regime: Regime) -> Expected:
    mechanism = regime.mechanism()
    return expected_moments(
        gradient=CLIP, rate=regime.rate, noise_std=mechanism.noise_std, steps=regime.steps
    )


def _moments(words: str, found: Moments) -> Row:
    return Row(
        f"{words}: moments of the canaries' scores over the expected ones",
        "each 0.9 to 1.1",
        _told(found),
        found.hold,
        seeds=COINS,
    )


def _told(found: Moments) -> str:
    return f"gap {found.gap:.2f}, std out {found.std_out:.2f}, std in {found.std_in:.2f}"


def _controls(regime: Regime) -> Iterator[Row]:
    yield _control("noise a quarter of what is claimed", regime, regime.mechanism(noise=0.25))
    yield _control("the noise of C for gradients of 2C", regime, regime.mechanism(clip=2.0))
    with patch.object(step, "require_production"):  # it would refuse such a source
        yield _control(
            "the same noise in every step", regime, regime.mechanism(), rng=_SameNoise(CANARIES)
        )


def _control(
    words: str, regime: Regime, mechanism: Mechanism, rng: RandomSource | None = None
) -> Row:
    scores, included = trained(mechanism, rng)
    found = moments(scores, included, _expected(regime))
    bound = audit(scores, included, delta=DELTA).epsilon
    claimed = epsilon_prv([regime.mechanism().charge], DELTA)
    blind = "would pass" if bound <= claimed else "fails too"
    return Row(
        words,
        "a moment off by more than 10 %",
        _told(found),
        not found.hold,
        control=True,
        seeds=COINS,
        note=f"the lower bound alone ({bound:.2f} for a claim of {claimed:.2f}) {blind}",
    )


class _SameNoise:
    """Coins as they should be, and noise that is drawn once: what a re-seeded round would do."""

    def __init__(self, size: int) -> None:
        self._coins = PrivacyRandom()
        self._once = self._coins.normal((size,), 1.0)

    def bernoulli(self, n: int, rate: float) -> NDArray[np.bool_]:
        return self._coins.bernoulli(n, rate)

    def integers(self, n: int, high: int) -> NDArray[np.int64]:
        return self._coins.integers(n, high)

    def normal(self, shape: tuple[int, ...], std: float) -> NDArray[np.float64]:
        return std * self._once
