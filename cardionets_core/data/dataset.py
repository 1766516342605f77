"""A site's studies as batches: split by patient, missing things masked."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cardionets_core.batch import Batch
from cardionets_core.data.cache import CachedArrays
from cardionets_core.data.manifest import SPLITS, Manifest, Split, split_of
from cardionets_core.data.scaler import Scaler
from cardionets_core.errors import DataError, nearest
from cardionets_core.model_config import ModelConfig
from cardionets_core.vocabulary import COVARIATES, DISEASES, LEADS, PHENOTYPE_NAMES

__all__ = ["NEEDS", "Scaler", "SiteDataset"]

NEEDS = frozenset({"ecg", "cine", "phenotypes", "diseases"})
"""What a stage may ask of a study."""


class SiteDataset:
    """The studies of one site as the model sees them.

    Args:
        manifest: the site's table.
        arrays: its prepared arrays, row for row.
        spec: the model; says how long a crop is and which views there are.
        phenotypes: names of the P phenotypes of the run; those that the site lacks are masked.
        diseases: names of the D diseases of the run; likewise.
        scaler: mean and sd of the phenotypes over the federation. None (before the handshake)
            masks all of them in batches: raw units must not reach a loss.
        salt: the site's secret that the split depends on.

    Raises:
        DataError: an unknown phenotype or disease, or arrays of another manifest.
    """

    def __init__(
        self,
        manifest: Manifest,
        arrays: CachedArrays,
        *,
        spec: ModelConfig,
        phenotypes: tuple[str, ...],
        diseases: tuple[str, ...],
        scaler: Scaler | None,
        salt: str,
    ) -> None:
        _check_names("phenotype", phenotypes, PHENOTYPE_NAMES)
        _check_names("disease", diseases, DISEASES)
        if len(arrays) != len(manifest):
            raise DataError("The cache belongs to another manifest; open it again.")
        if scaler is not None and len(scaler.mean) != len(phenotypes):
            raise DataError(
                f"The scaler holds {len(scaler.mean)} phenotypes and the run {len(phenotypes)}."
            )
        self.manifest, self.arrays, self.spec = manifest, arrays, spec
        self.phenotypes, self.diseases, self.scaler = phenotypes, diseases, scaler
        self._patients = manifest.table["patient_id"].to_numpy(dtype=object)
        names, first = np.unique(self._patients.astype(str), return_inverse=True)
        splits = np.array([SPLITS.index(split_of(str(name), salt=salt)) for name in names])
        self._split: NDArray[np.int64] = splits[first]
        self._raw = {
            "covariates": _columns(manifest, COVARIATES),
            "phenotypes": _columns(manifest, phenotypes),
            "diseases": _columns(manifest, diseases),
        }
        self._has = {
            "ecg": arrays.lead_mask.any(axis=1),
            "cine": arrays.view_mask.any(axis=1),
            "phenotypes": np.isfinite(self._raw["phenotypes"]).any(axis=1),
            "diseases": np.isfinite(self._raw["diseases"]).any(axis=1),
        }
        z = self._raw["phenotypes"] if scaler is None else scaler.to_z(self._raw["phenotypes"])
        self._values = {
            "covariates": _masked(self._raw["covariates"]),
            "phenotypes": _masked(np.full_like(z, np.nan) if scaler is None else z),
            "diseases": _masked(self._raw["diseases"]),
        }

    def __len__(self) -> int:
        return len(self.manifest)

    def indices(self, split: Split, needs: Iterable[str] = ()) -> NDArray[np.int64]:
        """Return the rows of `split` that have everything in `needs`, in the manifest's order.

        Args:
            split: `train`, `validation` or `test`.
            needs: of `NEEDS`; `cine` is met by one view, `phenotypes` and `diseases` by one value.
        """
        needs = frozenset(needs)
        if split not in SPLITS or not needs <= NEEDS:
            raise ValueError(f"unknown split {split!r} or need among {sorted(needs)}")
        chosen = self._split == SPLITS.index(split)
        for need in needs:
            chosen = chosen & self._has[need]
        return np.flatnonzero(chosen)

    @property
    def modalities(self) -> frozenset[str]:
        """What this site can offer, of `ecg`, `cine`, `pairs`, `phenotypes`, `diseases`."""
        offers = {name for name, has in self._has.items() if has.any()}
        if (self._has["ecg"] & self._has["cine"]).any():
            offers.add("pairs")
        return frozenset(offers)

    def batch(
        self,
        indices: NDArray[np.int64],
        *,
        rng: np.random.Generator | None,
        crop: int = 0,
    ) -> Batch:
        """Return the studies at `indices`, in that order.

        Args:
            indices: rows of the manifest, [B].
            rng: draws one ECG crop per study (training); None takes a fixed crop.
            crop: which of the `spec.ecg.test_crops` evenly spread crops, when `rng` is None.

        Raises:
            ValueError: no such crop.
        """
        rows = np.asarray(indices, dtype=np.int64)
        covariates, phenotypes, diseases = (
            tuple(torch.from_numpy(array[rows]) for array in self._values[name])
            for name in ("covariates", "phenotypes", "diseases")
        )
        view_mask = torch.from_numpy(self.arrays.view_mask[rows])
        return Batch(
            ecg=self._ecg(rows, self._crop_starts(rows, rng, crop)),
            lead_mask=torch.from_numpy(self.arrays.lead_mask[rows]),
            cine=self._cine(rows, view_mask),
            view_mask=view_mask,
            covariates=covariates[0],
            covariate_mask=covariates[1],
            phenotypes=phenotypes[0],
            phenotype_mask=phenotypes[1],
            diseases=diseases[0],
            disease_mask=diseases[1],
        )

    def _crop_starts(
        self, rows: NDArray[np.int64], rng: np.random.Generator | None, crop: int
    ) -> NDArray[np.int64]:
        """Return the first sample of each crop; a crop never lies in the padding of a short one."""
        spare = np.maximum(self.arrays.ecg_samples[rows] - self.spec.ecg.crop_samples, 0)
        if rng is not None:
            return rng.integers(0, spare, endpoint=True, dtype=np.int64)
        crops = self.spec.ecg.test_crops
        if not 0 <= crop < crops:
            raise ValueError(f"crop {crop} of {crops}")
        # a single crop lies in the middle
        share = 0.5 if crops == 1 else crop / (crops - 1)
        return np.rint(spare * share).astype(np.int64)

    def _ecg(self, rows: NDArray[np.int64], starts: NDArray[np.int64]) -> Tensor:
        length = self.spec.ecg.crop_samples
        crops = np.zeros((len(rows), len(LEADS), length), dtype=np.float32)
        if self.arrays.ecg is not None:
            for k, (row, start) in enumerate(zip(rows.tolist(), starts.tolist(), strict=True)):
                crops[k] = self.arrays.ecg[row, :, start : start + length]
        return torch.from_numpy(crops)

    def _cine(self, rows: NDArray[np.int64], view_mask: Tensor) -> Tensor:
        spec = self.spec.cine
        shape = (len(rows), len(spec.views), spec.phases, spec.size_px, spec.size_px)
        if self.arrays.cine is None:
            return torch.zeros(shape)
        grey = torch.from_numpy(self.arrays.cine[rows])
        scaled = grey.to(torch.float32).mul_(2 / 255).sub_(1)
        return scaled.mul_(view_mask[:, :, None, None, None])

    def counts(self) -> dict[str, int]:
        """Return numbers of patients and studies, per split and per thing they have.

        Keys: `patients`, `studies`, `quarantined` (files), and for each split `<split>_patients`,
        `<split>_studies` and `<split>_<ecg|cine|pairs|phenotypes|diseases>` (studies).
        """
        counts = {
            "patients": self._patients_in(np.ones(len(self), dtype=bool)),
            "studies": len(self),
            "quarantined": len(self.arrays.quarantine),
        }
        groups = self._has | {"pairs": self._has["ecg"] & self._has["cine"]}
        for k, split in enumerate(SPLITS):
            rows = self._split == k
            counts[f"{split}_patients"] = self._patients_in(rows)
            counts[f"{split}_studies"] = int(rows.sum())
            for name, has in groups.items():
                counts[f"{split}_{name}"] = int((rows & has).sum())
        return counts

    def statistics(self) -> dict[str, NDArray[np.float64]]:
        """Return sums over the train split that add up over sites, all float64.

        `phenotype_n`, `phenotype_sum`, `phenotype_square` [P]; `disease_known`, `disease_present`
        [D]; `covariate_n`, `covariate_sum`, `covariate_square` [4].
        """
        train = self._split == SPLITS.index("train")
        disease = self._raw["diseases"][train]
        sums = {
            "disease_known": np.isfinite(disease).sum(axis=0).astype(np.float64),
            "disease_present": np.nansum(disease, axis=0),
        }
        for name in ("phenotype", "covariate"):
            values = self._raw[f"{name}s"][train]
            sums[f"{name}_n"] = np.isfinite(values).sum(axis=0).astype(np.float64)
            sums[f"{name}_sum"] = np.nansum(values, axis=0)
            sums[f"{name}_square"] = np.nansum(values**2, axis=0)
        return sums

    def _patients_in(self, rows: NDArray[np.bool_]) -> int:
        return len(set(self._patients[rows]))


def _check_names(kind: str, names: tuple[str, ...], known: Iterable[str]) -> None:
    for name in names:
        if name not in set(known):
            raise DataError(f"Unknown {kind} {name!r}{nearest(name, known)}; correct the run.")


def _columns(manifest: Manifest, names: tuple[str, ...]) -> NDArray[np.float64]:
    """Return float64 [N, len(names)], NaN where missing or where there is no such column."""
    table = manifest.table
    values = np.full((len(table), len(names)), np.nan)
    for k, name in enumerate(names):
        if name in table.columns:
            values[:, k] = table[name].to_numpy(dtype=np.float64)
    return values


def _masked(values: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    known = np.isfinite(values)
    return np.where(known, values, 0.0).astype(np.float32), known
