"""The patients of benchmarks/privacy/utility.py: virtual hearts by the thousand, real ECGs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from cardionets_core.cohort.write import write_site
from cardionets_core.data.cache import open_cache
from cardionets_core.data.dataset import Scaler, SiteDataset
from cardionets_core.data.manifest import read_manifest
from cardionets_core.preparation.request import PrepareRequest
from cardionets_core.preparation.run import prepare
from cardionets_core.privacy.bank import Bank, bank_of
from simulations.faults.small import NANO, plan

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cardionets_core.model_config import ModelConfig
    from cardionets_core.run_config import RunConfig

TRAIN_SHARE = 0.7
"""As `split_of` draws them."""

PRESETS = "AB"
"""Hospitals of the virtual cohort: A is the sites' own, B the public hearts (another scanner)."""


class FirstPatients(SiteDataset):
    """A dataset of which training sees the first so many patients only."""

    most: int = 0

    def indices(
        self, split: Literal["train", "validation", "test"], needs: Iterable[str] = ()
    ) -> np.ndarray:
        """Return the rows of a split; of `train`, those of the first `most` patients."""
        rows = super().indices(split, needs)
        if split != "train":
            return rows
        names = self.manifest.table["patient_id"].to_numpy(dtype=object)
        first = list(dict.fromkeys(names[super().indices("train")]))[: self.most]
        return rows[np.isin(names[rows], first)]


@dataclass(frozen=True)
class Patients:
    """Patients to train on and to be tested with.

    Attributes:
        name: for the table.
        size: training patients, which a site would declare.
        config: of a run with the model in use.
        dataset: theirs.
    """

    name: str
    size: int
    config: RunConfig
    dataset: FirstPatients

    def model(self, encoder: str) -> ModelConfig:
        """Return the model, whose heads have an encoder of their `own` or the `shared` one."""
        sized = self.config.sized_model()
        return replace(
            sized,
            phenotype_head=replace(sized.phenotype_head, encoder=encoder),
            disease_head=replace(sized.disease_head, encoder=encoder),
        )

    def bank_for(self, others: Patients) -> Bank:
        """Return these patients as public negatives for others."""
        return bank_of(self.dataset, own=others.dataset)


def open_virtual(folder: Path, size: int, *, pairs: bool, seed: int) -> Patients:
    """Write, once, and open virtual hearts of which `size` are in training.

    Their phenotypes are scaled by constants of public hearts, as a private run needs them.
    """
    dataset = _virtual(folder, size, pairs, seed)
    return Patients(str(size), size, _config(), dataset)


@lru_cache(maxsize=4)  # the same cohort serves several rows
def _virtual(folder: Path, size: int, pairs: bool, seed: int) -> FirstPatients:
    # Some more than the shares ask for, since the split is drawn.
    count = math.ceil(size / TRAIN_SHARE * (1 + 3 / math.sqrt(size)))
    preset = PRESETS[seed >= 1000]
    place = folder / f"{preset}-{seed}-{count}-{'pairs' if pairs else 'ecg'}"
    if not (place / "manifest.csv").exists():
        write_site(preset, patients=count, seed=seed, out=place, ecg_only=not pairs)
    return _open(place, place / "manifest.csv", size, scaler=_scaler(folder))


def open_ptbxl(folder: Path, source: Path) -> Patients:
    """Prepare and open the real ECGs of PTB-XL; the test patients are held out by split."""
    out = folder / "ptbxl"
    salt = folder / "ptbxl-salt"
    if not (out / "manifest.parquet").exists():
        salt.write_text("0" * 64)
        prepare(PrepareRequest(out=out, ecg=source, salt_file=salt, workers=1))
    dataset = _open(out, out / "manifest.parquet", 10**6, scaler=None)
    names = dataset.manifest.table["patient_id"].to_numpy(dtype=object)
    patients = len(set(names[dataset.indices("train", {"ecg", "diseases"})]))
    return Patients(f"{patients} real", patients, _config(), dataset)


def _scaler(folder: Path) -> Scaler | None:
    """Return mean and sd of the phenotypes of public hearts."""
    place = folder / "scale"
    if not (place / "manifest.csv").exists():
        write_site("B", patients=200, seed=9999, out=place, ecg_only=True)
    dataset = _open(place, place / "manifest.csv", 10**6, scaler=None)
    return Scaler.from_statistics(dataset.statistics())


def _open(root: Path, manifest: Path, most: int, *, scaler: Scaler | None) -> FirstPatients:
    config = _config()
    table, salt = read_manifest(manifest, root, check_files=False), "salt"
    model = config.sized_model()
    arrays = open_cache(table, model.ecg, model.cine, root / "cache", salt=salt, workers=2)
    dataset = FirstPatients(
        table,
        arrays,
        spec=model,
        phenotypes=config.phenotypes,
        diseases=config.diseases,
        scaler=scaler,
        salt=salt,
    )
    dataset.most = most
    return dataset


@lru_cache(maxsize=1)
def _config() -> RunConfig:
    return plan("utility", NANO, sites=1)
