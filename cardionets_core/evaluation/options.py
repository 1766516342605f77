"""EvaluationOptions: how held-out patients are scored; plain numbers that RunConfig can hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Collection

Section = Literal["phenotypes", "diseases", "retrieval", "generation"]
"""What can be scored; a run without the stage that trains a part leaves its section out."""

SECTIONS: tuple[str, ...] = get_args(Section)

SECTION_STAGES: dict[Section, tuple[str, ...]] = {
    "phenotypes": ("phenotypes",),
    "diseases": ("diseases",),
    "retrieval": ("contrastive", "distill"),
    "generation": ("generative",),
}
"""Section of the evaluation -> stages of which one must have trained what it scores."""


@dataclass(frozen=True)
class EvaluationOptions:
    """How held-out patients are scored.

    Attributes:
        sections: what is scored.
        batch_size: patients per forward pass.
        replicates: Poisson-bootstrap replicates; for cohorts in one hand only. A site sends none,
            whatever is asked: of a small cohort they give every patient's values away. Without
            them AUROC, r and recall have closed-form 95 % intervals (intervals.py).
        score_bins: bins of a disease score (AUROC, AUPRC; the bin error is reported).
        replicate_bins: coarser bins of the replicates, which keep a reply small.
        calibration_bins: equal bins of predicted probability (calibration curve, ECE).
        retrieval_patients: largest gallery per site.
        generated_patients: held-out patients per site for whom cines are generated.
        samples: cines generated per patient from the ECG (diversity needs two).
        memory_patients: training patients per site that generated cines are compared with.
        feature_dim: size of the CMR feature space of the probe and the Frechet distance.
        ridge: of the covariate and CMR probes, as a share of the mean diagonal of X'X.
        fusion_ridge: of the late fusion; it shrinks towards the ECG's own prediction.
        minimum_patients: a column or section with fewer patients than this leaves the site as
            zeros.
    """

    sections: tuple[Section, ...] = get_args(Section)
    batch_size: int = 64
    replicates: int = 0
    score_bins: int = 256
    replicate_bins: int = 64
    calibration_bins: int = 10
    retrieval_patients: int = 1000
    generated_patients: int = 64
    samples: int = 3
    memory_patients: int = 1000
    feature_dim: int = 64
    ridge: float = 1e-3
    fusion_ridge: float = 1e-2
    minimum_patients: int = 5

    def __post_init__(self) -> None:
        """Refuse numbers that cannot run."""
        for name in ("batch_size", "calibration_bins", "feature_dim", "minimum_patients"):
            _at_least(name, getattr(self, name), 1)
        for name in ("retrieval_patients", "generated_patients", "memory_patients", "samples"):
            _at_least(name, getattr(self, name), 2)
        if self.replicates:
            _at_least("replicates", self.replicates, 20)
        _at_least("replicate_bins", self.replicate_bins, 8)
        if self.score_bins % self.replicate_bins:
            raise ValueError(
                f"score_bins ({self.score_bins}) must be a multiple of replicate_bins "
                f"({self.replicate_bins})"
            )
        if self.ridge <= 0 or self.fusion_ridge <= 0:
            raise ValueError("ridge and fusion_ridge must be above 0")


def trained_sections(options: EvaluationOptions, stages: Collection[str]) -> EvaluationOptions:
    """Return the options without the sections that none of the stages has trained for.

    Args:
        options: of the plan.
        stages: of the run, and of the run whose weights it began with.
    """
    kept = (s for s in options.sections if not set(SECTION_STAGES[s]).isdisjoint(stages))
    return replace(options, sections=tuple(kept))


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}")
