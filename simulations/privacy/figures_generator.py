"""Does a generator that was trained on a few hearts draw them again, with and without privacy?

A small tokenizer and generator are trained by the loops that a site runs, on one half of a few
virtual hearts, and then draw cines for the ECGs of people of neither half. That is done twice, with
the halves exchanged, and counted together: what a generator draws may resemble one half by chance
(a blur has one nearest cine, whatever it was trained on), and the exchange takes that out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from cardionets_core.evaluation.fidelity import nearest_distance
from cardionets_core.messages import TrainPlan
from cardionets_core.models.cardionet import build_model
from cardionets_core.privacy.accounting import noise_for
from cardionets_core.privacy.copies import Copies, copies
from cardionets_core.privacy.latents import MEASURED, release_latent_statistics
from cardionets_core.privacy.mechanism import Mechanism
from cardionets_core.privacy.rng import PrivacyRandom
from cardionets_core.privacy.step import train_privately
from cardionets_core.training.loop import train_locally
from cardionets_core.training.objectives import make_objective
from cardionets_core.training.stages import STAGES
from simulations.privacy.held import held, virtual_patients
from simulations.privacy.row import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from cardionets_core.batch import Batch
    from cardionets_core.models.cardionet import CardioNet
    from cardionets_core.run_config import RunConfig

    Rows = NDArray[np.int64]
    Floats = NDArray[np.float64]
    Trainer = Callable[[CardioNet, Batch, Rows], None]

HALF, HEARTS, HEART_SEED, SEED = 8, 64, 5, 0
"""Hearts that a generator is trained on; of all, the others' ECGs are what it draws for."""

STEPS = {"tokenizer": 100, "generative": 200}
"""Stage -> steps, the same with and without privacy: enough to learn eight hearts by heart."""

LEARNING_RATE, RATE, CLIP = 5e-3, 0.5, 0.5
EPSILON, DELTA = 8.0, 1e-5
NO_NOISE = 1e-9
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Drawn:
    """How cines that were drawn lie to real ones, over both halves.

    Attributes:
        to_training: distance of each to its nearest training cine (fidelity.nearest_distance).
        to_held_out: to its nearest cine of the other half, which has as many.
        shares: of each training, the share of cines that are nearer to a training cine.
    """

    to_training: Floats
    to_held_out: Floats
    shares: tuple[float, ...]

    @property
    def copies(self) -> Copies:
        """Of both trainings together."""
        return copies(self.to_training, self.to_held_out)


def generators(work: Path, plan: RunConfig) -> Iterator[Row]:
    """Train with and without privacy, and count copies of training cines."""
    hearts = with_generated_view(
        virtual_patients(work / "generator", plan, patients=HEARTS, seed=HEART_SEED, cines=True),
        plan,
    )
    noise = noise_for(
        [(RATE, sum(STEPS.values())), (1.0, 1)], epsilon=EPSILON, delta=DELTA, by="prv"
    )
    private = f"epsilon {EPSILON:g} (sigma {noise:.2f})"
    yield _row("ordinary training", drawn_after(ordinarily, plan, hearts), control=True)
    yield _row("clipped, not noised", drawn_after(privately(NO_NOISE), plan, hearts))
    yield _row(private, drawn_after(privately(noise), plan, hearts), note=_apart(hearts, plan))


def drawn_after(train: Trainer, plan: RunConfig, hearts: Batch) -> Drawn:
    """Train on each half in turn; return how the cines lie that are then drawn.

    Args:
        train: trains tokenizer and generator in place, on the rows it is given.
        plan: of the model.
        hearts: both halves, then the people for whom is drawn.
    """
    real = cines_of(hearts, plan).numpy()
    halves = (np.arange(HALF), np.arange(HALF, 2 * HALF))
    near, far = [], []
    for own, other in (halves, halves[::-1]):
        model = build_model(plan.model, seed=1)
        train(model, hearts, own)
        asked = slice(2 * HALF, None)
        source = torch.Generator().manual_seed(SEED)
        made = model.eval().generate(hearts.ecg[asked], hearts.lead_mask[asked], generator=source)
        near.append(nearest_distance(made.numpy(), [real[own]]))
        far.append(nearest_distance(made.numpy(), [real[other]]))
    shares = tuple(float(np.mean(n < f)) for n, f in zip(near, far, strict=True))
    return Drawn(np.concatenate(near), np.concatenate(far), shares)


def with_generated_view(hearts: Batch, plan: RunConfig) -> Batch:
    """Return those who have the view that generators draw; others would be blank cines."""
    return hearts.rows(torch.nonzero(hearts.view_mask[:, _view(plan)])[:, 0])


def _view(plan: RunConfig) -> int:
    return plan.model.cine.views.index(plan.model.generator.view)


def cines_of(hearts: Batch, plan: RunConfig) -> torch.Tensor:
    """Return the cines [N, K, H, W] of that view."""
    return hearts.cine[:, _view(plan)]


def ordinarily(model: CardioNet, hearts: Batch, rows: Rows) -> None:
    """Train tokenizer and generator without privacy, as a site does it."""
    for name, steps in STEPS.items():
        train_locally(
            model,
            held(hearts, rows),
            make_objective(name, {}, 0.0),
            trains=STAGES[name].trains,
            indices=rows,
            plan=_plan(steps),
            seed=SEED,
            device=CPU,
        )
        if MEASURED in STAGES[name].trains:
            model.eval().update_latent_statistics([hearts.rows(torch.from_numpy(rows))])


def privately(noise: float) -> Trainer:
    """Return training by the private loop with this noise, as a site does it."""

    def train(model: CardioNet, hearts: Batch, rows: Rows) -> None:
        patients, rng = held(hearts, rows), PrivacyRandom()
        for name, steps in STEPS.items():
            train_privately(
                model,
                patients,
                make_objective(name, {}, 0.0),
                trains=STAGES[name].trains,
                needs=(),
                plan=_plan(steps),
                mechanism=Mechanism(noise, RATE, CLIP, "patient", RATE * HALF, steps),
                rng=rng,
                seed=SEED,
                device=CPU,
            )
            if MEASURED in STAGES[name].trains:
                release_latent_statistics(model, patients, needs=(), noise=noise, rng=rng)

    return train


def _plan(steps: int) -> TrainPlan:
    return TrainPlan(
        local_epochs=steps,
        batch_size=HALF,
        lr=LEARNING_RATE,
        weight_decay=0.0,
        clip_norm=1.0,
        max_steps=steps,
        progress=0.0,
    )


def _row(words: str, drawn: Drawn, *, control: bool = False, note: str = "") -> Row:
    found = drawn.copies
    each = " and ".join(f"{share:.0%}" for share in drawn.shares)
    return Row(
        f"generator of {HALF} hearts, {words}: its cines nearer to a training than to a held-out "
        "cine",
        "more than half, beyond chance" if control else "",
        f"{found.nearer_training:.0%} ({found.low:.0%} to {found.high:.0%}), at "
        f"{found.ratio:.2f} times the distance",
        found.found and min(drawn.shares) > 0.5 if control else None,
        control=control,
        seeds=f"hearts {HEART_SEED}" + ("" if control else "; noise os"),
        note=f"{each} with the halves exchanged; {float(np.median(drawn.to_training)):.2f} of the "
        f"grey range from the nearest training cine{note}",
    )


def _apart(hearts: Batch, plan: RunConfig) -> str:
    """Return in words how near real hearts of the other half are, and what that says of noise."""
    real = cines_of(hearts, plan).numpy()
    between = float(np.median(nearest_distance(real[HALF : 2 * HALF], [real[:HALF]])))
    return (
        f", where real hearts of the other half lie at {between:.2f}. No target: a generator of so "
        "few patients draws noise, and which half that resembles is chance, for all of its cines "
        "at once (the interval takes them as independent)"
    )
