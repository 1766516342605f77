"""What the tokenizer's latent statistics are worth to the generator, and what noise takes of them.

    python benchmarks/privacy/latents.py      # some ten CPU minutes

Virtual hearts, a very small model, one site, ordinary training. First, for several numbers of
patients, how far the statistics that `privacy/latents.py` releases are off (patients are drawn with
replacement from those that there are; the noise is that of the release). Then one generator for
each kind of statistics of one tokenizer: `0 and 1` (never measured), `cells` and `channels`
(measured without privacy), and `noised`. The scale of a tokenizer's latents is arbitrary: training
leaves anything, and with few noisy steps little. So the same tokenizer is also tried with latents
that are `scale` times as large, which changes nothing else. Of cines that are generated for
held-out ECGs:

- `distance`: Frechet distance to the held-out cines, in their first principal components and units
  of the cines' total variance there, one number per seed;
- `spread`: sd over patients, as a share of that of the held-out cines.

`reconstructed` is what the tokenizer alone leaves of the held-out cines.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.decomposition import PCA
from utility_data import Patients, open_virtual

from cardionets_core.evaluation.fidelity import feature_sums, frechet_distance
from cardionets_core.messages import TrainPlan
from cardionets_core.models.cardionet import CardioNet, build_model
from cardionets_core.privacy.accounting import epsilon_rdp
from cardionets_core.privacy.latents import latent_moments, latent_parts, settled
from cardionets_core.privacy.metrics import bounds_of, noise_of, release_charge, released
from cardionets_core.privacy.rng import PrivacyRandom
from cardionets_core.training.loop import train_locally
from cardionets_core.training.objectives import make_objective
from cardionets_core.training.stages import STAGES
from simulations.measured import conditions

if TYPE_CHECKING:
    from cardionets_core.evaluation.sums import Floats

CPU = torch.device("cpu")
COMPONENTS = 16
DELTA = 1e-5

Statistics = tuple["Floats", "Floats"]
"""Mean and mean square of each channel."""


def main() -> None:
    """Train and print."""
    given = _arguments()
    torch.set_num_threads(1)
    print(conditions().text())
    print(f"seeds      {given.seeds}; noise cannot be seeded")
    for noise in given.noises:
        print(f"noise {noise:g} alone: epsilon {epsilon_rdp([release_charge(noise)], DELTA):.2f}")
    with tempfile.TemporaryDirectory() as scratch:
        patients = open_virtual(given.data or Path(scratch), given.patients, pairs=True, seed=1)
        _tokenizer(patients, given)


def _tokenizer(patients: Patients, given: argparse.Namespace) -> None:
    """Print both tables for one tokenizer."""
    start = build_model(patients.model("own"), seed=1)
    mean, square = np.nanmean(_measured(start, patients), axis=0)
    print(f"\nuntrained, latents have sd {_range(np.sqrt(square - mean**2))} by channel")
    _train(start, "tokenizer", patients, given.epochs, seed=1)
    found = _measured(start, patients)
    mean, square = np.nanmean(found, axis=0)
    sd, target = np.sqrt(square - mean**2), _Target(start, patients)
    print(
        f"\n{len(found)} patients, tokenizer of {given.epochs} epochs; by channel its latents have"
    )
    print(f"sd {_range(sd)}, mean {_range(mean)}; reconstructed: {target.told()}")
    print(f"\n{'largest error, as a share of the sd':<40}{'of the sd':>12}{'of the mean':>12}")
    print(f"{'0 and 1':<40}{_off((0 * mean, 1 + 0 * mean), mean, sd)}")
    for noise in given.noises:
        for count in given.counts:
            name = f"noise {noise:g}, {count:,} patients"
            print(f"{name:<40}{_off(_noised(found, count, noise), mean, sd)}")
    print(f"\n{'scale':<7}{'statistics':<30}{'distance':>20}{'spread':>20}", flush=True)
    for scale in given.scales:
        kinds: dict[str, Statistics | None] = {"0 and 1": (0 * mean, 1 + 0 * mean)}
        if scale == 1:
            kinds |= {"cells": None, "channels": (mean, square)}
        some = found * np.array([scale, scale**2])[:, None]
        for count in given.generators:
            name = f"noise {given.noises[0]:g}, {count:,} patients"
            kinds[name] = _noised(some, count, given.noises[0])
        for name, statistics in kinds.items():
            model = _scaled(start, scale)
            rows = [
                _generated(model, patients, target, statistics, seed, given.generator_epochs)
                for seed in given.seeds
            ]
            distance, spread = zip(*rows, strict=True)
            print(f"{scale:<7g}{name:<30}{_values(distance):>20}{_values(spread):>20}", flush=True)


def _measured(model: CardioNet, patients: Patients) -> Floats:
    """Return mean and mean square of each channel of the training patients' latents, [N, 2, C]."""
    needs = STAGES["tokenizer"].needs
    return latent_moments(model, patients.dataset, needs=needs, rng=PrivacyRandom())


def _scaled(start: CardioNet, scale: float) -> CardioNet:
    """Return the same tokenizer with latents that are `scale` times as large."""
    model = build_model(start.config, seed=1)
    model.load_state_dict(start.state_dict())
    last, first = model.tokenizer.encoder.layers[-1], model.tokenizer.decoder.layers[0]
    channels = start.config.tokenizer.channels
    with torch.no_grad():
        last.weight[:channels] *= scale
        last.bias[:channels] *= scale
        last.bias[channels:] += 2 * math.log(scale)  # log variance
        first.weight /= scale
    return model


def _off(statistics: Statistics, mean: Floats, sd: Floats) -> str:
    own = np.sqrt(statistics[1] - statistics[0] ** 2)
    return f"{np.abs(own / sd - 1).max():>12.2f}{(np.abs(statistics[0] - mean) / sd).max():>12.2f}"


class _Target:
    """Held-out cines, and how others compare with them."""

    def __init__(self, model: CardioNet, patients: Patients) -> None:
        rows = patients.dataset.indices("test", STAGES["generative"].needs)
        self.batch = patients.dataset.batch(rows, rng=None)
        cines = self.batch.cine[:, model.generated_view]
        with torch.no_grad():
            self._reconstructed = model.eval().decode_latent(model.encode_latent(cines))
        self._pca = PCA(COMPONENTS, random_state=0).fit(cines.flatten(1).numpy())
        self._real = self._pca.transform(cines.flatten(1).numpy()).astype(np.float64)
        self._spread = float(cines.std(0).mean())

    def told(self) -> str:
        """Return how the tokenizer alone compares."""
        return "distance {:.3f}, spread {:.2f}".format(*self.compare(self._reconstructed))

    def compare(self, cines: torch.Tensor) -> tuple[float, float]:
        """Return distance and spread of cines [B, K, H, W]."""
        other = self._pca.transform(cines.flatten(1).numpy()).astype(np.float64)
        distance = frechet_distance(feature_sums(self._real), feature_sums(other))
        return distance / float(self._real.var(0).sum()), float(cines.std(0).mean()) / self._spread


def _generated(
    start: CardioNet,
    patients: Patients,
    target: _Target,
    statistics: Statistics | None,
    seed: int,
    epochs: int,
) -> tuple[float, float]:
    """Train a generator and return distance and spread of its cines."""
    model = build_model(start.config, seed=seed)
    model.tokenizer.load_state_dict(start.tokenizer.state_dict())
    if statistics is None:
        rows = patients.dataset.indices("train", STAGES["tokenizer"].needs)
        model.eval().update_latent_statistics([patients.dataset.batch(rows, rng=None)])
    else:
        _set(model, statistics)
    _train(model, "generative", patients, epochs, seed=seed)
    cines = model.eval().generate(
        target.batch.ecg,
        target.batch.lead_mask,
        generator=torch.Generator().manual_seed(seed),
        guidance=1.0,
    )
    return target.compare(cines)


def _noised(found: Floats, count: int, noise: float) -> Statistics:
    """Return what would be released of `count` patients like these."""
    some = found[np.random.default_rng(0).integers(len(found), size=count)]
    parts = latent_parts(some)
    nothing = np.zeros(found.shape[2])
    spread = noise_of(bounds_of(parts), noise)
    return settled(released(parts, noise, PrivacyRandom()), spread, start=(nothing, nothing + 1))


def _set(model: CardioNet, statistics: Statistics) -> None:
    buffers = (model.tokenizer.latent_mean, model.tokenizer.latent_square)
    with torch.no_grad():
        for buffer, values in zip(buffers, statistics, strict=True):
            buffer.copy_(torch.from_numpy(values).view(-1, 1, 1, 1).expand_as(buffer))


def _train(model: CardioNet, stage: str, patients: Patients, epochs: int, *, seed: int) -> None:
    plan = TrainPlan(
        local_epochs=epochs,
        batch_size=64,
        lr=1e-3,
        weight_decay=0.0,
        clip_norm=3.0,
        max_steps=0,
        progress=0.0,
    )
    train_locally(
        model,
        patients.dataset,
        make_objective(stage, {}, 0.0),
        trains=STAGES[stage].trains,
        indices=patients.dataset.indices("train", STAGES[stage].needs),
        plan=plan,
        seed=seed,
        device=CPU,
    )


def _range(values: Floats) -> str:
    return f"{values.min():.2f} to {values.max():.2f}"


def _values(values: tuple[float, ...]) -> str:
    return "  ".join(f"{v:.3f}" for v in values)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Latent statistics with and without noise.")
    parser.add_argument("--patients", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=60, help="Of the tokenizer.")
    parser.add_argument("--generator-epochs", type=int, default=40)
    parser.add_argument("--noises", type=float, nargs="+", default=[10.0, 5.0])
    parser.add_argument("--counts", type=int, nargs="+", default=[50, 200, 500, 2000, 10_000])
    parser.add_argument("--generators", type=int, nargs="+", default=[2000], help="Patients.")
    parser.add_argument("--scales", type=float, nargs="+", default=[0.1, 1.0, 5.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--data", type=Path, help="Keep the cohort here; else it is deleted.")
    return parser.parse_args()


if __name__ == "__main__":
    main()
