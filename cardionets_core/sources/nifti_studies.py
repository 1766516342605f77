"""Loose NIfTI files whose names say patient and view.

    P007_4ch.nii.gz  P007_sax.nii.gz  P007_sax_seg.nii.gz        side by side
    P007/4ch.nii.gz  P007/sax.nii.gz  P007/sax_seg.nii.gz        or in a folder for each patient
    P007_sax_frame01.nii.gz, P007_sax_frame02.nii.gz, ...        a volume for each phase

`la_4ch`, `lax_4ch` and `sa`, and `_gt`, `_mask`, `_label` for `_seg`, are read as well. In masks 2
is the myocardium; which of 1 and 3 it surrounds, and so is the left ventricle, is looked up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from cardionets_core.data.cmr import CineVolume, MaskStack, read_nifti, read_phase_files
from cardionets_core.data.mask_phenotypes import MaskLabels
from cardionets_core.data.refusal import RecordRefused
from cardionets_core.sources.cmr_item import CmrItem
from cardionets_core.sources.masked_cine import read_masked
from cardionets_core.sources.recording import Facts, Person, SourceCmr

_NAME = re.compile(
    r"(?:(?P<patient>.+?)[_-])?(?:cine[_-])?(?P<view>(?:lax?[_-])?4ch|sax?)"
    r"(?:[_-](?P<mask>seg|gt|masks?|labels?|segmentation))?"
    r"(?:[_-]?(?:frame|phase|ph|t)[_-]?(?P<phase>\d{1,3}))?(?:[_-](?P<late>seg|gt))?",
    re.IGNORECASE | re.ASCII,
)
_INSIDE = 0.8
"""Share of the pixels within the ring of myocardium that the left ventricle must fill."""


@dataclass(frozen=True)
class NamedFile:
    """What the name of a file says; `phase` is -1 where the file holds every phase."""

    patient: str
    view: str
    is_mask: bool
    phase: int


def named(name: str) -> NamedFile | None:
    """Return what a NIfTI file's name says, None where it does not say its view."""
    stem = re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE)
    match = _NAME.fullmatch(stem)
    if match is None:
        return None
    view = "4ch" if match["view"].lower().endswith("4ch") else "sax"
    phase = -1 if match["phase"] is None else int(match["phase"])
    return NamedFile(match["patient"] or "", view, bool(match["mask"] or match["late"]), phase)


def items_of(folder: str, names: Iterable[str]) -> list[CmrItem]:
    """Group the NIfTI files of a folder to studies; one whose view is unknown is a study alone.

    Args:
        folder: relative path, "" for the folder that was given itself.
        names: of its NIfTI files.
    """
    prefix = f"{folder}/" if folder else ""
    groups: dict[str, list[str]] = {}
    unknown: list[str] = []
    for name in sorted(names):
        facts = named(name)
        if facts is None:
            unknown.append(name)
        else:
            groups.setdefault(facts.patient, []).append(prefix + name)
    found = [
        CmrItem(
            "cmr_nifti",
            folder or ".",
            patient or "nifti",
            layout="nifti",
            patient=patient or Path(folder).name,
            members=tuple(members),
        )
        for patient, members in groups.items()
    ]
    return found + [
        CmrItem("cmr_nifti", prefix + name, members=(prefix + name,)) for name in unknown
    ]


def read_nifti_study(item: CmrItem, *, root: Path) -> SourceCmr:
    """Read the views and masks of one study.

    Raises:
        RecordRefused: `unknown_view` where the names do not say which view it is.
    """
    files = [(named(Path(member).name), root / member) for member in item.members]
    known = [(facts, path) for facts, path in files if facts is not None]
    if not known:
        raise RecordRefused("unknown_view")
    facts = Facts(person=Person(patient_id=item.patient))
    views: dict[str, CineVolume] = {}
    refused: dict[str, str] = {}
    for view in ("4ch", "sax"):
        cines, masks = (
            [path for _, path in sorted((f.phase, p) for f, p in known if pick(f, view, is_mask))]
            for is_mask in (False, True)
        )
        try:
            if view == "sax" and masks and len(cines) <= 1:
                found = _with_masks(cines, masks, root, facts)
                views |= found.views
                refused |= found.refused
                facts = found.facts
            elif cines:
                views[view] = _cine(cines, root)
        except RecordRefused as error:
            refused[view] = error.code
    return SourceCmr(views, refused, facts)


def pick(facts: NamedFile, view: str, is_mask: bool) -> bool:
    """Return whether a file is a cine, or a mask, of a view."""
    return facts.view == view and facts.is_mask == is_mask


def _cine(paths: Sequence[Path], root: Path) -> CineVolume:
    if len(paths) == 1:
        return read_nifti(paths[0], root=root)
    if all(getattr(named(path.name), "phase", -1) < 0 for path in paths):
        raise RecordRefused("ambiguous_files")
    return read_phase_files(list(paths), root=root)


def _with_masks(
    cines: Sequence[Path], masks: Sequence[Path], root: Path, facts: Facts
) -> SourceCmr:
    cine = cines[0] if cines else None
    return read_masked(cine, masks, labels=labels_of, root=root, facts=facts)


def labels_of(stack: MaskStack) -> MaskLabels:
    """Return which label is the left ventricle: the one that the myocardium, 2, surrounds.

    Raises:
        RecordRefused: `mask_labels` where neither 1 nor 3 is, or there are other labels.
    """
    masks = stack.masks
    if masks.max() > 3:
        raise RecordRefused("mask_labels", "labels above 3")
    counts = np.zeros(4, dtype=np.int64)
    for wall, labels in zip((masks == 2).reshape(-1, *masks.shape[2:]),
                            masks.reshape(-1, *masks.shape[2:]), strict=True):  # fmt: skip
        if wall.any():
            inside = ndimage.binary_fill_holes(wall) & ~wall
            counts += np.bincount(labels[inside], minlength=4)
    for lv, rv in ((1, 3), (3, 1)):
        if counts[lv] > _INSIDE * counts.sum() > 0:
            return MaskLabels(lv=lv, myo=2, rv=rv)
    raise RecordRefused("mask_labels")
