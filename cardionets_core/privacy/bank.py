"""A bank of public records: negatives for contrastive alignment that are nobody's at the site.

Only records that are public, virtual, or drawn from a generator that was itself trained with
differential privacy belong into it: what is learnt from the bank is not protected. ECGs and CMRs
of the bank need not be of the same people: pairs are never used.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cardionets_core.data.cache import open_cache
from cardionets_core.data.dataset import SiteDataset
from cardionets_core.data.manifest import SPLITS, read_manifest
from cardionets_core.errors import ConfigError
from cardionets_core.site_config import PREPARED_MANIFEST, PREPARED_SALT, site_config_from

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from cardionets_core.batch import Batch
    from cardionets_core.data.manifest import Manifest
    from cardionets_core.models.cardionet import CardioNet
    from cardionets_core.site_config import SiteConfig

MOST_NEGATIVES = 128
"""ECGs, and CMRs, of one step; a larger bank gives others in every step."""

LEAST_NEGATIVES = 8
"""ECGs, and CMRs, that a bank must hold: against fewer there is little to tell apart."""

CHUNK = 32
"""Studies that are embedded at a time, which bounds memory."""

WINDOW = 256
"""Samples in the middle of a record that its fingerprint is of, per lead."""

COHORT_MANIFEST = "manifest.csv"
"""Table of the folder that `cardionets cohort` makes."""

log = logging.getLogger("cardionets.site")


@dataclass(frozen=True)
class Negatives:
    """A step's negatives, embedded: K ECGs and L CMRs; with a leading axis B in a loss.

    Attributes:
        ecg: unit vectors [K, E].
        cmr: unit vectors [L, E].
        descriptor: CMR features [L, W], before projection.
        energy: [], mean squared distance of a descriptor from their mean.
        ecg_phenotypes: z-scores [K, P], 0 where unknown.
        ecg_known: [K, P], 1 where known, 0 elsewhere.
        cmr_phenotypes: [L, P].
        cmr_known: [L, P].
    """

    ecg: Tensor
    cmr: Tensor
    descriptor: Tensor
    energy: Tensor
    ecg_phenotypes: Tensor
    ecg_known: Tensor
    cmr_phenotypes: Tensor
    cmr_known: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True, eq=False)
class Bank:
    """Public records of one site's choice; constant during a task.

    Attributes:
        dataset: the records, prepared as the site's own are.
        ecg_rows: those with an ECG.
        cmr_rows: those with a cine.
        digest: of table and records, 64 hex digits: which bank it was.
    """

    dataset: SiteDataset
    ecg_rows: NDArray[np.int64]
    cmr_rows: NDArray[np.int64]
    digest: str

    @torch.no_grad()
    def draw(self, model: CardioNet, generator: torch.Generator) -> Negatives:
        """Return negatives under the model's present weights, on its device.

        Args:
            model: in any mode; it draws no random numbers.
            generator: chooses which records, where the bank holds more than a step takes.
        """
        heard = list(self._batches(model, self.ecg_rows, generator))
        seen = list(self._batches(model, self.cmr_rows, generator))
        descriptor = torch.cat([model.encode_cmr(b.cine, b.view_mask) for b in seen])
        spread = descriptor.float() - descriptor.float().mean(0)
        ecg = [model.project_ecg(model.encode_ecg(b.ecg, b.lead_mask).pooled) for b in heard]
        return Negatives(
            ecg=torch.cat(ecg).float(),
            cmr=model.project_cmr(descriptor).float(),
            descriptor=descriptor.float(),
            energy=spread.square().sum(-1).mean().clamp(min=1e-12),
            ecg_phenotypes=torch.cat([b.phenotypes for b in heard]),
            ecg_known=torch.cat([b.phenotype_mask for b in heard]).float(),
            cmr_phenotypes=torch.cat([b.phenotypes for b in seen]),
            cmr_known=torch.cat([b.phenotype_mask for b in seen]).float(),
        )

    def _batches(
        self, model: CardioNet, rows: NDArray[np.int64], generator: torch.Generator
    ) -> Iterator[Batch]:
        order = torch.randperm(len(rows), generator=generator, device=generator.device)
        chosen = rows[order[:MOST_NEGATIVES].cpu().numpy()]
        for start in range(0, len(chosen), CHUNK):
            yield self.dataset.batch(chosen[start : start + CHUNK], rng=None).to(model.device)


def open_bank(config: SiteConfig, own: SiteDataset) -> Bank:
    """Open the bank that a site's configuration names, prepared for the same model.

    Args:
        config: names the folder (privacy.bank) and where prepared arrays are kept.
        own: the site's own records: none of them, and none of their patients, may be in the bank.

    Raises:
        ConfigError: no bank is named, the folder is none, holds too little, or people of the site.
        DataError: its table cannot be used.
    """
    if not config.privacy.bank:
        raise ConfigError("privacy.bank is not set; name a prepared folder of public records.")
    folder = Path(config.privacy.bank)
    manifest, salt = _manifest(folder)
    arrays = open_cache(
        manifest,
        own.spec.ecg,
        own.spec.cine,
        Path(config.data.cache) / "bank",  # the folder itself may be read-only and shared
        salt=salt,
        workers=config.workers,
    )
    dataset = SiteDataset(
        manifest,
        arrays,
        spec=own.spec,
        phenotypes=own.phenotypes,
        diseases=own.diseases,
        scaler=own.scaler,
        salt=salt,
    )
    bank = bank_of(dataset, own=own, where=str(folder))
    log.info(
        "public bank: %d ECGs and %d studies with cines, digest %s",
        len(bank.ecg_rows),
        len(bank.cmr_rows),
        bank.digest,
    )
    return bank


def bank_of(dataset: SiteDataset, *, own: SiteDataset, where: str = "the bank") -> Bank:
    """Return the records of `dataset` as a bank.

    Raises:
        ConfigError: it holds too few ECGs or CMRs, or records or patients of `own`.
    """
    rows = {need: _rows(dataset, need) for need in ("ecg", "cine")}
    for need, found in rows.items():
        if len(found) < LEAST_NEGATIVES:
            raise ConfigError(
                f"privacy.bank: {where} holds {len(found)} studies with {need}; a bank needs "
                f"{LEAST_NEGATIVES} ECGs and {LEAST_NEGATIVES} cines at least (not of the same "
                "people). Add public records and prepare it again, or plan "
                "privacy.contrastive=bucket."
            )
    prints = record_prints(dataset)
    _refuse_own(dataset, own, prints, where=where)
    facts = hashlib.sha256(dataset.manifest.sha256.encode())
    facts.update("".join(prints).encode())
    return Bank(dataset, rows["ecg"], rows["cine"], facts.hexdigest())


def record_prints(dataset: SiteDataset) -> list[str]:
    """Return a digest of every prepared record, in order: ECGs, then each view of the cines.

    Equal records have equal digests. One without content (all samples alike) has none.
    """
    arrays = dataset.arrays
    found: list[str] = []
    if arrays.ecg is not None:
        for row in np.flatnonzero(arrays.lead_mask.any(axis=1)):
            start = max(0, (int(arrays.ecg_samples[row]) - WINDOW) // 2)
            found += _print(arrays.ecg[row, :, start : start + WINDOW])
    if arrays.cine is not None:
        for row, view in zip(*np.nonzero(arrays.view_mask), strict=True):
            found += _print(arrays.cine[row, view, 0])
    return found


def _print(content: NDArray[np.generic]) -> list[str]:
    if not content.size or (content == content.flat[0]).all():
        return []
    return [hashlib.sha256(np.ascontiguousarray(content).tobytes()).hexdigest()]


def _refuse_own(dataset: SiteDataset, own: SiteDataset, prints: list[str], *, where: str) -> None:
    """Refuse a bank that holds the site's own people, as far as it can be seen.

    Copies of prepared records and equal patient ids are found; another recording of a patient under
    another id cannot be: the hospital answers for what it names as public.
    """
    patients = set(dataset.manifest.table["patient_id"]) & set(own.manifest.table["patient_id"])
    copies = set(prints) & set(record_prints(own))
    if not (patients or copies):
        return
    raise ConfigError(
        f"privacy.bank: {where} holds {len(copies)} records and {len(patients)} patient ids that "
        "are the site's own too; what comes from a bank is not protected. Name a folder of public "
        "or virtual records (other people who happen to have the same ids: prepare it with "
        "`cardionets prepare`, which gives ids of its own), or plan privacy.contrastive=bucket."
    )


def _rows(dataset: SiteDataset, need: str) -> NDArray[np.int64]:
    """Return all studies that have something; a bank is not split."""
    return np.sort(np.concatenate([dataset.indices(split, {need}) for split in SPLITS]))


def _manifest(folder: Path) -> tuple[Manifest, str]:
    """Return the table of a folder that `cardionets prepare` or `cardionets cohort` made."""
    if (folder / PREPARED_SALT).exists():
        data = site_config_from(
            {"site": "bank", "data": {"prepared": str(folder)}}, "privacy.bank"
        ).data
        return read_manifest(Path(data.manifest), Path(data.root), check_files=False), data.salt
    if not (folder / COHORT_MANIFEST).is_file():
        raise ConfigError(
            f"privacy.bank names {folder}, which holds neither {PREPARED_MANIFEST} with "
            f"{PREPARED_SALT} nor {COHORT_MANIFEST}. Correct the path, or make the folder with "
            "`cardionets prepare` (public records) or `cardionets cohort` (virtual hearts)."
        )
    return read_manifest(folder / COHORT_MANIFEST, folder, check_files=False), ""
