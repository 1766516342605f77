"""Scoring generated cines of held-out patients at one site.

Each patient's real cine stands beside: cines sampled from the patient's ECG (`conditional`), a cine
sampled without it (`unconditional`), the federation's mean training cine (`mean_image`) and the
cine of the training patient of the site whose ECG is most alike (`neighbour`). All are scored
alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from cardionets_core.evaluation.fidelity import (
    diversity,
    feature_sums,
    nearest_distance,
    psnr,
    rms,
    ssim,
)
from cardionets_core.evaluation.fit import enough
from cardionets_core.evaluation.forward import (
    feature_projection,
    patient_weights,
    read_batches,
    read_embedding,
    view_features,
)
from cardionets_core.evaluation.metrics import regression_sums
from cardionets_core.evaluation.probes import with_intercept
from cardionets_core.evaluation.sums import Sums, under
from cardionets_core.runtime import derive_seed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from cardionets_core.data.dataset import SiteDataset
    from cardionets_core.data.manifest import Split
    from cardionets_core.evaluation.options import EvaluationOptions
    from cardionets_core.evaluation.sums import Floats
    from cardionets_core.models.cardionet import CardioNet

PAIRED = frozenset({"ecg", "cine"})


@dataclass(frozen=True)
class Generated:
    """Cines of N held-out patients, float32 in [-1, 1], and what is known of them.

    Attributes:
        kinds: `real` and every kind of the module's docstring, [N, K, H, W] each.
        samples: [S, N, K, H, W] from the ECG; the first is `kinds["conditional"]`.
        phenotypes: [N, P] in standard deviations.
        phenotype_mask: [N, P].
    """

    kinds: dict[str, NDArray[np.float32]]
    samples: NDArray[np.float32]
    phenotypes: Floats
    phenotype_mask: NDArray[np.bool_]


def with_generated_view(
    model: CardioNet, dataset: SiteDataset, split: Split, *, at_most: int, seed: int
) -> NDArray[np.int64]:
    """Return studies with an ECG and the generated view, at most so many, drawn by seed."""
    rows = dataset.indices(split, PAIRED)
    rows = rows[dataset.arrays.view_mask[rows, model.generated_view]]
    if len(rows) > at_most:
        rng = np.random.default_rng(derive_seed(seed, "patients", split))
        rows = np.sort(rng.choice(rows, at_most, replace=False))
    return rows


def generate_cines(
    model: CardioNet,
    dataset: SiteDataset,
    rows: NDArray[np.int64],
    *,
    options: EvaluationOptions,
    mean_cine: Floats,
    neighbours: NDArray[np.int64],
    seed: int,
) -> Generated:
    """Sample cines for the studies `rows`; `neighbours` are the training studies to show beside."""
    noise = torch.Generator(model.device).manual_seed(derive_seed(seed, "generate"))
    real, samples, free, truth, mask = [], [], [], [], []
    for batch in read_batches(dataset, rows, size=options.batch_size, device=model.device):
        drawn = [
            model.generate(batch.ecg, batch.lead_mask, generator=noise)
            for _ in range(options.samples)
        ]
        samples.append(np.stack([_cine(d) for d in drawn]))
        blind = model.generate(batch.ecg, batch.lead_mask, generator=noise, conditional=False)
        free.append(_cine(blind))
        real.append(_cine(batch.cine[:, model.generated_view]))
        truth.append(batch.phenotypes.cpu().numpy().astype(np.float64))
        mask.append(batch.phenotype_mask.cpu().numpy())
    sampled = np.concatenate(samples, axis=1)
    mean = np.broadcast_to(mean_cine.astype(np.float32), sampled.shape[1:])
    kinds = {
        "real": np.concatenate(real),
        "conditional": sampled[0],
        "unconditional": np.concatenate(free),
        "mean_image": mean,
        "neighbour": np.concatenate(
            list(_view_cines(model, dataset, neighbours, options.batch_size))
        ),
    }
    return Generated(kinds, sampled, np.concatenate(truth), np.concatenate(mask))


def generation_sums(
    model: CardioNet,
    dataset: SiteDataset,
    probes: Mapping[str, Floats],
    options: EvaluationOptions,
    *,
    seed: int,
) -> Sums:
    """Score generated cines of the test split; empty where the site has too few pairs.

    The site's training pairs count too: neighbours and memorisation are judged against them.

    Args:
        model: in eval mode.
        dataset: the site's studies.
        probes: of `solve_probes`; without a mean cine (no site had cines) nothing is scored.
        options: the same for all sites.
        seed: the site's own.
    """
    choose = {"seed": seed, "at_most": options.generated_patients}
    rows = with_generated_view(model, dataset, "test", **choose)
    choose["at_most"] = options.memory_patients
    training = with_generated_view(model, dataset, "train", **choose)
    fewest = min(len(rows), len(training))
    if fewest < options.minimum_patients or "mean_cine" not in probes:
        return {}
    made = generate_cines(
        model,
        dataset,
        rows,
        options=options,
        mean_cine=probes["mean_cine"],
        neighbours=_nearest_by_ecg(model, dataset, rows, training, options.batch_size),
        seed=seed,
    )
    weights = patient_weights(dataset, rows, replicates=options.replicates, seed=seed)
    sums = score_generated(model, made, probes, options, weights)
    return sums | _memory_sums(model, dataset, made, training, options, weights)


def score_generated(
    model: CardioNet,
    made: Generated,
    probes: Mapping[str, Floats],
    options: EvaluationOptions,
    weights: Floats,
) -> Sums:
    """Sum features, measured phenotypes, SSIM, PSNR and diversity of the generated cines."""
    projection = feature_projection(model.config.cmr_encoder.width, options.feature_dim)
    sums: Sums = {"patients": weights.sum(axis=1)}
    measured: dict[str, Floats] = {}
    for kind, cines in made.kinds.items():
        features = _features(model, cines, projection, options.batch_size)
        sums |= under(f"features/{kind}", feature_sums(features))
        measured[kind] = with_intercept(features) @ probes["cmr_probe"].T
        if kind != "real":
            pairs = list(zip(made.kinds["real"], cines, strict=True))
            sums[f"ssim/{kind}"] = weights @ np.array([ssim(a, b) for a, b in pairs])
            sums[f"psnr/{kind}"] = weights @ np.array([psnr(a, b) for a, b in pairs])
    others = [_features(model, s, projection, options.batch_size) for s in made.samples[1:]]
    repeats = [with_intercept(f) @ probes["cmr_probe"].T for f in others]
    measured["conditional_mean"] = np.mean([measured["conditional"], *repeats], axis=0)
    mask = enough(made.phenotype_mask, options.minimum_patients)
    sums |= under("fidelity", regression_sums(made.phenotypes, mask, measured, weights))
    sums["diversity/samples"] = weights @ diversity(made.samples)
    for kind in ("real", "unconditional"):
        cines = made.kinds[kind]
        sums[f"diversity/{kind}"] = weights @ rms(cines, np.roll(cines, 1, axis=0))
    return sums


def _memory_sums(
    model: CardioNet,
    dataset: SiteDataset,
    made: Generated,
    training: NDArray[np.int64],
    options: EvaluationOptions,
    weights: Floats,
) -> Sums:
    sums: Sums = {"memory/patients": weights.sum(axis=1)}
    for kind in ("real", "conditional"):
        chunks = _view_cines(model, dataset, training, options.batch_size)
        sums[f"memory/{kind}"] = weights @ nearest_distance(made.kinds[kind], chunks)
    return sums


def _nearest_by_ecg(
    model: CardioNet,
    dataset: SiteDataset,
    rows: NDArray[np.int64],
    training: NDArray[np.int64],
    size: int,
) -> NDArray[np.int64]:
    asked = read_embedding(model, dataset, rows, size=size)
    known = read_embedding(model, dataset, training, size=size)
    return np.asarray(training[(asked @ known.T).argmax(axis=1)], dtype=np.int64)


def _view_cines(
    model: CardioNet, dataset: SiteDataset, rows: NDArray[np.int64], size: int
) -> Iterator[NDArray[np.float32]]:
    for batch in read_batches(dataset, rows, size=size, device=torch.device("cpu")):
        yield _cine(batch.cine[:, model.generated_view])


def _features(
    model: CardioNet, cines: NDArray[np.float32], projection: Floats, size: int
) -> Floats:
    parts = []
    for start in range(0, len(cines), size):
        chunk = torch.from_numpy(np.array(cines[start : start + size])).to(model.device)
        parts.append(view_features(model, chunk, projection))
    return np.concatenate(parts)


def _cine(tensor: torch.Tensor) -> NDArray[np.float32]:
    return np.asarray(tensor.detach().float().clamp(-1, 1).cpu().numpy(), dtype=np.float32)
