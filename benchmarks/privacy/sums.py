"""What noise leaves of the sums of the handshake and of the evaluation: error against its price.

python benchmarks/privacy/sums.py

Made-up patients with known answers go through the code that sites use (privacy/metrics.py,
privacy/evaluation.py); each cell is the root mean square error of many releases. A site that
federates with K others of its size has about 1 / sqrt(K) of these errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr
from scipy.stats import rankdata

from cardionets_core.evaluation.metrics import auroc
from cardionets_core.privacy.accounting import epsilon_prv
from cardionets_core.privacy.evaluation import BINS
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

NOISES = (1.0, 2.0, 5.0, 10.0)
DELTA = 1e-5
TRIALS = 30
ILL, SCORE_GAP = 0.1, 1.2
"""Share of the ill, and how far their scores lie above the others', in sd: AUROC 0.80."""


def main() -> None:
    """Print all tables."""
    costs = [f"{epsilon_prv([release_charge(n)], DELTA):.2f}" for n in NOISES]
    _row("", "noise", [f"{n:g}" for n in NOISES])
    _row("", f"epsilon of one release (PRV, delta {DELTA:g})", costs)
    for phenotypes in (9, 82):
        for patients in (500, 2000, 10000):
            cells = [_phenotypes(patients, phenotypes, noise) for noise in NOISES]
            _row("handshake", f"{patients:,} patients, {phenotypes} phenotypes: sd, %", cells)
    for diseases in (3, 12):
        for patients in (500, 2000, 10000):
            cells = [_area(patients, diseases, noise) for noise in NOISES]
            _row("evaluation", f"{patients:,} test patients, {diseases} diseases: AUROC", cells)


def _row(section: str, what: str, cells: list[str]) -> None:
    print(f"{section:<11} {what:<52}", *(f"{cell:>7}" for cell in cells))


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


def _area(patients: int, diseases: int, noise: float) -> str:
    """Return the error of the AUROC of the noised bins; the true one is of unbinned scores."""
    source = np.random.default_rng(0)
    ill = source.random((patients, diseases)) < ILL
    score = source.normal(SCORE_GAP * ill, 1.0)
    share = ndtr((score - score.mean(axis=0)) / score.std(axis=0))
    place = np.clip((share * BINS).astype(int), 0, BINS - 1)
    classes = np.stack([~ill, ill], axis=1).astype(np.float64)
    bins = classes[..., None] * (place[:, None, :, None] == np.arange(BINS))
    root = float(np.sqrt(diseases))
    parts = {"classes": Part(classes, root), "histogram": Part(bins, root)}
    errors = []
    for _ in range(TRIALS):
        found = released(parts, noise, PrivacyRandom())
        totals = np.maximum(np.rint(found["classes"]), 0.0)
        area = auroc(to_total(found["histogram"], totals))[0]
        errors.append(np.where(np.isfinite(area), area, 0.5) - _true_area(score, ill))
    return f"{np.sqrt(np.mean(np.square(errors))):.3f}"


def _true_area(score: NDArray[np.float64], ill: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the AUROC [D] of unbinned scores, from ranks (Mann and Whitney)."""
    present = ill.sum(axis=0)
    above = (rankdata(score, axis=0) * ill).sum(axis=0) - present * (present + 1) / 2
    return np.asarray(above / (present * (len(ill) - present)))


if __name__ == "__main__":
    main()
