"""What noise will leave of a metric, from declared numbers: nobody's records are looked at.

The noise of a private release has a known size, so its error can be told before anything is asked:
for made-up patients with the answers of `ILL` and `SCORE_GAP`, of whom everything is known. Real
tables have gaps, so these are errors at best. benchmarks/privacy/sums.py prints them beside what
many releases of such patients give.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.special import ndtr, ndtri

from cardionets_core.evaluation.metrics import auroc
from cardionets_core.evaluation.options import EvaluationOptions, trained_sections
from cardionets_core.privacy.evaluation import BINS, ERRORS, score_bounds
from cardionets_core.privacy.metrics import Prior, moments, noise_of, to_total

if TYPE_CHECKING:
    from cardionets_core.run_config import RunConfig

ILL, SCORE_GAP = 0.1, 1.2
"""Share of the ill, and how far their scores lie above the others', in sd: AUROC 0.80."""

EXPLAINED = 0.5
"""R2 of the made-up predictions."""

TEST_SHARE = 0.2
"""Share of a site's patients in the test split (data.manifest.split_of)."""

USABLE_AUROC, USABLE_R2 = 0.1, 0.25
"""Errors above which a metric says nothing: an AUROC is between 0.5 and 1 before anybody looks."""

ALL: Final = ("phenotypes", "diseases")
"""Sections that can be scored privately."""

DRAWS = 400
"""Releases that an error is the root mean square of."""


@dataclass(frozen=True)
class ExpectedErrors:
    """Root mean square errors of a pooled evaluation; NaN for a section that is not asked for.

    Attributes:
        auroc: of a disease.
        r2: of a phenotype.
        patients: test patients of all sites together.
        sites: releases in the sum.
        measured: of how many patients have a phenotype.
        diagnosed: of how many patients have, or do not have, a disease.
    """

    auroc: float
    r2: float
    patients: int
    sites: int
    measured: float
    diagnosed: float

    @property
    def unusable(self) -> tuple[str, ...]:
        """Metrics that the noise leaves nothing of."""
        found = {"AUROC": self.auroc > USABLE_AUROC, "R2": self.r2 > USABLE_R2}
        return tuple(name for name, lost in found.items() if lost)

    @property
    def leaves_nothing(self) -> bool:
        """Whether no metric is usable."""
        return len(self.unusable) == len(self.asked) > 0

    @property
    def asked(self) -> tuple[str, ...]:
        """Sections that are scored."""
        told = {"phenotypes": self.r2, "diseases": self.auroc}
        return tuple(name for name, error in told.items() if not math.isnan(error))

    def words(self) -> str:
        """Return it for a person."""
        told = {"AUROC": self.auroc, "R2": self.r2}
        errors = [f"{v:.2g} in {name}" for name, v in told.items() if not math.isnan(v)]
        return f"an error of about {' and '.join(errors)} over {self.patients:,} test patients"


def expected_errors(
    options: EvaluationOptions,
    *,
    noise: float,
    patients: int,
    phenotypes: int,
    diseases: int,
    sites: int = 1,
) -> ExpectedErrors:
    """Return the errors of a private evaluation.

    Args:
        options: of the plan; their sections count.
        noise: multiplier of a release.
        patients: test patients of all sites together.
        phenotypes: columns P.
        diseases: columns D.
        sites: whose noised sums are added up.
    """
    bounds = score_bounds(options, phenotypes=phenotypes, diseases=diseases)
    spread = {name: math.sqrt(sites) * v for name, v in noise_of(bounds, noise).items()}
    patients = max(1, patients)
    area = r2 = math.nan
    if diseases and "diseases/histogram" in spread:
        area = _area_error(patients, spread["diseases/histogram"], spread["diseases/classes"])
    if phenotypes and "phenotypes/ecg/squared_error" in spread:
        # 1 - SSE / SST; half of the same noised count is put back into both, so that its noise
        # counts R2 times, that of the squared errors once, and that of the squares 1 - R2 times.
        square = ERRORS.reach**2 * spread["phenotypes/ecg/squared_error"]
        r2 = math.hypot(1.0, EXPLAINED, 1.0 - EXPLAINED) * square / patients
    counts = (spread.get(name, math.nan) for name in ("phenotypes/known", "diseases/classes"))
    return ExpectedErrors(area, r2, patients, sites, *counts)


def errors_of_plan(config: RunConfig, patients: int, *, sites: int = 1) -> ExpectedErrors | None:
    """Return the errors of a plan's evaluation for declared patients; None without an evaluation.

    A head that no stage trains is not scored, and takes no share of the noise.

    Args:
        config: the plan.
        patients: declared, of all sites with ECGs together.
        sites: how many they are.
    """
    if "evaluate" not in config.stages or not config.privacy.is_on:
        return None
    return expected_errors(
        _scored(config),
        noise=config.privacy.evaluation_noise,
        patients=round(TEST_SHARE * patients),
        phenotypes=len(config.phenotypes),
        diseases=len(config.diseases),
        sites=sites,
    )


def scored_outputs(config: RunConfig) -> str:
    """Return how many outputs of which kind a plan's evaluation scores, in words."""
    counts = {"phenotypes": len(config.phenotypes), "diseases": len(config.diseases)}
    asked = _scored(config).sections
    return " and ".join(f"{count} {name}" for name, count in counts.items() if name in asked)


def _scored(config: RunConfig) -> EvaluationOptions:
    return trained_sections(config.evaluation, (*config.stages, *config.start.stages))


def errors_of_site(
    *, noise: float, declared: int, phenotypes: int, diseases: int
) -> ExpectedErrors:
    """Return the errors of an evaluation of all that can be scored privately, at one site alone.

    Args:
        noise: multiplier of a release.
        declared: patients of the site.
        phenotypes: columns P.
        diseases: columns D.
    """
    return expected_errors(
        EvaluationOptions(sections=ALL),
        noise=noise,
        patients=round(TEST_SHARE * declared),
        phenotypes=phenotypes,
        diseases=diseases,
    )


def patients_for(config: RunConfig) -> int:
    """Return about how many test patients a plan's evaluation needs at one site; 0 without one.

    K equal sites together need about sqrt(K) times as many, so each of them 1 / sqrt(K).
    """
    patients = 50
    while (found := errors_of_plan(config, round(patients / TEST_SHARE))) and found.asked:
        if not found.unusable:
            return patients
        patients = round(1.25 * patients)
    return 0


def spread_error(*, noise: float, patients: int, phenotypes: int) -> float:
    """Return the relative error of a phenotype's sd in the handshake's sums.

    Without patients it is that of the published reference, here a quarter.

    Args:
        noise: `privacy.sums_noise`.
        patients: training patients of the site.
        phenotypes: columns P.
    """
    root, prior = math.sqrt(max(1, phenotypes)), Prior(0.0, 1.0)
    bounds = {"known": root, "value": root, "square": 0.5 * root}
    std = noise_of(bounds, noise)
    own = np.array([0.5, 0.5**2 + 0.8**2]) / prior.reach ** np.array([1, 2])
    truth = {"known": 1.0, "value": own[0], "square": own[1] - 0.5}
    source = np.random.default_rng(0)  # of a figure for readers; it hides nothing
    sums = {name: patients * v + source.normal(0.0, std[name], DRAWS) for name, v in truth.items()}
    found = moments(sums, prior, noise_std=std["known"])
    return float(np.sqrt(np.mean((np.sqrt(found.variance) / 0.8 - 1) ** 2)))


@lru_cache(maxsize=256)
def _area_error(patients: int, bins: float, classes: float) -> float:
    """Return the error of an AUROC whose bins and classes have noise of these sizes."""
    gap = SCORE_GAP * ILL, math.sqrt(1 + ILL * (1 - ILL) * SCORE_GAP**2)
    edges = gap[0] + gap[1] * ndtri(np.linspace(0, 1, BINS + 1))
    shares = np.stack([np.diff(ndtr(edges)), np.diff(ndtr(edges - SCORE_GAP))])
    truth = patients * np.array([[1 - ILL], [ILL]]) * shares
    source = np.random.default_rng(0)  # of a figure for readers; it hides nothing
    histogram = truth[:, None, :] + source.normal(0.0, bins, (2, DRAWS, BINS))
    totals = truth.sum(-1)[:, None] + source.normal(0.0, classes, (2, DRAWS))
    area = auroc(to_total(histogram, np.maximum(np.rint(totals), 0.0)))[0]
    area = np.where(np.isfinite(area), area, 0.5)
    return float(np.sqrt(np.mean((area - ndtr(SCORE_GAP / math.sqrt(2))) ** 2)))
