"""Judges the sums of the handshake and of the evaluation before one of them is added.

What is due follows from the code that sites compute with, run here on one patient of zeros: names
and shapes cannot drift apart. A site leaves out the groups that it cannot serve, each as a whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cardionets_core.evaluation.fidelity import feature_sums
from cardionets_core.evaluation.metrics import binary_sums, regression_sums
from cardionets_core.evaluation.probes import COVARIATE_TERMS, fusion_equations, normal_equations
from cardionets_core.evaluation.retrieval import retrieval_sums
from cardionets_core.evaluation.summary import KINDS, MEASURED
from cardionets_core.evaluation.sums import under
from cardionets_core.wire_limits import LARGEST_COUNT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cardionets_core.evaluation.options import EvaluationOptions
    from cardionets_core.evaluation.sums import Floats, Sums
    from cardionets_core.run_config import RunConfig

STATISTICS = ("phenotype_n", "phenotype_sum", "phenotype_square")
"""The sums that the scaler is made of."""

LARGEST_PHENOTYPE = 1e6
"""In mL, g, mm2, % or L/min: no heart comes near, and no mean of hearts is moved far."""

LARGEST_FIT = 1e15
"""Of a sum of round `fit`: 10^9 patients whose values are 1,000 sd away."""

LARGEST_SCORE = 1e60
"""Of a sum of round `score`: what probes of such sums may give; its fourth power is a float64."""

COUNTS = frozenset({"n", "present", "patients", "queries"})
"""Last words of the names of sums that count patients."""

POSITIVE = frozenset({"square", "absolute", "brier", "histogram", "calibration", "hits", "ranks"})
"""Last words of the names of sums of what is never below zero; a root is taken of some."""

DIVISORS = frozenset({"mean_cine/n", "ecg_score/n", "train_features/n"})
"""Counts that sums are divided by as they are: a site without such patients leaves them out."""

PRIVATE_FIT = ("residual/", "ecg_score/")
"""Beginnings of the names of what is fitted in a private run (privacy/evaluation.py)."""

ROUNDING = 1e-9
"""Share of its trace by which rounding may take a sum of squares below zero."""


def usable_statistics(sums: Mapping[str, Floats], *, phenotypes: int) -> bool:
    """Return whether the sums behind the scaler are those of so many phenotypes of patients.

    Beside names, shapes and bounds: (sum x)^2 <= n sum x^2 (Cauchy and Schwarz).
    """
    due = {key: np.zeros(phenotypes) for key in STATISTICS}
    if set(sums) != set(due) or not _has_shapes(sums, due):
        return False
    n, total, square = (sums[key] for key in STATISTICS)
    bounded = (np.abs(total) <= n * LARGEST_PHENOTYPE) & (square <= n * LARGEST_PHENOTYPE**2)
    if not _is_count(n) or not bounded.all():  # NaN is no count, and within no bound
        return False
    return bool(((square >= 0) & (total**2 <= n * square * (1 + ROUNDING))).all())


def usable_sums(sums: Mapping[str, Floats], groups: Sequence[Sums], *, largest: float) -> bool:
    """Return whether the sums of one site can be added to those of the others.

    Args:
        sums: what it sent.
        groups: of `fit_groups` or `score_groups`; each is there as a whole, or not at all.
        largest: no number is beyond it.
    """
    held = [group for group in groups if set(group) & set(sums)]
    if set(sums) != {key for group in held for key in group}:
        return False
    if not all(_has_shapes(sums, group) for group in held):
        return False
    if not all(bool((np.abs(value) <= largest).all()) for value in sums.values()):
        return False
    return all(_is_sound(key, value) for key, value in sums.items()) and all(
        _is_gram(value, sums[f"{key.removesuffix('gram')}n"])
        for key, value in sums.items()
        if key.endswith("/gram")
    )


def fit_groups(config: RunConfig, options: EvaluationOptions) -> list[Sums]:
    """Return what a site may send in round `fit`, group by group, as sums over one patient."""
    phenotypes, diseases = len(config.phenotypes), len(config.diseases)
    groups: list[Sums] = []
    design = np.zeros((1, COVARIATE_TERMS))
    if "phenotypes" in options.sections and phenotypes:
        truth, mask = np.zeros((1, phenotypes)), np.ones((1, phenotypes), dtype=np.bool_)
        groups.append(under("covariates_phenotypes", normal_equations(design, truth, mask)))
        fusion = under("fusion", fusion_equations(design, truth, truth, mask))
        groups.append(fusion | {f"residual/{k}": truth[0] for k in ("n", "sum", "square")})
    if "diseases" in options.sections and diseases:
        truth, mask = np.zeros((1, diseases)), np.ones((1, diseases), dtype=np.bool_)
        groups.append(under("covariates_diseases", normal_equations(design, truth, mask)))
        scores = {f"ecg_score/{k}": truth[0] for k in ("sum", "square")}
        groups.append({"ecg_score/n": np.ones(1), **scores})
    if "generation" in options.sections:
        groups.append(_cine_sums(config, options))
    return groups


def private_fit_groups(config: RunConfig, options: EvaluationOptions) -> list[Sums]:
    """Return what a private site may send in round `fit`: no baselines, no probes."""
    whole = {key: value for group in fit_groups(config, options) for key, value in group.items()}
    groups = [{k: v for k, v in whole.items() if k.startswith(p)} for p in PRIVATE_FIT]
    return [group for group in groups if group]


def score_groups(
    config: RunConfig, options: EvaluationOptions, probes: Mapping[str, Floats]
) -> list[Sums]:
    """Return what a site may send in round `score`; `probes` are those that it was sent."""
    groups: list[Sums] = []
    if "phenotypes" in options.sections and config.phenotypes:
        groups.append(under("phenotypes", _regression(config, _predictors(probes))))
    if "diseases" in options.sections and config.diseases:
        groups.append(under("diseases", _disease_sums(config, options, probes)))
    if "retrieval" in options.sections:
        once = np.ones((1, 1))
        groups.append(under("retrieval", retrieval_sums(once, once, once)))
    if "generation" in options.sections and "mean_cine" in probes:
        groups.append(under("generation", _generation_sums(config, options)))
    return groups


def _predictors(probes: Mapping[str, Floats]) -> list[str]:
    names = ["mean", "ecg"]
    names += ["covariates"] if "covariates_phenotypes" in probes else []
    return names + (["ecg_covariates"] if "fusion" in probes else [])


def _regression(config: RunConfig, names: Sequence[str]) -> Sums:
    truth = np.zeros((1, len(config.phenotypes)))
    mask = np.ones(truth.shape, dtype=np.bool_)
    # One row of weights: no site sends replicates.
    return regression_sums(truth, mask, dict.fromkeys(names, truth), np.ones((1, 1)))


def _disease_sums(
    config: RunConfig, options: EvaluationOptions, probes: Mapping[str, Floats]
) -> Sums:
    score = np.zeros((1, len(config.diseases)))
    known = np.ones(score.shape, dtype=np.bool_)
    bins = (options.score_bins, options.replicate_bins, options.calibration_bins)
    found = binary_sums(known, known, score, score, np.ones((1, 1)), bins=bins)
    sums = under("ecg", found)
    if "covariates_diseases" in probes:
        sums |= under("covariates", found)
    return sums


def _features(config: RunConfig, options: EvaluationOptions) -> Floats:
    return np.zeros((1, min(config.model.cmr_encoder.width, options.feature_dim)))


def _cine_sums(config: RunConfig, options: EvaluationOptions) -> Sums:
    features, cine = _features(config, options), config.model.cine
    truth = np.zeros((1, len(config.phenotypes)))
    design = np.zeros((1, 1 + features.shape[1]))
    equations = normal_equations(design, truth, np.ones(truth.shape, dtype=np.bool_))
    return {
        "mean_cine/n": np.ones(1),
        "mean_cine/sum": np.zeros((cine.phases, cine.size_px, cine.size_px)),
        **under("cmr_probe", equations),
        **under("train_features", feature_sums(features)),
    }


def _generation_sums(config: RunConfig, options: EvaluationOptions) -> Sums:
    one = np.zeros(1)
    sums: Sums = {"patients": one, **under("fidelity", _regression(config, MEASURED))}
    for kind in ("real", *KINDS):
        sums |= under(f"features/{kind}", feature_sums(_features(config, options)))
    for kind in KINDS:
        sums |= {f"ssim/{kind}": one, f"psnr/{kind}": one}
    sums |= {f"diversity/{kind}": one for kind in ("samples", "real", "unconditional")}
    return sums | {f"memory/{kind}": one for kind in ("patients", "real", "conditional")}


def _has_shapes(sums: Mapping[str, Floats], due: Mapping[str, Floats]) -> bool:
    return all(
        sums[key].shape == value.shape and sums[key].dtype == np.float64
        for key, value in due.items()
    )


def _is_sound(key: str, value: Floats) -> bool:
    """Return whether a sum that counts patients is a count, and none is below what it can be."""
    word = key.rpartition("/")[2]
    if word not in COUNTS:
        return word not in POSITIVE or bool((value >= 0).all())
    return _is_count(value) and (key not in DIVISORS or bool(value[0] >= 1))


def _is_count(value: Floats) -> bool:
    return bool(((value >= 0) & (value <= LARGEST_COUNT) & (value == np.floor(value))).all())


def _is_gram(gram: Floats, n: Floats) -> bool:
    """Return whether X'X [P, C, C] is one, of a table X whose first column is n ones.

    Symmetric, no eigenvalue below zero (but for rounding, far below the ridge): then it can be
    solved, and so can every sum of such.
    """
    trace = np.trace(gram, axis1=1, axis2=2)[:, None]
    is_symmetric = (np.abs(gram - gram.swapaxes(1, 2)) <= ROUNDING * trace[..., None]).all()
    if not is_symmetric or not (gram[:, 0, 0] == n).all():
        return False
    return bool((np.linalg.eigvalsh(gram) >= -ROUNDING * trace).all())
