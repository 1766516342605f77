"""One ECG in; phenotypes, disease probabilities and synthetic cines out, with their uncertainty.

A phenotype's 90 % interval is value +- 1.645 sd, where
    sd^2 = residual_sd^2 + spread^2 / crops.
residual_sd is the root-mean-square error on the federation's validation patients (in the
checkpoint); spread is the sd of the answers for the crops of this record, whose mean is the value.
It assumes errors that are about normal and a patient like those of the federation; neither can be
seen from one ECG.

What the run did not train is not answered: a head whose stage was not run, a phenotype or disease
that no site could measure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cardionets_core.checkpoint import read_checkpoint, read_info
from cardionets_core.data.ecg import EcgRecord, read_wfdb
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.data.transforms import prepare_ecg, prepared_samples
from cardionets_core.ecg_checks import heart_rate_bpm, remarks
from cardionets_core.errors import DataError
from cardionets_core.evaluation.forward import EcgOutputs, ecg_outputs, evaluating
from cardionets_core.runtime import pick_device
from cardionets_core.vocabulary import DISEASES, PHENOTYPE_BY_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from cardionets_core.checkpoint import CheckpointInfo
    from cardionets_core.model_config import EcgSpec
    from cardionets_core.models.cardionet import CardioNet

Z90 = 1.6449
"""Half width of a 90 % interval, in sd of a normal distribution."""

SIGNED_PREFIXES = ("ecc", "ell", "err")
"""Strains may be negative; volumes, areas, masses, fractions and thicknesses may not."""

RESTING_CYCLE_S = 1.0
"""Cardiac cycle of the moving picture where the heart rate could not be read."""


@dataclass(frozen=True)
class PhenotypeEstimate:
    """One phenotype of one patient.

    Attributes:
        name: of the vocabulary.
        title: for people.
        unit: of all numbers but the last.
        value: the estimate.
        low: of the 90 % interval; None where the federation could not measure its errors.
        high: likewise.
        mean: of the federation's training patients.
        sd: likewise.
        r2: on held-out patients, ECG alone; None where it was not measured.
    """

    name: str
    title: str
    unit: str
    value: float
    low: float | None
    high: float | None
    mean: float
    sd: float
    r2: float | None


@dataclass(frozen=True)
class DiseaseEstimate:
    """One disease of one patient; `prevalence` and `auroc` are of the held-out patients."""

    name: str
    title: str
    probability: float
    prevalence: float | None
    auroc: float | None


@dataclass(frozen=True)
class Prediction:
    """What the model says of one record.

    Attributes:
        record: as recorded.
        heart_rate: beats per minute, None where it could not be read.
        remarks: what a reader should know about the record, in sentences.
        phenotypes: in the order of the model; without those that the run could not learn.
        diseases: likewise.
        not_estimated: phenotypes and diseases left out, and `cine` where no cine was drawn.
        cines: float32 [S, K, H, W] in [-1, 1]; S is 0 where the generator was not trained.
        pixel_mm: size of a pixel of the cines.
        cycle_s: duration of one cardiac cycle of the cines.
        view: which view they show.
        crops: pieces of the record that were averaged.
        seed: of the cines.
    """

    record: EcgRecord
    heart_rate: float | None
    remarks: tuple[str, ...]
    phenotypes: tuple[PhenotypeEstimate, ...]
    diseases: tuple[DiseaseEstimate, ...]
    not_estimated: tuple[str, ...]
    cines: NDArray[np.float32]
    pixel_mm: float
    cycle_s: float
    view: str
    crops: int
    seed: int


@dataclass(frozen=True)
class Predictor:
    """A model with its checkpoint's info, ready to read records."""

    model: CardioNet
    info: CheckpointInfo

    def predict(self, hea: Path, *, samples: int = 4, seed: int = 0) -> Prediction:
        """Read one WFDB record and predict.

        Args:
            hea: the record's header file.
            samples: cines to generate.
            seed: of the cines; the same seed gives the same cines.

        Raises:
            DataError: the record cannot be read or used; the message says why and what to do.
        """
        if not hea.is_file():
            raise DataError(f"{hea} is not there; name the header (.hea) of a WFDB record.")
        try:
            return self.predict_record(read_wfdb(hea), samples=samples, seed=seed)
        except RecordRefused as error:
            raise DataError(f"{hea}: {error}") from None

    def predict_record(self, record: EcgRecord, *, samples: int, seed: int = 0) -> Prediction:
        """Predict from a record that was read already."""
        spec = self.info.model.ecg
        crops = [c.to(self.model.device) for c in cut_crops(record, spec)]
        mask = torch.from_numpy(record.lead_mask)[None].to(self.model.device)
        noise = torch.Generator(self.model.device).manual_seed(seed)
        with evaluating(self.model):
            said = ecg_outputs(self.model, crops, mask)
            repeated = crops[0].expand(samples, -1, -1), mask.expand(samples, -1)
            cines = self.model.generate(*repeated, generator=noise)
        if not was_trained(self.info, "generative"):
            cines = cines[:0]
        rate = heart_rate_bpm(record)
        phenotypes = phenotype_estimates(said, self.info)
        diseases = disease_estimates(said, self.info)
        told = {p.name for p in phenotypes} | {d.name for d in diseases}
        missing = [n for n in (*self.info.phenotypes, *self.info.diseases) if n not in told]
        return Prediction(
            record=record,
            heart_rate=rate,
            remarks=remarks(record, spec),
            phenotypes=phenotypes,
            diseases=diseases,
            not_estimated=tuple(missing if len(cines) else [*missing, "cine"]),
            cines=cines.float().clamp(-1, 1).cpu().numpy(),
            pixel_mm=self.info.model.cine.pixel_mm,
            cycle_s=60 / rate if rate else RESTING_CYCLE_S,
            view=self.info.model.generator.view,
            crops=len(crops),
            seed=seed,
        )


def load_predictor(checkpoint: Path, device: str = "cpu") -> Predictor:
    """Read a checkpoint folder.

    Args:
        checkpoint: the `checkpoint` folder of a run.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        CheckpointError: it is not one, is torn, was written before the phenotype scaler was known,
            or its run kept at the sites what a prediction needs.
    """
    read = read_checkpoint(checkpoint, predicting_parts(read_info(checkpoint)))
    return Predictor(read.model.to(pick_device(device)), read.info)


def predicting_parts(info: CheckpointInfo) -> set[str]:
    """Return the parts that a prediction needs: of a stage that was not run, none."""
    parts = {"ecg_encoder"}
    if was_trained(info, "phenotypes"):
        parts.add("phenotype_head")
    if was_trained(info, "diseases"):
        parts.add("disease_head")
    if was_trained(info, "generative"):
        parts |= {"ecg_projector", "generator", "tokenizer"}
    return parts


def cut_crops(record: EcgRecord, spec: EcgSpec) -> list[Tensor]:
    """Return the record's test-time crops, each [1, 12, T], as SiteDataset.batch cuts them.

    Raises:
        RecordRefused: the record cannot be used.
    """
    # the cache of a site holds float16; the same rounding here gives the same answers
    prepared = prepare_ecg(record, spec).astype(np.float16).astype(np.float32)
    spare = max(prepared_samples(record, spec) - spec.crop_samples, 0)
    count = spec.test_crops
    shares = [0.5] if count == 1 else [k / (count - 1) for k in range(count)]
    starts = [int(np.rint(spare * share)) for share in shares]
    return [torch.from_numpy(prepared[None, :, s : s + spec.crop_samples]) for s in starts]


def phenotype_estimates(said: EcgOutputs, info: CheckpointInfo) -> tuple[PhenotypeEstimate, ...]:
    """Return the phenotypes of the first patient in their units, with 90 % intervals."""
    crops = max(1, info.model.ecg.test_crops)
    measured = _held_out(info, "phenotypes", "by_phenotype")
    estimates = []
    for i, name in enumerate(info.phenotypes):
        if not _learnt_phenotype(info, i, measured):
            continue
        mean, sd = info.scaler_mean[i], info.scaler_sd[i]
        value = mean + sd * float(said.phenotypes[0, i])
        residual = info.residual_sd[i] if info.residual_sd else 0.0
        spread = float(said.crop_spread[0, i])
        half = Z90 * sd * float(np.sqrt(residual**2 + spread**2 / crops)) if residual > 0 else None
        word = PHENOTYPE_BY_NAME[name]
        estimates.append(
            PhenotypeEstimate(
                name=name,
                title=word.title,
                unit=word.unit,
                value=_possible(name, value),
                low=None if half is None else _possible(name, value - half),
                high=None if half is None else _possible(name, value + half),
                mean=mean,
                sd=sd,
                r2=_number(measured.get(name, {}), "ecg", "r2", "value"),
            )
        )
    return tuple(estimates)


def disease_estimates(said: EcgOutputs, info: CheckpointInfo) -> tuple[DiseaseEstimate, ...]:
    """Return the disease probabilities of the first patient, averaged over the crops."""
    measured = _held_out(info, "diseases", "by_disease")
    return tuple(
        DiseaseEstimate(
            name=name,
            title=DISEASES[name],
            probability=float(said.probability[0, i]),
            prevalence=_number(measured.get(name, {}), "prevalence"),
            auroc=_number(measured.get(name, {}), "ecg", "auroc", "value"),
        )
        for i, name in enumerate(info.diseases)
        if was_trained(info, "diseases") and (name in measured or not info.metrics)
    )


def was_trained(info: CheckpointInfo, stage: str) -> bool:
    """Return whether the run finished the stage, or began with the weights of one that had.

    A checkpoint that does not say is believed.
    """
    done = info.provenance.get("stages_done")
    return done is None or stage in {*done, *info.provenance.get("start", {}).get("stages", ())}


def _learnt_phenotype(info: CheckpointInfo, place: int, measured: dict[str, Any]) -> bool:
    """Return whether any site could teach the phenotype; one that none has is scaled by (0, 1)."""
    nobody = (info.scaler_mean[place], info.scaler_sd[place]) == (0.0, 1.0)
    unseen = bool(info.metrics) and info.phenotypes[place] not in measured
    return was_trained(info, "phenotypes") and not nobody and not unseen


def _possible(name: str, value: float) -> float:
    """Return the value, cut to what the phenotype can be."""
    if name.startswith(SIGNED_PREFIXES):
        return value
    return min(max(value, 0.0), 100.0) if name.endswith("_ef") else max(value, 0.0)


def _held_out(info: CheckpointInfo, section: str, table: str) -> dict[str, Any]:
    """Return the pooled held-out results of the run by name; empty where it was not evaluated."""
    found: dict[str, Any] = info.metrics.get("pooled", {}).get(section, {}).get(table, {})
    return found


def _number(table: dict[str, Any], *keys: str) -> float | None:
    value: Any = table
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return None if value is None else float(value)
