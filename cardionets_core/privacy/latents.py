"""The tokenizer's latent statistics under privacy: one scale and one centre for each channel.

Without them the generator works on latents of the wrong scale: trained tokenizers have raw latents
of sd 0.1 to 3, and 0 and 1 are only what is assumed before anybody was measured. One Gaussian
mechanism over all patients (metrics.py), charged once, in the last round of the stage: nothing in
training the tokenizer itself reads them.

What is released of a patient has a constant range at *any* scale: the logarithm of the rms of each
channel of their latent, clipped, and its mean as a share of that rms, which is in -1 .. 1 (Cauchy
and Schwarz). So a relative error of the scale does not depend on the scale. Per cell, as without
privacy, there would be hundreds of times more numbers per patient, and noise to match.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from cardionets_core.evaluation.forward import evaluating
from cardionets_core.evaluation.sums import Floats
from cardionets_core.measured import LARGEST_RMS
from cardionets_core.privacy.metrics import Part, bounds_of, kept_share, noise_of, released
from cardionets_core.privacy.units import PatientIndex

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from cardionets_core.data.dataset import SiteDataset
    from cardionets_core.models.cardionet import CardioNet
    from cardionets_core.privacy.rng import RandomSource

MEASURED = "tokenizer"
"""The part whose statistics are measured rather than learned."""

LOG_REACH = math.log(LARGEST_RMS)
"""The rms of a patient's channel is clipped to 1/100 .. 100."""

APART, CENTRE_APART = 1.5, 0.6
"""How far trained latents lie from 0 and 1: sd of the natural logarithm of the rms, and of the mean
as a share of it (the model of benchmarks/privacy/latents.py)."""

Statistics = tuple[Floats, Floats]
"""Mean and mean square."""

LARGEST_CENTRE = math.sqrt(1 - 0.25**2)
"""Of a channel's mean, as a share of its rms: the sd is no less than a quarter of the rms."""


def release_latent_statistics(
    model: CardioNet,
    dataset: SiteDataset,
    *,
    needs: Collection[str],
    noise: float,
    rng: RandomSource,
) -> None:
    """Set the tokenizer's statistics from noised sums over the training patients.

    One release: charge `metrics.release_charge(noise)` before. Each patient counts once, with one
    study at random. The statistics that the task has brought (0 and 1, or those that the run began
    with) are moved and stretched, a channel as a whole; with few patients, hardly.

    Args:
        model: after its last noisy step; only the tokenizer's two buffers change.
        dataset: the site's studies.
        needs: of the tokenizer's stage.
        noise: the noise multiplier.
        rng: the site's private randomness.
    """
    parts = latent_parts(latent_moments(model, dataset, needs=needs, rng=rng))
    spread = noise_of(bounds_of(parts), noise)
    sums = released(parts, noise, rng)
    net = model.tokenizer
    cells = [b.double().cpu().flatten(1).numpy() for b in (net.latent_mean, net.latent_square)]
    start = (cells[0].mean(1), cells[1].mean(1))
    statistics = moved_to((cells[0], cells[1]), settled(sums, spread, start=start))
    with torch.no_grad():
        for buffer, values in zip((net.latent_mean, net.latent_square), statistics, strict=True):
            buffer.copy_(torch.from_numpy(values).view_as(buffer))


def latent_moments(
    model: CardioNet, dataset: SiteDataset, *, needs: Collection[str], rng: RandomSource
) -> Floats:
    """Return mean and mean square of each channel of the training patients' latents, [N, 2, C].

    Of the posterior's mean, over the cells of one study in the generator's view; NaN where that
    study lacks the view. Patients are read one at a time: in a batch, others' last bits would
    change with who is there.
    """
    rows = PatientIndex(dataset, needs).sample(1.0, rng)
    view, channels = model.generated_view, model.config.tokenizer.latent_channels
    found = np.full((len(rows), 2, channels), np.nan)
    with evaluating(model):
        for place, row in enumerate(rows):
            batch = dataset.batch(np.array([row]), rng=None).to(model.device)
            if bool(batch.view_mask[0, view]):
                raw = model.tokenizer.posterior(batch.cine[:, view])[0][0].double()
                powers = torch.stack([raw, raw.square()]).flatten(2).mean(2)
                found[place] = powers.cpu().numpy()
    return found


def latent_parts(found: Floats) -> dict[str, Part]:
    """Return the groups that are released of `latent_moments` [N, 2, C]."""
    channels = found.shape[2]
    known = np.asarray(np.isfinite(found).all(axis=(1, 2)))[:, None]
    mean, square = (np.where(known, found[:, i], 1.0) for i in (0, 1))
    level = np.clip(0.5 * np.log(np.maximum(square, 1e-300)), -LOG_REACH, LOG_REACH)
    centre = np.clip(mean / np.exp(level), -1.0, 1.0)
    root = math.sqrt(channels)
    return {
        "known": Part(known.astype(np.float64), 1.0),
        "level": Part(level / LOG_REACH * known, root),
        "centre": Part(centre * known, root),
    }


def settled(
    sums: Mapping[str, Floats], spread: Mapping[str, float], *, start: Statistics
) -> Statistics:
    """Return mean and mean square of each channel, [C] each, from the noised sums.

    Drawn towards `start` by how far noise may have moved them (`metrics.kept_share`).

    Args:
        sums: `known` [1], `level` and `centre` [C], of `latent_parts`.
        spread: the standard deviation of the noise on each.
        start: mean and mean square of each channel, [C], that were assumed so far.
    """
    count = np.maximum(sums["known"], max(1.0, spread["known"]))
    # That a small site seems large by chance must not let its noise in: two sd off the count.
    surely = np.maximum(sums["known"] - 2 * spread["known"], 1.0)
    rms = np.sqrt(np.clip(start[1], math.exp(-2 * LOG_REACH), math.exp(2 * LOG_REACH)))
    assumed = np.log(rms), start[0] / rms
    level = LOG_REACH * np.clip(sums["level"] / count, -1.0, 1.0)
    kept = kept_share(LOG_REACH * spread["level"] / surely, APART)
    level = assumed[0] + (level - assumed[0]) * kept
    centre = np.clip(sums["centre"] / count, -1.0, 1.0)
    kept = kept_share(spread["centre"] / surely, CENTRE_APART)
    centre = assumed[1] + (centre - assumed[1]) * kept
    centre = np.clip(centre, -LARGEST_CENTRE, LARGEST_CENTRE)
    return centre * np.exp(level), np.exp(2 * level)


def moved_to(cells: Statistics, channels: Statistics) -> Statistics:
    """Return statistics of cells whose channels have new ones; cells keep how they differ.

    Args:
        cells: mean and mean square of each cell, each [C, cells].
        channels: the new ones of each channel over all of its cells, each [C].
    """
    mean, square = cells
    centre = mean.mean(1)
    variance = np.maximum(square.mean(1) - centre**2, 1e-12)
    stretch = np.sqrt((channels[1] - channels[0] ** 2) / variance)[:, None]
    moved = (mean - centre[:, None]) * stretch + channels[0][:, None]
    return moved, np.maximum(square - mean**2, 0.0) * stretch**2 + moved**2
