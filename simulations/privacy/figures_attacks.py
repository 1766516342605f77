"""Attacks on what a small hospital releases: the trained phenotype head of a small CardioNet.

The attacker holds the released weights, knows plan, start weights and everybody else's data, and
asks of each patient: were they in? The same attacks run against a head that was clipped but not
noised: clipping alone protects nobody, and an attack that does not see that sees nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import optimize, stats

from cardionets_core.batch import Batch
from cardionets_core.evaluation.fidelity import nearest_distance
from cardionets_core.models.cardionet import build_model
from cardionets_core.privacy.accounting import noise_for
from cardionets_core.privacy.audit import audit
from cardionets_core.privacy.copies import Copies, copies
from cardionets_core.privacy.mechanism import Mechanism
from cardionets_core.privacy.membership import judged, likelihood_ratios
from cardionets_core.privacy.rng import PrivacyRandom
from cardionets_core.privacy.step import train_privately
from cardionets_core.training.objectives import make_objective
from simulations.privacy.drawings import draw_attacks
from simulations.privacy.figures_audit import sgd
from simulations.privacy.figures_generator import cines_of, generators, with_generated_view
from simulations.privacy.held import held, small_plan, virtual_patients
from simulations.privacy.pictures import Drawn, keep
from simulations.privacy.row import Row, repeated

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from cardionets_core.run_config import RunConfig

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

DELTA = 1e-5
RATE, STEPS, CLIP, LEARNING_RATE = 0.4, 50, 0.5, 3e-3
HOSPITAL, SHADOWS, TARGETS = 80, 16, 8
CANARIES, CINES, HEARTS_EACH = 200, 40, 56
"""`CINES` of `HEARTS_EACH` virtual hearts: some have no four-chamber view."""

HEART_SEED, COIN_SEED, CINE_SEEDS = 5, 0, (6, 7, 8)
HEARTS = f"hearts {HEART_SEED}, coins {COIN_SEED}; noise os"
NO_NOISE = 1e-9
"""Noise multiplier of a head that is clipped and not noised."""

ROC = Drawn(
    "members.svg",
    "Share of members found against false alarms, for heads released with and without noise",
    "Membership inference: a private release stays near the dotted line of chance; clipping alone "
    "gives its members away, also where false alarms are rare (the left edge).",
)


AUDITED, ATTACKED, LOOSE = 1.0, 3.0, 8.0
"""Epsilon that is claimed for the audit by canaries, and for two attacks by shadow models: one with
a target, and one that tells what a looser promise leaves open."""


@dataclass(frozen=True)
class Released:
    """How a head was trained before it was released."""

    words: str
    noise: float
    clip: float = CLIP


NOT_PRIVATE = Released("neither clipped nor noised", NO_NOISE, clip=1e6)
CLIPPED = Released("clipped, not noised", NO_NOISE)


def attacks(work: Path) -> Iterator[Row]:
    """Measure all of it."""
    plan = small_plan()
    patients = virtual_patients(work / "hearts", plan, patients=CANARIES, seed=HEART_SEED)
    yield from _canaries(plan, patients)
    yield from _members(work, plan, patients.rows(slice(0, HOSPITAL)))
    yield from _copies(work, plan)
    yield from generators(work, plan)


def _private(epsilon: float) -> Released:
    noise = noise_for([(RATE, STEPS)], epsilon=epsilon, delta=DELTA, by="prv")
    return Released(f"epsilon {epsilon:g} (sigma {noise:.2f})", noise)


def losses_after(plan: RunConfig, patients: Batch, members: Flags, how: Released) -> Floats:
    """Train the head on the members through the private loop; return everybody's loss after it.

    Args:
        plan: of the model.
        patients: all of them.
        members: [n], who is in.
        how: noise and clip; the loop is the same.
    """
    model, objective = build_model(plan.model, seed=1), make_objective("phenotypes", {}, 0.0)
    train_privately(
        model,
        held(patients, np.flatnonzero(members)),
        objective,
        trains=("phenotype_head",),
        needs=(),
        plan=sgd(LEARNING_RATE, optimizer="adamw"),
        mechanism=Mechanism(how.noise, RATE, how.clip, "patient", RATE * len(patients) / 2, STEPS),
        rng=PrivacyRandom(),
        seed=0,
        device=torch.device("cpu"),
    )
    with torch.no_grad():
        found = objective.loss(model.eval(), patients, {}).per_patient
    return found.double().numpy()


# ----------------------------------------------------------------------------- canaries, in one run


def _canaries(plan: RunConfig, patients: Batch) -> Iterator[Row]:
    """Patients with phenotypes of nobody: who fits them has seen them."""
    rng = np.random.default_rng(COIN_SEED)
    made_up = torch.from_numpy(rng.normal(size=patients.phenotypes.shape).astype(np.float32))
    canaries = Batch(**{f.name: getattr(patients, f.name) for f in fields(Batch)} | {
        "phenotypes": made_up, "phenotype_mask": torch.ones_like(patients.phenotype_mask)
    })  # fmt: skip
    included = rng.random(len(patients)) < 0.5
    for how in (_private(AUDITED), CLIPPED, NOT_PRIVATE):
        score = -losses_after(plan, canaries, included, how)
        found = audit(score, included, delta=DELTA)
        control = how.noise == NO_NOISE
        yield Row(
            f"head {how.words}: lower bound on epsilon, black box",
            f"{'>' if control else '<='} {AUDITED:g}, the epsilon that is claimed",
            f"{found.epsilon:.2f}",
            found.epsilon > AUDITED if control else found.epsilon <= AUDITED,
            control=control,
            seeds=HEARTS,
            note=f"{CANARIES} canaries with made-up phenotypes; {found.correct} of {found.guesses} "
            "guesses right",
        )


# ------------------------------------------------------------------------------ who was a member?


def _members(work: Path, plan: RunConfig, patients: Batch) -> Iterator[Row]:
    loose, drawn, most = _private(LOOSE), {}, most_auc(ATTACKED)
    for how in (_private(ATTACKED), loose, CLIPPED):
        rng = np.random.default_rng(COIN_SEED)
        inside = _memberships(rng, SHADOWS + TARGETS, len(patients))
        scores = np.stack([-np.log(losses_after(plan, patients, m, how) + 1e-6) for m in inside])
        ratios = likelihood_ratios(scores[:SHADOWS], inside[:SHADOWS], scores[SHADOWS:])
        found = judged(ratios, inside[SHADOWS:], seed=COIN_SEED)
        drawn[how.words] = (ratios, inside[SHADOWS:])
        control = how is CLIPPED
        met = found.auc > most if control else found.auc <= most
        yield Row(
            f"head {how.words}: membership inference (LiRA), AUC",
            "" if how is loose else f"{'>' if control else '<='} {most:.2f}",
            f"{found.auc:.3f} ({found.low:.3f} to {found.high:.3f})",
            None if how is loose else met,
            control=control,
            seeds=HEARTS,
            note=f"{found.caught:.0%} of members found at 1 % false alarms; {SHADOWS} shadow and "
            f"{TARGETS} attacked models, a hospital of {HOSPITAL // 2}",
        )
    keep(work, draw_attacks(drawn), ROC)


def most_auc(epsilon: float) -> float:
    """Return the AUC that Gaussian differential privacy of (epsilon, DELTA) leaves an attacker.

    mu from delta(epsilon; mu), then Phi(mu / sqrt 2) (Dong, Roth, Su 2022, "Gaussian differential
    privacy", corollary 2.13 and the area under its trade-off curve). Sampled steps come close to it
    and are no better known; what attacks reach lies below.
    """

    def beyond(mu: float) -> float:
        inside = stats.norm.cdf(-epsilon / mu + mu / 2)
        return float(inside - np.exp(epsilon) * stats.norm.cdf(-epsilon / mu - mu / 2) - DELTA)

    return float(stats.norm.cdf(optimize.brentq(beyond, 1e-2, 50.0) / np.sqrt(2)))


def _memberships(rng: np.random.Generator, models: int, patients: int) -> Flags:
    """Return who is in which model: each patient in half of the shadow models, at random."""
    shadow = np.argsort(rng.random((SHADOWS, patients)), axis=0) < SHADOWS // 2
    return np.concatenate([shadow, rng.random((models - SHADOWS, patients)) < 0.5])


# ------------------------------------------------------------------------ copies of training cines


def _copies(work: Path, plan: RunConfig) -> Iterator[Row]:
    """Try the measure itself on a generator that copies, and on one that cannot."""
    training, held_out, fresh = (_real_cines(work / f"cines-{s}", plan, s) for s in CINE_SEEDS)
    noise = np.random.default_rng(COIN_SEED).normal(0, 0.02, tuple(training.shape))
    near = _judged(training.numpy() + noise.astype(np.float32), training, held_out)
    yield _copies_row("cines of other virtual hearts", _judged(fresh.numpy(), training, held_out))
    yield _copies_row("training cines with a little noise", near, control=True)


def _real_cines(folder: Path, plan: RunConfig, seed: int) -> torch.Tensor:
    hearts = virtual_patients(folder, plan, patients=HEARTS_EACH, seed=seed, cines=True)
    return cines_of(with_generated_view(hearts, plan), plan)[:CINES]


def _judged(made: NDArray[np.float32], training: torch.Tensor, held_out: torch.Tensor) -> Copies:
    return copies(
        nearest_distance(made, [training.numpy()]), nearest_distance(made, [held_out.numpy()])
    )


def _copies_row(words: str, found: Copies, *, control: bool = False) -> Row:
    return Row(
        f"{words}: nearer to a training than to a held-out cine",
        "more than half, beyond chance" if control else "half, within chance",
        f"{found.nearer_training:.0%} ({found.low:.0%} to {found.high:.0%})",
        found.found if control else not found.found,
        control=control,
        seeds=f"hearts {repeated(*CINE_SEEDS)}",
        note="tests the measure; the generators below, and a run's own in its model card, are "
        "judged by it",
    )
