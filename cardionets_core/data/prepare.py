"""One study's files -> the arrays of one cache row, or the reasons why not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cardionets_core.data.cine_transforms import prepare_cine
from cardionets_core.data.cmr import read_nifti
from cardionets_core.data.ecg import read_wfdb
from cardionets_core.data.paths import file_inside
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.data.transforms import prepare_ecg, prepared_samples
from cardionets_core.model_config import CineSpec, EcgSpec


@dataclass(frozen=True)
class StudyFiles:
    """What the manifest says about one study.

    Attributes:
        index: row of the table.
        ecg: path relative to the data root, "" where there is none.
        cines: likewise for every view of the CineSpec.
    """

    index: int
    ecg: str
    cines: tuple[str, ...]


@dataclass(frozen=True)
class PreparedStudy:
    """The arrays of one study; None where a file is absent or refused.

    Attributes:
        index: row of the table.
        ecg: float16 [12, record_samples].
        ecg_samples: samples that are signal and not padding.
        lead_mask: bool [12].
        cines: per view, uint8 [phases, size, size].
        refused: (column, reason code) of every file that could not be used.
    """

    index: int
    ecg: NDArray[np.float16] | None
    ecg_samples: int
    lead_mask: NDArray[np.bool_] | None
    cines: tuple[NDArray[np.uint8] | None, ...]
    refused: tuple[tuple[str, str], ...]


def prepare_study(
    study: StudyFiles, root: Path, ecg_spec: EcgSpec, cine_spec: CineSpec
) -> PreparedStudy:
    """Read and transform the files of one study; what cannot be used is said, never raised."""
    refused: list[tuple[str, str]] = []
    ecg, samples, lead_mask = None, 0, None
    if study.ecg:
        try:
            record = read_wfdb(file_inside(root, study.ecg), root=root)
            ecg = prepare_ecg(record, ecg_spec).astype(np.float16)
            samples, lead_mask = prepared_samples(record, ecg_spec), record.lead_mask
        except RecordRefused as error:
            refused.append(("ecg", error.code))
    cines: list[NDArray[np.uint8] | None] = []
    for view, name in zip(cine_spec.views, study.cines, strict=True):
        cines.append(None)
        if name:
            try:
                volume = read_nifti(file_inside(root, name), root=root)
                cines[-1] = prepare_cine(volume, cine_spec)
            except RecordRefused as error:
                refused.append((f"cine_{view}", error.code))
    return PreparedStudy(study.index, ecg, samples, lead_mask, tuple(cines), tuple(refused))
