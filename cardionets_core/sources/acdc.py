"""ACDC: patientNNN/ with Info.cfg, patientNNN_4d.nii.gz, patientNNN_frameXX(_gt).nii.gz.

Layout: Bernard et al., IEEE Trans Med Imaging 2018;37:2514. Frames are numbered from 1. Masks:
1 right ventricle, 2 myocardium, 3 left ventricle. Groups: NOR healthy, MINF infarction with
reduced ejection fraction, DCM, HCM, RV abnormal right ventricle (no disease of the vocabulary).
"""

from __future__ import annotations

import re
from math import isfinite
from pathlib import Path

from cardionets_core.data.mask_phenotypes import MaskLabels
from cardionets_core.data.paths import file_inside
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.sources.cine_groups import ACDC_GROUPS
from cardionets_core.sources.cmr_item import CmrItem
from cardionets_core.sources.masked_cine import number, read_masked
from cardionets_core.sources.plausible import height_of, weight_of
from cardionets_core.sources.recording import Facts, Person, SourceCmr

LABELS = MaskLabels(lv=3, myo=2, rv=1)

_MOST_BYTES = 4096
_FRAME = re.compile(r"_frame(\d{1,3})_gt\.nii(?:\.gz)?$", re.IGNORECASE | re.ASCII)


def is_patient_folder(names: frozenset[str]) -> bool:
    """Return whether a folder with files of these lower-case names is a patient of ACDC."""
    return "info.cfg" in names and any(n.endswith((".nii", ".nii.gz")) for n in names)


def read_acdc(item: CmrItem, *, root: Path) -> SourceCmr:
    """Read one patient.

    Raises:
        RecordRefused: `header` where Info.cfg cannot be read, `missing_file` where there is
            neither cine nor mask.
    """
    names = [Path(member).name for member in item.members]
    facts, diastole = _read_info(file_inside(root, _member(item, "info.cfg")), item.patient)
    cines = [k for k, n in enumerate(names) if re.search(r"_4d\.nii(\.gz)?$", n.lower())]
    masks = sorted(
        (int(match[1]), item.members[k])
        for k, name in enumerate(names)
        if (match := _FRAME.search(name))
    )
    if not cines and not masks:
        raise RecordRefused("missing_file")
    if len(cines) > 1:
        raise RecordRefused("ambiguous_files")
    return read_masked(
        [root / item.members[k] for k in cines],
        [root / member for _, member in masks],
        labels=LABELS,
        root=root,
        facts=facts,
        diastole=diastole,
    )


def _member(item: CmrItem, name: str) -> str:
    return next((m for m in item.members if Path(m).name.lower() == name), name)


def _read_info(path: Path, patient: str) -> tuple[Facts, int | None]:
    """Return facts and the number of the end-diastolic phase from 0."""
    with path.open("rb") as file:
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise RecordRefused("too_large", "Info.cfg")
    lines = (line.partition(":") for line in text.decode("latin-1").splitlines())
    cells = {name.strip().lower(): value.strip() for name, colon, value in lines if colon}
    height, weight = number(cells.get("height", "")), number(cells.get("weight", ""))
    person = Person(
        patient_id=patient,
        height_cm=height_of(height),
        weight_kg=weight_of(weight),
    )
    frame = number(cells.get("ed", ""))
    values = ACDC_GROUPS.get(cells.get("group", "").upper(), {})
    diastole = int(frame) - 1 if isfinite(frame) and 1 <= frame <= 1000 else None
    return Facts(person=person, values=values), diastole
