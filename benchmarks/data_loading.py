"""How fast do ECGs reach the model? Cached epochs against reading and filtering per access.

    python benchmarks/data_loading.py
    python benchmarks/data_loading.py --patients 400 --preset small --seed 2

Peer, measured in the same run on the same files: what a training script does without a cache, that
is `wfdb.rdrecord`, scipy's polyphase resampling and two zero-phase Butterworth filters on every
access. The last lines compare the time to load a batch with the time of a training step on it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import signal

from cardionets_core.batch import Batch
from cardionets_core.cohort.write import write_site
from cardionets_core.data.cache import open_cache
from cardionets_core.data.dataset import SiteDataset
from cardionets_core.data.ecg import read_wfdb
from cardionets_core.data.manifest import read_manifest
from cardionets_core.data.transforms import prepare_ecg
from cardionets_core.model_config import EcgSpec, ModelConfig
from cardionets_core.models.cardionet import build_model
from cardionets_core.run_config import model_preset
from cardionets_core.training.objectives import make_objective
from simulations.measured import conditions

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import wfdb

BATCH = 32


def main() -> None:
    """Write a virtual hospital, time every way to its ECGs, print the table."""
    options = _arguments()
    torch.set_num_threads(1)
    print(conditions().text())
    ecgs = f"{options.patients} ECGs of preset C"
    print(f"seed       {options.seed}; one core; preset {options.preset}; {ecgs}")
    model = model_preset(options.preset)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "site"
        write_site("C", patients=options.patients, seed=options.seed, out=root, ecg_only=True)
        headers = sorted((root / "ecg").glob("*.hea"))
        manifest = read_manifest(root / "manifest.csv", root)
        reference = _rate(lambda: _each(headers, lambda h: _by_script(h, model.ecg)), len(headers))
        cold = _rate(
            lambda: _each(headers, lambda h: prepare_ecg(read_wfdb(h), model.ecg)), len(headers)
        )
        arrays = open_cache(manifest, model.ecg, model.cine, Path(place) / "cache", salt="s")
        dataset = SiteDataset(
            manifest, arrays, spec=model, phenotypes=(), diseases=(), scaler=None, salt="s"
        )
        cached = _rate(lambda: _epoch(dataset, options.seed), len(headers), repeats=7)
        _print_rates(reference, cold, cached)
        _print_step(model, dataset, options.seed)


def _by_script(header: Path, spec: EcgSpec) -> NDArray[np.float32]:
    """Return what a script without a cache computes on every access, [12, samples]."""
    record = wfdb.rdrecord(str(header.with_suffix("")))
    leads = record.p_signal.T
    if record.fs != spec.sampling_rate_hz:
        leads = signal.resample_poly(leads, spec.sampling_rate_hz, record.fs, axis=1)
    for hz, kind in ((spec.highpass_hz, "highpass"), (spec.lowpass_hz, "lowpass")):
        if hz < spec.sampling_rate_hz / 2:
            b, a = signal.butter(spec.filter_order, hz, kind, fs=spec.sampling_rate_hz)
            leads = signal.filtfilt(b, a, leads, axis=1)
    return np.asarray(leads[:, : spec.record_samples], dtype=np.float32)


def _each(headers: list[Path], read: Callable[[Path], NDArray[np.float32]]) -> None:
    for header in headers:
        torch.from_numpy(read(header))


def _batches(dataset: SiteDataset, seed: int) -> Iterator[Batch]:
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(dataset))
    for start in range(0, len(order), BATCH):
        yield dataset.batch(order[start : start + BATCH], rng=rng)


def _epoch(dataset: SiteDataset, seed: int) -> None:
    for _ in _batches(dataset, seed):
        pass


def _rate(work: Callable[[], None], records: int, repeats: int = 2) -> float:
    """Return records per second of the fastest of some repeats (a shared machine only slows)."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return records / min(times)


def _print_rates(reference: float, cold: float, cached: float) -> None:
    print(f"\n{'way':<48}{'records/s':>12}{'x reference':>14}")
    for name, rate in (
        ("reference: wfdb + scipy on every access", reference),
        ("cold: our reader and transforms", cold),
        ("cached epoch: shuffled batches of 32", cached),
    ):
        print(f"{name:<48}{rate:>12,.0f}{rate / reference:>14.1f}")


def _print_step(config: ModelConfig, dataset: SiteDataset, seed: int) -> None:
    """Compare the time to load a batch with that of one optimisation step on it."""
    model = build_model(config, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters())
    objective = make_objective("ecg_masked", {}, 0.0)
    generator = torch.Generator().manual_seed(seed)
    loading: list[float] = []
    stepping: list[float] = []
    batches = _batches(dataset, seed)
    while True:
        start = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            break
        loaded = time.perf_counter()
        noise = objective.draw(model, batch, generator)
        objective.loss(model, batch, noise).per_patient.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        loading.append(loaded - start)
        stepping.append(time.perf_counter() - loaded)
    share = float(np.median(loading) / np.median(stepping))
    print(f"\nloading a batch takes {share:.2%} of a training step on it (ecg_masked, one core)")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=200)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
