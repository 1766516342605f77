"""Patients in memory, in the form in which the private loop asks a site for them."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd
import torch

from cardionets_core.batch import Batch
from cardionets_core.cohort.write import write_site
from cardionets_core.data.cache import open_cache
from cardionets_core.data.dataset import SiteDataset
from cardionets_core.data.manifest import SPLITS, read_manifest
from cardionets_core.data.scaler import Scaler
from cardionets_core.run_config import CONF, compose, run_config_from
from cardionets_core.vocabulary import COVARIATES, DISEASES, LEADS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from cardionets_core.model_config import ModelConfig
    from cardionets_core.run_config import RunConfig


class _Table:
    def __init__(self, names: Sequence[str]) -> None:
        self.table = pd.DataFrame({"patient_id": list(names)})


class HeldPatients:
    """One study of each patient, ready as the model sees it; only `members` are in training.

    Args:
        batch: of all of them.
        members: their rows.
    """

    def __init__(self, batch: Batch, members: NDArray[np.int64]) -> None:
        self._batch, self._members = batch, members
        self.manifest = _Table([f"patient-{i}" for i in range(len(batch))])

    def indices(self, split: str, needs: Iterable[str] = ()) -> NDArray[np.int64]:
        """Return the members, whatever is needed: who lacks something is not held here."""
        return self._members

    def batch(self, rows: NDArray[np.int64], *, rng: np.random.Generator | None) -> Batch:
        """Return the studies at `rows`; they hold one crop of the ECG, so nothing is drawn."""
        return self._batch.rows(torch.from_numpy(np.asarray(rows, dtype=np.int64)))


def held(batch: Batch, members: NDArray[np.int64]) -> SiteDataset:
    """Return patients in memory as the dataset that the private loop takes."""
    return cast(SiteDataset, HeldPatients(batch, members))


def empty_batch(patients: int) -> Batch:
    """Return patients without anything; covariates are there to carry what a stand-in needs."""
    return Batch(
        ecg=torch.zeros(patients, len(LEADS), 1),
        lead_mask=torch.ones(patients, len(LEADS), dtype=torch.bool),
        cine=torch.zeros(patients, 1, 1, 1, 1),
        view_mask=torch.ones(patients, 1, dtype=torch.bool),
        covariates=torch.zeros(patients, len(COVARIATES)),
        covariate_mask=torch.ones(patients, len(COVARIATES), dtype=torch.bool),
        phenotypes=torch.zeros(patients, 1),
        phenotype_mask=torch.ones(patients, 1, dtype=torch.bool),
        diseases=torch.zeros(patients, 1),
        disease_mask=torch.ones(patients, 1, dtype=torch.bool),
    )


def small_plan(*overrides: str) -> RunConfig:
    """Return the plan of a run with a model of a few thousand weights."""
    return run_config_from(compose("run", [*SMALL, *overrides], package=CONF))


def virtual_patients(
    folder: Path, plan: RunConfig, *, patients: int, seed: int, cines: bool = False
) -> Batch:
    """Return virtual patients of preset A as one batch, phenotypes scaled by their own mean.

    Args:
        folder: gets the records and their cache; must not exist.
        plan: names the phenotypes and what the model sees.
        patients: how many.
        seed: of the hearts.
        cines: with cines too, which take longer.
    """
    write_site("A", patients=patients, seed=seed, out=folder / "data", ecg_only=not cines)
    spec: ModelConfig = plan.model
    manifest = read_manifest(folder / "data" / "manifest.csv", folder / "data")
    arrays = open_cache(manifest, spec.ecg, spec.cine, folder / "cache", salt="held")
    values = manifest.table.reindex(columns=list(plan.phenotypes)).to_numpy(np.float64)
    scaler = Scaler(np.nanmean(values, axis=0), np.nanstd(values, axis=0) + 1e-9)
    dataset = SiteDataset(
        manifest,
        arrays,
        spec=spec,
        phenotypes=plan.phenotypes,
        diseases=plan.diseases or tuple(DISEASES),
        scaler=scaler,
        salt="held",
    )
    rows = np.sort(np.concatenate([dataset.indices(split) for split in SPLITS]))
    return dataset.batch(rows, rng=None)


def scaled(batch: Batch, row: int, factor: float) -> Batch:
    """Return the batch with one patient's signals, image and numbers multiplied: an outlier."""
    found = {f.name: getattr(batch, f.name).clone() for f in fields(Batch)}
    for name in ("ecg", "cine", "phenotypes"):
        found[name][row] *= factor
    return Batch(**found)


SMALL = (
    "name=small",
    "model.cine.size_px=16",
    "model.cine.pixel_mm=10.0",
    "model.cine.phases=4",
    "model.ecg.crop_seconds=2.5",
    "model.ecg_encoder.patch_samples=125",
    "model.ecg_encoder.width=24",
    "model.ecg_encoder.depth=1",
    "model.ecg_encoder.heads=2",
    "model.ecg_decoder.width=16",
    "model.cmr_encoder.patch_px=4",
    "model.cmr_encoder.width=24",
    "model.cmr_encoder.depth=1",
    "model.cmr_encoder.heads=2",
    "model.cmr_decoder.width=16",
    "model.alignment.width=16",
    "model.tokenizer.channels=4",
    "model.tokenizer.stem=[1,2,2]",
    "model.tokenizer.widths=[8,16]",
    "model.tokenizer.strides=[[2,2,2]]",
    "model.tokenizer.groups=4",
    "model.generator.patch=[2,2,2]",
    "model.generator.width=24",
    "model.generator.heads=2",
    "model.generator.encoder_depth=1",
    "model.generator.decoder_depth=1",
    "model.generator.condition_tokens=3",
    "model.generator.head_width=24",
    "model.generator.noise_draws=2",
)
"""Every part and every stage of a CardioNet, as small as they can be."""

OPTIONS = {"generative": {"null_probability": 0.5}}
"""Options of objectives with which a few patients give every tensor a gradient: by default only one
patient in ten trains the condition of nobody."""
