"""What noise leaves of the sums of the handshake and of the evaluation: error against its price.

python benchmarks/privacy/sums.py

Made-up patients with known answers go through the code that sites use (privacy/metrics.py,
privacy/evaluation.py); each cell is the root mean square error of many releases, R2's that of
privacy/expected_errors.py. Each evaluation is of phenotypes and diseases. K sites of this size
together have about 1 / sqrt(K) of these errors. The first rows say what a noise costs: epsilon, and
how much more noise a training needs that shares its budget with the three releases of a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr
from scipy.stats import rankdata

from cardionets_core.evaluation.metrics import auroc
from cardionets_core.evaluation.options import EvaluationOptions
from cardionets_core.privacy.accounting import Charge, epsilon_rdp, noise_for
from cardionets_core.privacy.evaluation import BINS, score_bounds
from cardionets_core.privacy.expected_errors import ALL, ILL, SCORE_GAP, expected_errors
from cardionets_core.privacy.metrics import (
    Part,
    Prior,
    bounds_of,
    moment_parts,
    moments,
    noise_of,
    release_charge,
    released,
    to_total,
)
from cardionets_core.privacy.rng import PrivacyRandom

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOISES = (1.0, 2.0, 3.0, 5.0, 10.0)
TRAINING = (0.0512, 977)
"""Rate and steps of the training that shares its budget: 5,000 patients, batch 256, 50 epochs."""
RELEASES = 3
DELTA = 1e-5
TRIALS = 30


def main() -> None:
    """Print all tables."""
    costs = [f"{epsilon_rdp([release_charge(n)], DELTA):.2f}" for n in NOISES]
    _row("", "noise", [f"{n:g}" for n in NOISES])
    _row("", f"epsilon of one release (RDP, delta {DELTA:g})", costs)
    for budget in (8.0, 3.0):
        cells = [_price(budget, noise) for noise in NOISES]
        _row("", f"training noise for epsilon {budget:g}, {RELEASES} releases: more by", cells)
    for phenotypes in (9, 82):
        for patients in (500, 2000, 10000):
            cells = [_phenotypes(patients, phenotypes, noise) for noise in NOISES]
            _row("handshake", f"{patients:,} patients, {phenotypes} phenotypes: sd, %", cells)
    for phenotypes, diseases in ((9, 3), (82, 12)):
        for patients in (500, 2000, 10000):
            what = f"{patients:,} test patients, {phenotypes} phenotypes, {diseases} diseases"
            areas = [_area(patients, phenotypes, diseases, noise) for noise in NOISES]
            _row("evaluation", f"{what}: AUROC", areas)
            _row("", f"{what}: R2", [_r2(patients, phenotypes, diseases, n) for n in NOISES])


def _price(budget: float, noise: float) -> str:
    """Return how much more noise a training needs that leaves room for the releases."""
    spent = [Charge(noise, 1.0, RELEASES)]
    alone = noise_for([TRAINING], epsilon=budget, delta=DELTA)
    try:
        beside = noise_for([TRAINING], epsilon=budget, delta=DELTA, spent=spent)
    except ValueError:
        return "none"
    return f"{100 * (beside / alone - 1):.0f} %"


def _r2(patients: int, phenotypes: int, diseases: int, noise: float) -> str:
    found = expected_errors(
        EvaluationOptions(sections=ALL),
        noise=noise,
        patients=patients,
        phenotypes=phenotypes,
        diseases=diseases,
    )
    return f"{found.r2:.2f}"


def _row(section: str, what: str, cells: list[str]) -> None:
    print(f"{section:<11} {what:<58}", *(f"{cell:>7}" for cell in cells))


def _phenotypes(patients: int, phenotypes: int, noise: float) -> str:
    """Return the error of the noised sd; patients lie half a reference sd off the reference."""
    source, prior = np.random.default_rng(0), Prior(np.zeros(phenotypes), np.ones(phenotypes))
    values = source.normal(0.5, 0.8, (patients, phenotypes))
    parts = moment_parts(values, prior)
    spread = noise_of(bounds_of(parts), noise)["known"]
    errors = [
        np.sqrt(moments(released(parts, noise, PrivacyRandom()), prior, noise_std=spread).variance)
        / values.std(axis=0)
        - 1
        for _ in range(TRIALS)
    ]
    return f"{100 * np.sqrt(np.mean(np.square(errors))):.1f}"


def _area(patients: int, phenotypes: int, diseases: int, noise: float) -> str:
    """Return the error of the AUROC of the noised bins; the true one is of unbinned scores."""
    source = np.random.default_rng(0)
    ill = source.random((patients, diseases)) < ILL
    score = source.normal(SCORE_GAP * ill, 1.0)
    share = ndtr((score - score.mean(axis=0)) / score.std(axis=0))
    place = np.clip((share * BINS).astype(int), 0, BINS - 1)
    classes = np.stack([~ill, ill], axis=1).astype(np.float64)
    bins = classes[..., None] * (place[:, None, :, None] == np.arange(BINS))
    root, nobody = float(np.sqrt(diseases)), np.zeros((patients, 1))
    bounds = score_bounds(EvaluationOptions(sections=ALL), phenotypes=phenotypes, diseases=diseases)
    parts = {name: Part(nobody, bound) for name, bound in bounds.items()}  # the other groups
    parts |= {"diseases/classes": Part(classes, root), "diseases/histogram": Part(bins, root)}
    errors = []
    for _ in range(TRIALS):
        found = released(parts, noise, PrivacyRandom())
        totals = np.maximum(np.rint(found["diseases/classes"]), 0.0)
        area = auroc(to_total(found["diseases/histogram"], totals))[0]
        errors.append(np.where(np.isfinite(area), area, 0.5) - _true_area(score, ill))
    return f"{np.sqrt(np.mean(np.square(errors))):.3f}"


def _true_area(score: NDArray[np.float64], ill: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the AUROC [D] of unbinned scores, from ranks (Mann and Whitney)."""
    present = ill.sum(axis=0)
    above = (rankdata(score, axis=0) * ill).sum(axis=0) - present * (present + 1) / 2
    return np.asarray(above / (present * (len(ill) - present)))


if __name__ == "__main__":
    main()
